-- A pending result is still being worked on. Keys and first steps: forget_ended.lua.
--
-- ARGV[1]   name
-- ARGV[2]   milliseconds until it ends when nobody renews it again
--
-- Returns 1 when it is pending, else 0.

local facts = facts_of(ARGV[1])
if not facts or facts:sub(1, 2) ~= 'p:' then
  return 0
end
redis.call('ZADD', ENDS, whole(now + ARGV[2]), ARGV[1])
linger()
return 1
