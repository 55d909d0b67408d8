-- Returns the holder of the lock. KEYS: lock.
return holder(KEYS[1], redis.call('MGET', KEYS[1])[1])
