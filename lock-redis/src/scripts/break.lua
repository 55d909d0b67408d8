-- Breaks the lock of the holder whose id is ARGV[1].
-- KEYS: lock, token, trace for the holder, waiters; with python-redis-lock also its signal list.
-- ARGV: id, name of the breaker, "1" on a cluster; "1" to leave the trace where the id has no lock,
-- because other servers of the quorum have broken it.

local found = redis.call('MGET', KEYS[1], KEYS[2])
local held, kept = found[1], found[2]
if not held or string.sub(held, 1, 33) ~= ARGV[1] .. ' ' then
  if ARGV[4] == '1' then redis.call('SET', KEYS[3], ARGV[2], 'PX', BROKEN_FOR) end
  return holder(KEYS[1], held)
end
local stamp, token = string.match(held, '^%x+ (%d+) (%d+) ')
-- DEL comes first: a full server runs it, and then the rest of a script that has written.
redis.call('DEL', KEYS[1])
-- The mark is later than the stamp of the acquire, so that a late duplicate of it is refused.
local mark = string.format('%.0f', (stamp or 0) + 1)
local last = (token or '0') .. (is_queued(kept) and ' Q' or ' R') .. ARGV[1] .. ' ' .. mark
redis.call('SET', KEYS[2], last, 'PX', TOKEN_IDLE, kept and 'XX' or 'NX')
redis.call('SET', KEYS[3], ARGV[2], 'PX', BROKEN_FOR)
if KEYS[5] then signal(KEYS[5]) end
wake(KEYS[4], KEYS[1], ARGV[3])
return {1}
