-- Releases the lock if this id holds it.
-- KEYS: lock, token, gone, waiters; with python-redis-lock also its signal list. Or only lock and
-- token, which is not enough for an id that does not hold the lock.
-- ARGV: id, stamp of this request; optionally ms to keep the lock refused, "1" on a cluster, and
-- "1" if an acquire of this id got no reply.
-- Returns 1; 4 if this id has released before; or {0, ...}.
-- As in acquire.lua, globals are named once, and common.lua comes after what runs most often.

local KEYS, ARGV, call, sub = KEYS, ARGV, redis.call, string.sub
local found = call('MGET', KEYS[1], KEYS[2])
local held, kept = found[1], found[2]
local id, stamp = ARGV[1], ARGV[2]
local is_holder = held and string.find(held, id, 1, true) == 1
-- An older stamp is that of a release which was sent to roll back an attempt, whose retry with the
-- same id has been granted.
local ends = is_holder and sub(held, 34, 49) <= stamp
local popped
if ends then
  -- DEL comes first: a full server runs it, and then the rest of a script that has written.
  call('DEL', KEYS[1])
  -- Ends in a space, because it overwrites part of the old value.
  local mark = ' R' .. id .. ' ' .. stamp .. ' '
  local gap = kept and string.find(kept, ' H' .. id, 1, true)
  if gap then
    call('SETRANGE', KEYS[2], gap == 17 and '16' or gap - 1, mark)
  else
    -- Fair requests still wait.
    if string.find(kept or '', '^%d* [FQ]') then mark = ' Q' .. sub(mark, 3) end
    call('SET', KEYS[2], (string.match(held, '^%d+', 51) or '') .. mark, 'PX', TOKEN_IDLE)
  end
  -- The next holder overwrites the mark in the token's key.
  if ARGV[5] == '1' and KEYS[3] then call('SET', KEYS[3], stamp, 'PX', RELEASE_MARK_KEPT_MS) end
  if ARGV[3] and ARGV[3] ~= '0' then call('SET', KEYS[1], RELEASED .. held, 'PX', ARGV[3]) end
  -- pcall, because a user without the right to publish must still be able to release.
  popped = KEYS[4] and redis.pcall('ZPOPMIN', KEYS[4])
  local waits = popped and popped[1]
  if not waits and not KEYS[5] then return 1 end
end

