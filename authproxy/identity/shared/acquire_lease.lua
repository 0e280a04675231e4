-- Takes a lease.
--
-- KEYS[1]   hash: holder; until (milliseconds of this server's clock); fence (the number of the lease)
-- ARGV[1]   holder
-- ARGV[2]   milliseconds the lease lasts, at most LONGEST
--
-- Returns the lease's number, or nothing when another holder has it. The number is greater than any of that key before:
-- the record outlives its lease by KEPT, and after that the clock is ahead of all former numbers.
-- Atomic: of two that ask at once one gets it.

local LONGEST, KEPT = 60000, 600000
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local lease = redis.call('HMGET', KEYS[1], 'holder', 'until', 'fence')
local ends = tonumber(lease[2]) or 0
-- An end further away than any lease lasts was written before the clock was set back: nobody would get it for long.
if lease[1] and lease[1] ~= ARGV[1] and ends > now and ends <= now + LONGEST then
  return false
end
local fence = string.format('%.0f', math.max(micros, (tonumber(lease[3]) or 0) + 1))
local until_ = string.format('%.0f', now + ARGV[2])
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', until_, 'fence', fence)
redis.call('PEXPIRE', KEYS[1], ARGV[2] + KEPT)
return tonumber(fence)
