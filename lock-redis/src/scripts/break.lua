-- Takes the lock from the holder whose id is ARGV[1]. KEYS: lock, token, trace for the holder, waiters.
-- ARGV: id, who breaks, idle time of the token in ms, life of the trace in ms, "1" on a cluster.
local held = redis.call('MGET', KEYS[1])[1]
if not held or string.sub(held, 1, 33) ~= ARGV[1] .. ' ' then
  return holder(KEYS[1], held)
end
local token = string.match(held, '^%x+ (%d+) ')
-- First, because a server that is full runs this, and then the rest of a script that has begun to write.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], (token or '0') .. ' R' .. ARGV[1] .. ' 0', 'PX', ARGV[3])
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[4])
wake(KEYS[4], KEYS[1], ARGV[5])
return {1}
