-- Says how many of some bounded places one holder needs, and reserves them where there are as many left.
--
-- KEYS      hashes, one a bound: holder -> "sequence places expires"
-- ARGV[1]   now in microseconds, for tests; 0: this server's own clock
-- ARGV[2]   holder, and ARGV[3] the number of its word: greater than those before
-- ARGV[4]   microseconds after which what a silent holder has is free again
-- ARGV[5..] for each key four numbers: ceiling; places in use, which are this holder's whatever others have; places
--           needed now, and places wanted ahead, those in use included. Of what is left nobody gets more than a quarter
--           ahead: when places get few, they are there for whoever needs them. What a holder has it keeps as far as
--           it is wanted: it may use it while it asks.
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
  local ceiling, used = tonumber(ARGV[1 + 4 * i]), tonumber(ARGV[2 + 4 * i])
  local needed, wanted = tonumber(ARGV[3 + 4 * i]), tonumber(ARGV[4 + 4 * i])
  local others, had, is_newer = 0, 0, true
  local stored = redis.call('HGETALL', key)
  for j = 1, #stored, 2 do
    local said, places, expires = string.match(stored[j + 1], '^(%d+) (%d+) (%d+)$')
    if not said or tonumber(expires) <= now then
      redis.call('HDEL', key, stored[j])
    elseif stored[j] == me then
      had, is_newer = tonumber(places), tonumber(said) < sequence
    else
      others = others + tonumber(places)
      if tonumber(expires) > now + ttl then -- written before the clock was set back
        redis.call('HSET', key, stored[j], string.format('%s %s %.0f', said, places, now + ttl))
      end
    end
  end
  if is_newer then
    local free = ceiling - others
    local ahead = needed + math.max(0, math.floor((free - needed) / 4))
    reply[i] = math.max(used, math.min(wanted, free, math.max(had, ahead)))
    redis.call('HSET', key, me, string.format('%.0f %.0f %.0f', sequence, reply[i], now + ttl))
    redis.call('PEXPIRE', key, math.ceil(ttl / 1000))
  else
    reply[i] = -1
  end
end
return reply
