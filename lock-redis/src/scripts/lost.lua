-- Returns why a lease was lost. KEYS: lock, token, trace of a break. The reply is
-- {record or false, remaining ms, type or false, time or false, token record or false, breaker or
-- false}.
local now = holder(KEYS[1], redis.call('MGET', KEYS[1])[1])
local rest = redis.call('MGET', KEYS[2], KEYS[3])
return {now[2], now[3], now[4], now[5], rest[1], rest[2]}
