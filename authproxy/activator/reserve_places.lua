-- Says how many of some bounded places one holder needs, and reserves them where there are as many left.
--
-- KEYS      hashes, one a bound: holder -> "sequence places expires"
-- ARGV[1]   now in microseconds, for tests; 0: this server's own clock
-- ARGV[2]   holder, and ARGV[3] the number of its word: greater than those before
-- ARGV[4]   microseconds after which what a silent holder has is free again
-- ARGV[5..] for each key three numbers: ceiling; places in use, which are this holder's whatever others have; places
--           wanted, those in use included
--
-- Returns the places that this holder has now, a number a key; -1 where it has said something newer already.
-- All keys are of one slot. Atomic: of two that ask for the last place one gets it.

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local me, sequence, ttl = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local reply = {}
for i, key in ipairs(KEYS) do
  local ceiling, used, wanted = tonumber(ARGV[2 + 3 * i]), tonumber(ARGV[3 + 3 * i]), tonumber(ARGV[4 + 3 * i])
  local others, is_newer = 0, true
  local stored = redis.call('HGETALL', key)
  for j = 1, #stored, 2 do
    local said, places, expires = string.match(stored[j + 1], '^(%d+) (%d+) (%d+)$')
    if not said or tonumber(expires) <= now then
      redis.call('HDEL', key, stored[j])
    elseif stored[j] == me then
      is_newer = tonumber(said) < sequence
    else
      others = others + tonumber(places)
      if tonumber(expires) > now + ttl then -- written before the clock was set back
        redis.call('HSET', key, stored[j], string.format('%s %s %.0f', said, places, now + ttl))
      end
    end
  end
  if is_newer then
    reply[i] = math.max(used, math.min(wanted, ceiling - others))
    redis.call('HSET', key, me, string.format('%.0f %.0f %.0f', sequence, reply[i], now + ttl))
    redis.call('PEXPIRE', key, math.ceil(ttl / 1000))
  else
    reply[i] = -1
  end
end
return reply
