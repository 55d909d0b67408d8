-- Removes a process from the queue. KEYS: lock, waiters. ARGV: its channel, "1" on a cluster.
-- If the process is not queued, it was woken. It will not use the wake-up, so the next one is
-- woken.
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  wake(KEYS[2], KEYS[1], ARGV[2])
end
return 1
