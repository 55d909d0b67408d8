-- Follows release/one.lua or release/many.lua.
local is_holder = held and string.find(held, id, 1, true) == 1
-- An older stamp is that of a release which was sent to roll back an attempt, whose retry with the
-- same id has been granted.
local ends = is_holder and sub(held, 34, 49) <= stamp
local popped
if ends then
  -- DEL or PEXPIRE comes first: a full server runs it, and then the rest of a script that has written.
  if ARGV[3] and ARGV[3] ~= '0' then
    call('PEXPIRE', lock, ARGV[3])
    call('SET', lock, RELEASED .. held, 'PX', ARGV[3])
  else
    call('DEL', lock)
  end
  -- Ends in a space, because it overwrites part of the old value.
  local mark = ' R' .. id .. ' ' .. stamp .. ' '
  local gap = kept and string.find(kept, ' H' .. id, 1, true)
  if gap then
    call('SETRANGE', last_token, gap == 17 and '16' or gap - 1, mark)
  else
    -- NX, because MGET returns nothing for a key of another type. Fair requests still wait.
    if string.find(kept or '', '^%d* [FQ]') then mark = ' Q' .. sub(mark, 3) end
    call('SET', last_token, (string.match(held, '^%d+', 51) or '') .. mark, 'PX', TOKEN_IDLE, kept and 'XX' or 'NX')
  end
  -- The next holder overwrites the mark in the token's key.
  if ARGV[5] == '1' and KEYS[4] then call('SET', KEYS[4], stamp, 'PX', RELEASE_MARK_KEPT_MS) end
  -- pcall, because a user without the right to publish must still be able to release.
  popped = may_wait and redis.pcall('ZPOPMIN', waiters)
  local waits = popped and popped[1]
  if not waits and not KEYS[5] then return 1 end
end

