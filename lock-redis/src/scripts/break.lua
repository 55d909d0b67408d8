-- Takes the lock from the holder whose id is ARGV[1]. KEYS: lock, token, trace for the holder, waiters, then the
-- signal list of python-redis-lock if that is spoken.
-- ARGV: id, who breaks, "1" on a cluster.

-- How long a holder whose lock was broken can find out by whom, in ms: an hour.
local BROKEN_FOR = 3600000

local held = redis.call('MGET', KEYS[1])[1]
if not held or string.sub(held, 1, 33) ~= ARGV[1] .. ' ' then
  return holder(KEYS[1], held)
end
local stamp, token = string.match(held, '^%x+ (%d+) (%d+) ')
-- First, because a server that is full runs this, and then the rest of a script that has begun to write.
redis.call('DEL', KEYS[1])
-- Marked as released after the request that acquired it: should that come again, late, it is refused.
local mark = string.format('%.0f', (stamp or 0) + 1)
redis.call('SET', KEYS[2], (token or '0') .. ' R' .. ARGV[1] .. ' ' .. mark, 'PX', TOKEN_IDLE)
redis.call('SET', KEYS[3], ARGV[2], 'PX', BROKEN_FOR)
if KEYS[5] then signal(KEYS[5]) end
wake(KEYS[4], KEYS[1], ARGV[3])
return {1}
