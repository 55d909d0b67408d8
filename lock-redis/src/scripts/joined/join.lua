-- Tries to acquire a shared lock or a permit. KEYS: lock, token, records, gone, mark.
-- ARGV: id, ttl in ms, stamp of this request, end of the record, mode, owner, "1" if it waits.
-- A waiting process adds to KEYS: waiters; to ARGV: its wake-up channel, its place in the queue or
-- "", "1" if it stops waiting once granted, and "1" on a cluster.
-- Returns {5, token, records of crashed holders …}; or {2, record}, {3}, {8, mode of the holders};
-- {9} if only a script that knows the queue of fair requests can tell;
-- or as a refusal {0, …}, {6, …}, {7, mode, owner, remaining ms} of the request that waits.
local lock, token, records = KEYS[1], KEYS[2], KEYS[3]
local id, ttl, stamp, mode = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local now = micros()
local found = redis.call('MGET', token, KEYS[4], KEYS[5], lock)
local kept, at, mark, held = found[1], found[2], found[3], found[4]
local present, kind = mode_of(lock)
local here = present and living(lock, now)
-- The key may outlive the last part for less than 1 ms.
local stale = here == 0
if stale then present = nil end
local free = stale or kind == 'none'
local known = present and redis.call('HMGET', records, id, 'released') or {}

local before = present and part_of(lock, id, now)
if before then
  -- An earlier attempt with this id succeeded, and its reply was lost. The new stamp makes a
  -- release that was sent before this attempt, to roll the earlier one back, ineffective.
  local record = known[1] or ''
  renew_part(lock, id, before, end_of(now, ttl))
  if record ~= '' and string.sub(record, 34, 49) < stamp then
    record = id .. ' ' .. stamp .. string.sub(record, 50)
    redis.call('HSET', records, id, record)
  end
  return {2, record}
end

local previous, crashed, released, released_at = last_of(kept)
local function released_later(who, when)
  if who == id and (not at or at < when) then at = when end
end
released_later(released, released_at)
if known[2] then released_later(string.sub(known[2], 1, 32), string.sub(known[2], 34, 49)) end
-- This request arrived after the release of its id, so it must not leave a lock.
if at and at > stamp then return {3} end
if TURN == nil and is_queued(kept) then return {9} end

local waiting, waiter = string.match(mark or '', '^%x+ ([sxp]%d*) (.*)$')
local places = tonumber(string.match(present or mode, '^p(%d+)$'))
local ahead = TURN or 0
local refused
if waiting and waiting ~= mode then
  refused = true
elseif present == mode then
  refused = TURN == false or places and here + ahead >= places
elseif present and places and string.sub(mode, 1, 1) == 'p' then
  return {8, present}
else
  refused = TURN == false or not free or places and ahead >= places
end

if refused then
  local other = present and present ~= mode or held
  -- Behind a queue of fair requests the mark would make this request the first.
  local may_mark = ARGV[7] == '1' and (not FIRST or mark and string.sub(mark, 1, 32) == id)
  if may_mark and other then set_mark(KEYS[5], waiting and mark, id, mode, ARGV[6], ttl) end
  -- The release woke this process, but the lock is kept for another one. That one may sleep.
  if KEYS[6] and free and not FIRST then wake(KEYS[6], lock, ARGV[11]) end
  if KEYS[6] then enqueue(KEYS[6], ARGV[8], ARGV[9] ~= '' and ARGV[9] or now, lock) end
  if free and waiting then return {7, waiting, string.sub(waiter, 1, 1024), redis.call('PTTL', KEYS[5])} end
  if present then return holders(lock, records, present, now) end
  return holder(lock, held)
end

local reply = {5, text(previous < now and now or previous + 1)}
local record = id .. ' ' .. stamp .. ' ' .. reply[2] .. ' ' .. text(now) .. ' ' .. ARGV[4]
local ended = {}
-- Before anything has changed.
if not kept then require_string(token) end
if free then redis.call('HMGET', records, id) end
if stale then redis.call('DEL', lock) end
if free then
  reply[3] = crashed
else
  ended = redis.call('ZRANGEBYSCORE', lock, '(-inf', text(now), 'LIMIT', 0, SWEPT)
end
add_part(lock, mode, id, end_of(now, ttl), ttl, free)
-- Left behind by holders that have all crashed.
if free then redis.call('DEL', records) end
for _, member in ipairs(ended) do
  local part = #member == 32 and redis.call('HGET', records, member)
  if part and #reply < 2 + NAMED then reply[#reply + 1] = part end
  if member ~= id then
    redis.call('ZREM', lock, member)
    redis.call('HDEL', records, string.sub(member, -32))
  end
end
redis.call('HSET', records, id, record)
redis.call('PEXPIRE', records, TOKEN_IDLE)
if not free then expire(lock) end
redis.call('SET', token, reply[2] .. ' H' .. record, 'PX', TOKEN_IDLE)
if mark and string.sub(mark, 1, 32) == id then redis.call('DEL', KEYS[5]) end
if KEYS[6] then
  -- pcall, because the lock is granted even if the user lacks the right to run ZREM.
  if ARGV[10] == '1' then redis.pcall('ZREM', KEYS[6], ARGV[8]) end
  -- The release woke this process only, and the next one may be able to join.
  if not places or living(lock, now) < places then wake(KEYS[6], lock, ARGV[11]) end
end
return reply
