-- Removes what is kept of a name that nobody holds and nobody will use again. KEYS: lock, token, waiters. Marks of released ids end by themselves.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
-- Its last holder went without releasing, of which the next one is to be told.
if string.find(redis.call('MGET', KEYS[2])[1] or '', '^%d+ H') then return 0 end
redis.call('DEL', KEYS[2])
redis.call('DEL', KEYS[3])
return 1
