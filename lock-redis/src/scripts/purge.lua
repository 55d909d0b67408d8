-- Removes the keys of a free lock that no client will use again. KEYS: lock, token, waiters.
-- Marks of released ids expire by themselves.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
-- The last holder did not release, and the next holder must be told.
if string.find(redis.call('MGET', KEYS[2])[1] or '', '^%d+ H') then return 0 end
redis.call('DEL', KEYS[2])
redis.call('DEL', KEYS[3])
return 1
