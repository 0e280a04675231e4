-- Says that this replica lives, and counts those that do.
--
-- KEYS[1]   sorted set: replica -> when it last said so, milliseconds of this server's clock
-- ARGV[1]   this replica's name
-- ARGV[2]   milliseconds after which a silent replica no longer counts
--
-- Returns the number of living replicas, this one included. Atomic, so that no reader sees a set half cleared.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], 10 * ARGV[2])
return redis.call('ZCARD', KEYS[1])
