-- Renews many leases. For lease i, KEYS: lock, token, trace of a break; ARGV: id, ttl in ms.
-- Answers for each: 1, or {record or false, remaining ms, type or false, token record or false, who broke it or false}.
local answers = {}
for i = 1, #KEYS / 3 do
  local lock, token, broken = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local id, ttl = ARGV[2 * i - 1], ARGV[2 * i]
  -- MGET, because GET fails at a key of another type, and one such lease must not spoil the others.
  local held = redis.call('MGET', lock)[1]
  if held and string.sub(held, 1, 32) == id then
    redis.call('PEXPIRE', lock, ttl)
    answers[i] = 1
  else
    local now = holder(lock, held)
    local rest = redis.call('MGET', token, broken)
    answers[i] = {now[2], now[3], now[4], rest[1], rest[2]}
  end
end
return answers
