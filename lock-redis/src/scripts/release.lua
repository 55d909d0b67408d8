-- Releases by comparison. KEYS: lock, token, gone, waiters, then the signal list of python-redis-lock if that is spoken; or lock and
-- token alone, which does not do for an id that does not hold the lock.
-- ARGV: id, stamp of this request; if asked for, ms to keep the lock refused, "1" on a cluster, "1" if an acquire of this id got no answer.
-- Answers 1; 4 if this id has released before; or {0, ...}.

local found = redis.call('MGET', KEYS[1], KEYS[2])
local held, kept = found[1], found[2]
local id = ARGV[1]
if not held or string.find(held, id, 1, true) ~= 1 then
  -- Its acquire may still be on the way, on a connection that was given up: acquire.lua looks for the mark of the latest release.
  local gap = kept and string.find(kept, ' ', 1, true) or 0
  if kept and string.sub(kept, gap + 1, gap + 34) == 'R' .. id .. ' ' then
    -- Already released by this id: the caller knows whether that was an attempt whose reply it lost.
    if string.sub(kept, gap + 35, gap + 50) < ARGV[2] then
      -- First, because a server that is full runs this, and then the rest of a script that has begun to write.
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
  -- Sent to undo an attempt whose retry, with the same id, has been granted since.
  return holder(KEYS[1], held)
end
-- First, because a server that is full runs this, and then the rest of a script that has begun to write.
redis.call('DEL', KEYS[1])
-- Ends in a space, as it is written over what was there.
local mark = ' R' .. id .. ' ' .. ARGV[2] .. ' '
local gap = kept and string.find(kept, ' H' .. id, 1, true)
if gap then
  redis.call('SETRANGE', KEYS[2], gap == 17 and '16' or gap - 1, mark)
else
  redis.call('SET', KEYS[2], (string.match(held, '^%d+', 51) or '') .. mark, 'PX', TOKEN_IDLE)
end
-- The mark in the token's key is gone once another holder has written there.
if ARGV[5] == '1' and KEYS[3] then redis.call('SET', KEYS[3], ARGV[2], 'PX', RELEASE_MARK_KEPT_MS) end
if ARGV[3] and ARGV[3] ~= '0' then redis.call('SET', KEYS[1], RELEASED .. held, 'PX', ARGV[3]) end
if KEYS[5] then signal(KEYS[5]) end
if KEYS[4] then wake(KEYS[4], KEYS[1], ARGV[4]) end
return 1
