-- Breaks the part of the holder whose id is ARGV[1].
-- KEYS: lock, token, records, trace for the holder, waiters.
-- ARGV: id, name of the breaker, "1" on a cluster.
local lock, records, id = KEYS[1], KEYS[3], ARGV[1]
local now = micros()
local mode = mode_of(lock)
if not mode or not part_of(lock, id, now) then return state(lock, records, mode) end
-- The mark is later than the stamp of the acquire, so that a late duplicate of it is refused.
local record = redis.call('HGET', records, id)
local stamp = text((tonumber(string.sub(record or '', 34, 49)) or 0) + 1)
local free = end_part(lock, KEYS[2], records, id, stamp, nil, now)
redis.call('SET', KEYS[4], ARGV[2], 'PX', BROKEN_FOR)
wake_after(KEYS[5], lock, mode, free, ARGV[3])
return {1}
