-- What each script of this folder begins with: this server's time, and what has ended of one tenant is forgotten.
--
-- KEYS[1]   sorted set: name -> when it ends, milliseconds of this server's clock
-- KEYS[2]   hash: name -> facts; of a pending result p:<milliseconds to keep it>:<most bytes of the tenant>:<flow>,
--           of one that is done d:<bytes>:<flow>
-- KEYS[3]   hash: name -> sealed value
-- KEYS[4]   hash: pending:<flow> and results:<flow> -> how many the flow has, pending and in all; bytes:<flow> and
--           bytes -> of what is done, of the flow and of the tenant; now -> when last written
--
-- All four are of one slot, and nothing else is touched. Atomic, so that of many who ask at once no more get a place
-- than there are, and what ends gives back its place once.

local ENDS, FACTS, VALUES, COUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local FORGOTTEN_AT_ONCE, LINGER = 1000, 60000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number)
  return string.format('%.0f', number)
end

local function count(field)
  return tonumber(redis.call('HGET', COUNTS, field)) or 0
end

local function give_back(field, amount)
  if redis.call('HINCRBY', COUNTS, field, '-' .. amount) <= 0 then
    redis.call('HDEL', COUNTS, field)
  end
end

-- Deletes first: a server without memory refuses what may need some, but not any more once a script has written.
local function forget(name)
  local facts = redis.call('HGET', FACTS, name) or ''
  local flow = facts:match('^[pd]:[%d:]+:(%x+)$')
  local size = flow and facts:match('^d:(%d+):')
  redis.call('ZREM', ENDS, name)
  redis.call('HDEL', FACTS, name)
  redis.call('HDEL', VALUES, name)
  if size then
    give_back('bytes', size)
    give_back('bytes:' .. flow, size)
  elseif flow then
    give_back('pending:' .. flow, '1')
  end
  if flow then
    give_back('results:' .. flow, '1')
  end
end

-- The facts of what has not ended, or nothing.
local function facts_of(name)
  local ends = tonumber(redis.call('ZSCORE', ENDS, name))
  return ends and ends > now and redis.call('HGET', FACTS, name)
end

-- Ends each script that adds something. All keys outlive the last that ends, and no longer: a tenant that asks no more
-- leaves nothing behind.
local function linger()
  redis.call('HSET', COUNTS, 'now', whole(now))
  local last = redis.call('ZRANGE', ENDS, -1, -1, 'WITHSCORES')
  for _, key in ipairs(last[2] and KEYS or {}) do
    redis.call('PEXPIRE', key, whole(math.max(last[2] - now, 0) + LINGER))
  end
end

-- A clock that was set back since the last writing would keep everything for longer by that: all ends come nearer.
local before = count('now')
if now < before then
  local every = redis.call('ZRANGE', ENDS, 0, -1, 'WITHSCORES')
  for i = 1, #every, 2 do
    redis.call('ZADD', ENDS, whole(every[i + 1] - (before - now)), every[i])
  end
  redis.call('HSET', COUNTS, 'now', whole(now))
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, FORGOTTEN_AT_ONCE)) do
  forget(name)
end
if redis.call('ZCARD', ENDS) == 0 then
  redis.call('DEL', FACTS, VALUES, COUNTS)
end
