-- Renews many leases. For lease i, KEYS: lock; ARGV: id, ttl in ms.
-- Returns for each 1, or 0 if it was lost.
local answers = {}
for i, lock in ipairs(KEYS) do
  local id, ttl = ARGV[2 * i - 1], ARGV[2 * i]
  -- MGET, because GET fails for a key of another type, and one such key must not affect other
  -- leases.
  local held = redis.call('MGET', lock)[1]
  if held and string.sub(held, 1, 32) == id then
    redis.call('PEXPIRE', lock, ttl)
    answers[i] = 1
  else
    answers[i] = 0
  end
end
return answers
