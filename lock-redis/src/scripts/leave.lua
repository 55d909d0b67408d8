-- A process stops waiting. KEYS: lock, waiters. ARGV: its channel, "1" on a cluster.
-- When it is not queued it has been woken; as it will not use that, the next one is.
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  wake(KEYS[2], KEYS[1], ARGV[2])
end
return 1
