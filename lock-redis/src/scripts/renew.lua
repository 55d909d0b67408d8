-- Renews many leases. For lease i, KEYS: lock; ARGV: id, ttl in ms. Answers for each: 1, or 0 if it is not held any more.
local answers = {}
for i, lock in ipairs(KEYS) do
  local id, ttl = ARGV[2 * i - 1], ARGV[2 * i]
  -- MGET, because GET fails at a key of another type, and one such lease must not spoil the others.
  local held = redis.call('MGET', lock)[1]
  if held and string.sub(held, 1, 32) == id then
    redis.call('PEXPIRE', lock, ttl)
    answers[i] = 1
  else
    answers[i] = 0
  end
end
return answers
