-- Tries to acquire a lock. KEYS: lock, token, gone.
-- ARGV: id, ttl in ms, stamp of this request, end of the record.
-- A waiting process adds to KEYS: waiters; to ARGV: its wake-up channel, its place in the queue
-- or "", and "1" if it stops waiting once granted.
-- Returns the token and, after a space, the record of a crashed holder; or {0, ...}, {2, record},
-- {3}.
-- Splits text by position, not by pattern, because this script runs most often.
local found = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
local held, kept, at = found[1], found[2], found[3]
local id, ttl, stamp = ARGV[1], ARGV[2], ARGV[3]

if held and string.sub(held, 1, 32) == id then
  -- An earlier attempt with this id succeeded, and its reply was lost. The new stamp makes a
  -- release
  -- that was sent before this attempt, to roll the earlier one back, ineffective.
  -- PEXPIRE comes first: a full server runs it, and then the rest of a script that has written.
  redis.call('PEXPIRE', KEYS[1], ttl)
  if string.sub(held, 34, 49) < stamp then
    held = id .. ' ' .. stamp .. string.sub(held, 50)
    redis.call('SET', KEYS[1], held, 'PX', ttl)
  end
  return {2, held}
end
local previous, crashed = 0
if kept then
  local gap = string.find(kept, ' ', 1, true) or 1
  previous = tonumber(string.sub(kept, 1, gap - 1)) or 0
  if string.byte(kept, gap + 1) == 72 then -- H
    crashed = gap + 2
  elseif string.find(kept, id, gap + 2, true) == gap + 2 then
    at = string.sub(kept, gap + 35, gap + 50)
  end
end
if at and at > stamp then
  -- This request arrived after the release of its id, so it must not leave a lock.
  return {3}
end

local time = redis.call('TIME')
local now = string.format('%s%06d', time[1], time[2])

if not held then
  -- Without a format Lua prints a large double as 1.7e+15.
  local token = previous < tonumber(now) and now or string.format('%.0f', previous + 1)
  local mine = id .. ' ' .. stamp .. ' ' .. token .. ' ' .. now .. ' ' .. ARGV[4]
  -- NX, because MGET returns nothing for a key of another type, which is another client's lock.
  if redis.call('SET', KEYS[1], mine, 'NX', 'PX', ttl) then
    redis.call('SET', KEYS[2], token .. ' H' .. mine, 'PX', TOKEN_IDLE)
    -- pcall, because the lock is granted even if the user lacks the right to run ZREM.
    if ARGV[7] == '1' then redis.pcall('ZREM', KEYS[4], ARGV[5]) end
    return crashed and token .. ' ' .. string.sub(kept, crashed) or token
  end
end

if KEYS[4] then enqueue(KEYS[4], ARGV[5], ARGV[6] ~= '' and ARGV[6] or now, KEYS[1]) end
return holder(KEYS[1], held)
