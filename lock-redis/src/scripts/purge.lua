-- Removes the keys of a free lock that no client will use again.
-- KEYS: lock, token, waiters, records, mark, places. Marks of released ids expire by themselves.
for _, key in ipairs({KEYS[1], KEYS[5], KEYS[6]}) do
  if redis.call('EXISTS', key) == 1 then return 0 end
end
-- The last holder did not release, and the next holder must be told.
if string.find(redis.call('MGET', KEYS[2])[1] or '', '^%d+ [HF]') then return 0 end
-- A key of another type is another client's.
for i, kind in ipairs({'string', 'zset', 'hash'}) do
  if redis.call('TYPE', KEYS[i + 1]).ok == kind then redis.call('DEL', KEYS[i + 1]) end
end
return 1
