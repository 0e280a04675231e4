-- Writes a value unless one as new or newer is there.
--
-- KEYS[1]   the value: 15 decimal digits (its version, 0 of one that has none), then the bytes
-- ARGV[1]   version, 15 decimal digits: below 2^53, so a Lua number has it exactly
-- ARGV[2]   the bytes
-- ARGV[3]   milliseconds to live
--
-- Returns 1 when it was written, else 0. Atomic, because between a look and a write another replica writes.

local there = redis.call('GETRANGE', KEYS[1], 0, 14)
local version = tonumber(there)
if version and version >= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
return 1
