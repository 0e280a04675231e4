-- Keeps a lease, or gives it up.
--
-- KEYS[1]   hash: holder; until (milliseconds of this server's clock); fence
-- ARGV[1]   holder
-- ARGV[2]   milliseconds the lease lasts from now; 0 gives it up
--
-- Returns 1 when it was still this holder's, else 0. The number (fence) stays. Atomic: what ended meanwhile, and may be
-- another's, is not taken back.

local KEPT = 600000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('HMGET', KEYS[1], 'holder', 'until')
if lease[1] ~= ARGV[1] or (tonumber(lease[2]) or 0) <= now then
  return 0
end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2] + KEPT)
return 1
