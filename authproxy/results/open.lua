-- A new pending result. Keys and first steps: forget_ended.lua.
--
-- ARGV[1]   name
-- ARGV[2]   flow, hexadecimal
-- ARGV[3]   most pending results of the flow
-- ARGV[4]   most results of the tenant
-- ARGV[5]   milliseconds until it ends when nobody renews it
-- ARGV[6]   facts
-- ARGV[7]   sealed value
--
-- Returns 1 when it has a place, else 0: no flow takes more than half of what the others leave of the tenant's places.

local mine = count('results:' .. ARGV[2])
local others = redis.call('ZCARD', ENDS) - mine
if count('pending:' .. ARGV[2]) >= tonumber(ARGV[3]) or 2 * mine >= ARGV[4] - others then
  return 0
end
redis.call('HINCRBY', COUNTS, 'pending:' .. ARGV[2], 1)
redis.call('HINCRBY', COUNTS, 'results:' .. ARGV[2], 1)
redis.call('ZADD', ENDS, whole(now + ARGV[5]), ARGV[1])
redis.call('HSET', FACTS, ARGV[1], ARGV[6])
redis.call('HSET', VALUES, ARGV[1], ARGV[7])
linger()
return 1
