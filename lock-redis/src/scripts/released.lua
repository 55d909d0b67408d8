-- Follows release.lua where a process waits, or the id does not hold the lock.
if ends then
  if KEYS[5] then signal(KEYS[5]) end
  if not popped or not popped[1] then return 1 end
  wake(waiters, lock, ARGV[4], popped)
  return 5
end
if is_holder then return holder(lock, held) end
-- Its acquire may still arrive from an abandoned connection: acquire.lua checks the mark of the
-- latest release.
local gap = kept and string.find(kept, ' ', 1, true) or 0
if kept and sub(kept, gap + 1, gap + 34) == 'R' .. id .. ' ' then
  -- This id has released before. The caller knows whether the reply to that release was lost.
  if sub(kept, gap + 35, gap + 50) < stamp then
    -- PEXPIRE comes first: a full server runs it, and then the rest of a script that has written.
    call('PEXPIRE', last_token, TOKEN_IDLE)
    call('SETRANGE', last_token, gap + 34, stamp)
  end
  return 4
end
if not KEYS[4] then
  if waiters then return {9} end
  return redis.error_reply('TRYAGAIN the slot of this lock is being moved')
end
local marked = call('MGET', KEYS[4])[1]
if not marked or marked < stamp then call('SET', KEYS[4], stamp, 'PX', RELEASE_MARK_KEPT_MS) end
return holder(lock, held)
