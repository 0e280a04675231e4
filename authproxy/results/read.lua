-- What is kept under a name. Keys and first steps: forget_ended.lua.
--
-- ARGV[1]   name
--
-- Returns the sealed value, or nothing.

return facts_of(ARGV[1]) and redis.call('HGET', VALUES, ARGV[1])
