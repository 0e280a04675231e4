-- Says how things stand with one holder of a function's slots, and gives what is free to those who want it, in turn.
--
-- KEYS[1]   hash, one function's: holder -> "sequence granted wanted capacity scarce expires"; '' -> "version turn"
-- KEYS[2]   string: since when this server is known, its own microseconds, and which it is (run_id)
-- ARGV[1]   now in microseconds, for tests; 0: this server's own clock (Porteros need not agree on the time)
-- ARGV[2]   holder, and ARGV[3] the number of its word: greater than those before
-- ARGV[4]   slots in use, which it keeps; it uses no other until it has read the reply
-- ARGV[5]   slots wanted in all, those in use included; at least ARGV[4]
-- ARGV[6]   capacity of the function as this holder knows it; 0: it does not know
-- ARGV[7]   microseconds after which a silent holder has none any more
-- ARGV[8]   microseconds for which a server gives nothing that has forgotten everything, or that another was before it
--           (it came back with what was saved, or is a replica that took over): until all have said what they use
-- ARGV[9]   channel that a holder listens to is ARGV[9] .. holder
-- ARGV[10]  function, as the holders call it
--
-- Returns { version, granted, scarce } of this holder, or nothing when it has said something newer already. Others hear
-- "version granted scarce function" when they were given something, or when slots became scarce. Scarce (1 or 0): what is
-- given back is wanted by others, or more is in use than there is. Versions grow, also over a loss of all data.
--
-- Atomic: of two that ask at once each sees what the other got. Idempotent: words are absolute, so one that was carried
-- out though nobody heard the reply is put right by the next.

local now = tonumber(ARGV[1])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local me, ttl = ARGV[2], tonumber(ARGV[7])

local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or '0' -- who may not ask does not know
local began, known = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) ?(%x*)$')
local since = tonumber(began)
if not since or since > now or (known ~= '' and known ~= server) then
  since = now
end
if tonumber(began) ~= since or known ~= server then
  redis.call('SET', KEYS[2], string.format('%.0f %s', since, server))
end

local holders, names = {}, {}
local version, turn = 0, ''
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do
  local name, row = stored[i], stored[i + 1]
  if name == '' then
    local number, last = string.match(row, '^(%d+) (%S*)$')
    version, turn = tonumber(number) or 0, last or ''
  else
    local sequence, granted, wanted, capacity, scarce, expires =
      string.match(row, '^(%d+) (%d+) (%d+) (%d+) (%d) (%d+)$')
    if sequence and tonumber(expires) > now then
      -- An end further away than any was written before the clock was set back.
      holders[name] = { sequence = tonumber(sequence), granted = tonumber(granted), wanted = tonumber(wanted),
        capacity = tonumber(capacity), scarce = tonumber(scarce), expires = math.min(tonumber(expires), now + ttl) }
      names[#names + 1] = name
    else
      redis.call('HDEL', KEYS[1], name)
    end
  end
end

local mine = holders[me]
if mine and mine.sequence >= tonumber(ARGV[3]) then
  return false
end
if not mine then
  mine = { scarce = 0 }
  holders[me] = mine
  names[#names + 1] = me
end
mine.sequence, mine.granted, mine.wanted = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
mine.capacity, mine.expires, mine.is_changed = tonumber(ARGV[6]), now + ttl, true
table.sort(names)

-- The least that anybody who takes part knows: one who has not heard yet that a replica is gone believes in too many.
local capacity, used
for _, name in ipairs(names) do
  local holder = holders[name]
  used = (used or 0) + holder.granted
  if holder.capacity > 0 and holder.wanted > 0 then
    capacity = math.min(capacity or holder.capacity, holder.capacity)
  end
end
capacity = capacity or 0
local free = math.max(0, capacity - used)
if now - since < tonumber(ARGV[8]) then
  free = 0
end

-- In turn, beginning after the last that was given one; several at once while there is enough for all.
local first = 1
for i, name in ipairs(names) do
  if name <= turn then
    first = i + 1
  end
end
while free > 0 do
  local wanting = {}
  for i = 0, #names - 1 do
    local name = names[(first - 1 + i) % #names + 1]
    if holders[name].wanted > holders[name].granted then
      wanting[#wanting + 1] = name
    end
  end
  if #wanting == 0 then
    break
  end
  local each = math.max(1, math.floor(free / #wanting))
  for _, name in ipairs(wanting) do
    local holder = holders[name]
    local given = math.min(each, holder.wanted - holder.granted, free)
    if given > 0 then
      holder.granted, holder.is_changed, holder.is_told = holder.granted + given, true, true
      free, turn = free - given, name
    end
  end
end

local unmet, total = 0, 0
for _, name in ipairs(names) do
  total = total + holders[name].granted
  if holders[name].wanted > holders[name].granted then
    unmet = unmet + 1
  end
end
version = math.max(version + 1, now)
local written = { '', string.format('%.0f %s', version, turn) }
for _, name in ipairs(names) do
  local holder = holders[name]
  local others = unmet - (holder.wanted > holder.granted and 1 or 0)
  local scarce = (others > 0 or total > capacity) and 1 or 0
  if scarce ~= holder.scarce then
    holder.is_told = holder.is_told or (scarce == 1 and holder.granted > 0)
    holder.scarce, holder.is_changed = scarce, true
  end
  if holder.is_changed then
    written[#written + 1] = name
    written[#written + 1] = string.format('%.0f %.0f %.0f %.0f %d %.0f', holder.sequence, holder.granted,
      holder.wanted, holder.capacity, holder.scarce, holder.expires)
  end
  if holder.is_told and name ~= me then
    redis.call('PUBLISH', ARGV[9] .. name,
      string.format('%.0f %.0f %d %s', version, holder.granted, holder.scarce, ARGV[10]))
  end
end
redis.call('HSET', KEYS[1], unpack(written))
redis.call('PEXPIRE', KEYS[1], math.ceil(2 * ttl / 1000))
return { version, mine.granted, mine.scarce }
