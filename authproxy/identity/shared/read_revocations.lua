-- Reads what was revoked since a sequence number.
--
-- KEYS[1]   sorted set: mark -> sequence number
-- KEYS[2]   hash: epoch; sequence (of the newest mark)
-- ARGV[1]   sequence number after which to read
-- ARGV[2]   most marks at once
--
-- Returns { epoch, newest sequence, { mark, sequence, mark, sequence, ... } }; epoch is '' and the sequence '0' where
-- nothing was ever revoked. Both keys are of one slot. Atomic, so that the marks are those up to the newest sequence.

local state = redis.call('HMGET', KEYS[2], 'epoch', 'sequence')
local marks = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
return { state[1] or '', state[2] or '0', marks }
