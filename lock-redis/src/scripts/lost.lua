-- Returns why a lease was lost. KEYS: lock, token, trace of a break, records. ARGV: id.
-- Returns {breaker or false, token record or false, 1 if its part of a lock with several holders
-- has expired, the present holder or holders}.
local mode = mode_of(KEYS[1])
local found = redis.call('MGET', KEYS[2], KEYS[3])
local expired = mode and redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
return {found[2], found[1], expired, state(KEYS[1], KEYS[4], mode)}
