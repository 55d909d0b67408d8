-- Queues a waiting process. KEYS: lock, waiters. ARGV: its channel.
-- Returns {1, its place}, or {0, its place} if the lock is free. A process that lets others have a
-- free lock first waits for their release.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
enqueue(KEYS[2], ARGV[1], now, KEYS[1])
return {redis.call('EXISTS', KEYS[1]), string.format('%.0f', now)}
