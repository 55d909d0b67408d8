-- Releases the part of one of several holders, and ends the wait of this id.
-- KEYS: lock, token, records, gone, waiters, mark. Or the first three, which is not enough for an
-- id that does not hold the lock; or all but the mark, to leave it.
-- ARGV: id, stamp of this request, ms to keep the part refused, "1" on a cluster, "1" if an acquire
-- of this id got no reply.
-- Returns 1; 4 if this id has released before; or a refusal.
local lock, token, records = KEYS[1], KEYS[2], KEYS[3]
local id, stamp, hold_for, cluster = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = micros()
local mode = mode_of(lock)
local waited = KEYS[6] and unmark(KEYS[6], id)

local function mark_gone()
  local marked = redis.call('MGET', KEYS[4])[1]
  if marked and marked >= stamp then return end
  redis.call('SET', KEYS[4], stamp, 'PX', RELEASE_MARK_KEPT_MS)
end

if not mode or not part_of(lock, id, now) then
  -- Its acquire may still arrive from an abandoned connection.
  if not KEYS[4] then return redis.error_reply('TRYAGAIN the slot of this lock is being moved') end
  -- PEXPIRE comes first: a full server runs it, and then the rest of a script that has written. Not
  -- for the token, because its key may be another client's.
  redis.call('PEXPIRE', KEYS[4], RELEASE_MARK_KEPT_MS)
  mark_gone()
  if waited then wake(KEYS[5], lock, cluster) end
  local _, _, released = last_of(redis.call('MGET', token)[1])
  local last = mode and redis.call('HGET', records, 'released')
  if released == id or last and string.sub(last, 1, 32) == id then return 4 end
  return state(lock, records, mode)
end

local record = redis.call('HGET', records, id)
if record and string.sub(record, 34, 49) > stamp then
  -- This release was sent to roll back an attempt whose retry, with the same id, has been granted.
  return state(lock, records, mode)
end
local kept_until = hold_for > 0 and end_of(now, hold_for) or nil
local free = end_part(lock, token, records, id, stamp, kept_until, now)
if ARGV[5] == '1' and KEYS[4] then mark_gone() end
if KEYS[5] then wake_after(KEYS[5], lock, mode, free, cluster) end
return 1
