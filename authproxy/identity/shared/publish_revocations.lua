-- Adds marks to what was revoked, and tells who listens.
--
-- KEYS[1]   sorted set: mark -> sequence number, in the order in which they were added
-- KEYS[2]   sorted set: mark -> when it ends, Unix seconds
-- KEYS[3]   hash: epoch (random, of this state: a server that was emptied has another); sequence (of the newest mark)
-- ARGV[1]   channel
-- ARGV[2]   epoch to use when there is none
-- ARGV[3]   seconds that a mark is kept after its end
-- ARGV[4]   most marks that are kept
-- ARGV[5..] mark, its end, mark, its end, ...
--
-- Returns the number of marks that were new, or -1 when there is no room for them: then nothing was added.
-- All three keys are of one slot. Atomic: who reads up to a sequence number has every mark below it.
-- Numbers are microseconds of this server's clock where that is ahead: what a failover lost, and others wrote since, never
-- has a number that a reader believes to have seen.

local time = redis.call('TIME')
local ended = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time[1] - ARGV[3], 'LIMIT', 0, 200)
for _, mark in ipairs(ended) do
  redis.call('ZREM', KEYS[1], mark)
  redis.call('ZREM', KEYS[2], mark)
end
if redis.call('ZCARD', KEYS[1]) + (#ARGV - 4) / 2 > tonumber(ARGV[4]) then
  return -1
end

redis.call('HSETNX', KEYS[3], 'epoch', ARGV[2])
local sequence = tonumber(redis.call('HGET', KEYS[3], 'sequence')) or 0
sequence = math.max(sequence, time[1] * 1000000 + time[2])
local added = 0
for i = 5, #ARGV, 2 do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    sequence = sequence + 1
    added = added + 1
    redis.call('ZADD', KEYS[1], string.format('%.0f', sequence), ARGV[i])
    redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
  end
end
if added > 0 then
  redis.call('HSET', KEYS[3], 'sequence', string.format('%.0f', sequence))
  redis.call('PUBLISH', ARGV[1], '')
end
return added
