-- Spends the rate limits of many requests in one step; each request all or nothing, one after the other.
--
-- KEYS      the distinct limits of all requests. Value: theoretical arrival time (TAT), whole microseconds since 1970,
--           as decimal text; a missing key is an idle limit.
-- ARGV[1]   now in microseconds, for tests; 0: this server's own clock (replicas of Portero need not agree on the time).
-- ARGV[2]   MessagePack: { limits, requests }
--             limits    emission and tolerance in microseconds of each key, flat: { e1, t1, e2, t2, ... }
--             requests  flat: { n, index, cost, index, cost, ..., n, ... }: n checks, each the index of its key (from 1)
--                       and how many requests it costs. The indexes of one request are distinct.
--
-- Returns   { now, tat1, tat2, ... }: the time used and each key's TAT *before* the first request (0: idle, -1: the value
--           was no TAT; requests that need it spend nothing). With these the caller repeats the same whole-number arithmetic
--           (policies/gcra.py) and so knows every request's verdict; sending verdicts would only be longer.
--
-- Atomic because Redis runs nothing else meanwhile: without that, two replicas would both spend the last request.
-- Written keys expire one second after they are idle. Numbers are exact: all stay below 2^53.

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local arguments = cmsgpack.unpack(ARGV[2])
local limits, requests = arguments[1], arguments[2]
local stored = redis.call('MGET', unpack(KEYS))

local reply = { now }
local tats = {}
local changed = {}
-- A TAT this much further ahead than its limit allows was written before the clock was set back (or by another server):
-- the limit then counts as just used up, instead of refusing until the clock has caught up.
local CLOCK_STEP = 60000000

for i = 1, #KEYS do
  local tat = 0
  if stored[i] then
    tat = tonumber(stored[i])
    if not tat or tat ~= tat or tat < 0 or tat > 9007199254740992 then
      tat = -1
    elseif tat > now + limits[2 * i] + CLOCK_STEP then
      tat = now + limits[2 * i]
      changed[i] = true
    end
  end
  tats[i] = tat
  reply[i + 1] = tat
end

local at = 1
while at <= #requests do
  local last = at + 2 * requests[at]
  local after = {}
  local is_admitted = true
  for j = at + 1, last, 2 do
    local i = requests[j]
    local tat = tats[i]
    local base = tat > now and tat or now
    local new = base + limits[2 * i - 1] * requests[j + 1]
    if tat == -1 or new - now > limits[2 * i] then
      is_admitted = false
      break
    end
    after[i] = new
  end
  if is_admitted then
    for i, tat in pairs(after) do
      tats[i] = tat
      changed[i] = true
    end
  end
  at = last + 1
end

for i in pairs(changed) do
  local ahead_ms = math.max(0, math.ceil((tats[i] - now) / 1000))
  redis.call('SET', KEYS[i], string.format('%.0f', tats[i]), 'PX', string.format('%.0f', ahead_ms + 1000))
end

return reply
