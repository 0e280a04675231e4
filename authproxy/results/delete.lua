-- Forgets a result, pending or done. Keys and first steps: forget_ended.lua.
--
-- ARGV[1]   name
--
-- Returns 1 when there was one, else 0.

if not facts_of(ARGV[1]) then
  return 0
end
forget(ARGV[1])
return 1
