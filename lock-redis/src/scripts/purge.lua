-- Removes the keys of a free lock that no client will use again.
-- KEYS: lock, token, waiters, records, mark, places. Marks of released ids expire by themselves.
for _, key in ipairs({KEYS[1], KEYS[5], KEYS[6]}) do
  if redis.call('EXISTS', key) == 1 then return 0 end
end
-- The last holder did not release, and the next holder must be told.
if string.find(redis.call('MGET', KEYS[2])[1] or '', '^%d+ [HF]') then return 0 end
for i = 2, 4 do redis.call('DEL', KEYS[i]) end
return 1
