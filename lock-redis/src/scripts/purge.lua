-- Removes the keys of a free lock that no client will use again.
-- KEYS: lock, token, waiters, records, mark. Marks of released ids expire by themselves.
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('EXISTS', KEYS[5]) == 1 then return 0 end
-- The last holder did not release, and the next holder must be told.
if string.find(redis.call('MGET', KEYS[2])[1] or '', '^%d+ H') then return 0 end
for i = 2, 4 do redis.call('DEL', KEYS[i]) end
return 1
