-- A pending result is done. Keys and first steps: forget_ended.lua.
--
-- ARGV[1]   name
-- ARGV[2]   bytes that it counts
-- ARGV[3]   sealed value
-- ARGV[4]   bytes that it counts when there is no room for those
-- ARGV[5]   sealed value then; kept in any case: it is small, and the tenant's results are bounded in number
--
-- Returns 1 when it is kept, 2 when the other is, 0 when it was not pending. There is room for a flow in half of what
-- the others leave of the tenant's bytes.

local keep, most, flow = (facts_of(ARGV[1]) or ''):match('^p:(%d+):(%d+):(%x+)$')
if not keep then
  return 0
end
give_back('pending:' .. flow, '1')
local kept, size, value = 1, ARGV[2], ARGV[3]
local mine = count('bytes:' .. flow)
local others = count('bytes') - mine
if 2 * (mine + size) > most - others then
  kept, size, value = 2, ARGV[4], ARGV[5]
end
redis.call('HINCRBY', COUNTS, 'bytes', size)
redis.call('HINCRBY', COUNTS, 'bytes:' .. flow, size)
redis.call('ZADD', ENDS, whole(now + keep), ARGV[1])
redis.call('HSET', FACTS, ARGV[1], 'd:' .. size .. ':' .. flow)
redis.call('HSET', VALUES, ARGV[1], value)
linger()
return kept
