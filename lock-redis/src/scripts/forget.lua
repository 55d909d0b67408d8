-- Removes what is kept of a name that nobody holds and nobody will use again. KEYS: lock, token, waiters. Marks of released ids end by themselves.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[2])
redis.call('DEL', KEYS[3])
return 1
