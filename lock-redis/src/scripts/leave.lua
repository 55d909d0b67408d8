-- Removes a process from the queue. KEYS: lock, waiters. ARGV: its channel, "1" on a cluster.
-- If the process is not queued, it was woken. It will not use the wake-up, so the next one is
-- woken, also if others hold the lock together and have left a place.
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then
  local kind = redis.call('TYPE', KEYS[1]).ok
  if kind == 'none' or kind == 'zset' then wake(KEYS[2], KEYS[1], ARGV[2]) end
end
return 1
