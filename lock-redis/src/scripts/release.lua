-- Releases the lock if this id holds it.
-- KEYS: lock, token, gone, waiters; with python-redis-lock also its signal list. Or only lock and
-- token, which is not enough for an id that does not hold the lock.
-- ARGV: id, stamp of this request; optionally ms to keep the lock refused, "1" on a cluster, and
-- "1" if an acquire of this id got no reply.
-- Returns 1; 4 if this id has released before; or {0, ...}.

local found = redis.call('MGET', KEYS[1], KEYS[2])
local held, kept = found[1], found[2]
local id = ARGV[1]
if not held or string.find(held, id, 1, true) ~= 1 then
  -- Its acquire may still arrive from an abandoned connection: acquire.lua checks the mark of the
  -- latest release.
  local gap = kept and string.find(kept, ' ', 1, true) or 0
  if kept and string.sub(kept, gap + 1, gap + 34) == 'R' .. id .. ' ' then
    -- This id has released before. The caller knows whether the reply to that release was lost.
    if string.sub(kept, gap + 35, gap + 50) < ARGV[2] then
      -- PEXPIRE comes first: a full server runs it, and then the rest of a script that has written.
      redis.call('PEXPIRE', KEYS[2], TOKEN_IDLE)
      redis.call('SETRANGE', KEYS[2], gap + 34, ARGV[2])
    end
    return 4
  end
  if not KEYS[3] then return redis.error_reply('TRYAGAIN the slot of this lock is being moved') end
  local marked = redis.call('MGET', KEYS[3])[1]
  if not marked or marked < ARGV[2] then redis.call('SET', KEYS[3], ARGV[2], 'PX', RELEASE_MARK_KEPT_MS) end
  return holder(KEYS[1], held)
end

if string.sub(held, 34, 49) > ARGV[2] then
  -- This release was sent to roll back an attempt whose retry, with the same id, has been granted.
  return holder(KEYS[1], held)
end
-- DEL comes first: a full server runs it, and then the rest of a script that has written.
redis.call('DEL', KEYS[1])
-- Ends in a space, because it overwrites part of the old value.
local mark = ' R' .. id .. ' ' .. ARGV[2] .. ' '
local gap = kept and string.find(kept, ' H' .. id, 1, true)
if gap then
  redis.call('SETRANGE', KEYS[2], gap == 17 and '16' or gap - 1, mark)
else
  redis.call('SET', KEYS[2], (string.match(held, '^%d+', 51) or '') .. mark, 'PX', TOKEN_IDLE)
end
-- The next holder overwrites the mark in the token's key.
if ARGV[5] == '1' and KEYS[3] then redis.call('SET', KEYS[3], ARGV[2], 'PX', RELEASE_MARK_KEPT_MS) end
if ARGV[3] and ARGV[3] ~= '0' then redis.call('SET', KEYS[1], RELEASED .. held, 'PX', ARGV[3]) end
if KEYS[5] then signal(KEYS[5]) end
if KEYS[4] then wake(KEYS[4], KEYS[1], ARGV[4]) end
return 1
