-- Renews many parts of locks with several holders. For lease i, KEYS: lock; ARGV: id, ttl in ms.
-- Returns for each 1, or 0 if it was lost.
local now = micros()
local answers = {}
for i, lock in ipairs(KEYS) do
  local id, ttl = ARGV[2 * i - 1], ARGV[2 * i]
  answers[i] = 0
  -- No other kind of sorted set has a lease id in it.
  local before = redis.call('TYPE', lock).ok == 'zset' and part_of(lock, id, now)
  if before then
    renew_part(lock, id, before, end_of(now, ttl))
    answers[i] = 1
  end
end
return answers
