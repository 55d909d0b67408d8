-- Follows acquire/one.lua or acquire/many.lua.
if held and sub(held, 1, 32) == id then
  -- An earlier attempt with this id succeeded, and its reply was lost. The new stamp makes a release
  -- that was sent before this attempt, to roll the earlier one back, ineffective.
  -- PEXPIRE comes first: a full server runs it, and then the rest of a script that has written.
  call('PEXPIRE', lock, ttl)
  if sub(held, 34, 49) < stamp then
    held = id .. ' ' .. stamp .. sub(held, 50)
    call('SET', lock, held, 'PX', ttl)
  end
  return {2, held}
end
local previous, letter, crashed = ''
if kept then
  local gap = string.find(kept, ' ', 1, true) or 1
  previous = sub(kept, 1, gap - 1)
  letter = string.byte(kept, gap + 1)
  if letter == 72 then -- H
    crashed = gap + 2
  elseif letter == 70 and TURN ~= nil then -- F
    crashed = gap + 2
  elseif string.find(kept, id, gap + 2, true) == gap + 2 then
    at = sub(kept, gap + 35, gap + 50)
  end
end
if at and at > stamp then
  -- This request arrived after the release of its id, so it must not leave a lock.
  return {3}
end
if TURN == nil and not held and (letter == 70 or letter == 81) then -- F, Q
  return {9}
end

if not now then
  local time = call('TIME')
  now = #time[2] == 6 and time[1] .. time[2] or string.format('%s%06d', time[1], time[2])
end

if not held and TURN ~= false then
  local token = now
  -- Both have 16 digits, unless a third party has changed the key, and compare as text.
  if #previous ~= 16 or previous >= now then
    local larger = (tonumber(previous) or 0) + 1
    -- Without a format Lua prints a large double as 1.7e+15.
    if larger > tonumber(now) then token = string.format('%.0f', larger) end
  end
  -- Changes nothing, but fails for a key of another type, which is another client's.
  if not kept then call('SETRANGE', last_token, '0', '') end
  if ARGV[8] and ARGV[8] ~= '0' then
    token = string.format('%.0f', token + ARGV[8])
    -- Here, because the reply of a plain request must cost no more.
    if ARGV[9] == '1' then kept, crashed = 'P' .. (crashed and kept or previous), 1 end
  end
  local mine = id .. ' ' .. stamp .. ' ' .. token .. ' ' .. now .. ' ' .. record_end
  -- NX, because MGET returns nothing for a key of another type, which is another client's lock.
  if call('SET', lock, mine, 'NX', 'PX', ttl) then
    local last = token .. ' H' .. mine
    -- A value of the same length is overwritten in place, which takes less than SET with PX. The
    -- first five digits of the clock change every 28 hours. Then the key gets its full lifetime.
    if kept and #kept == #last and token == now and sub(kept, 1, 5) == sub(now, 1, 5) then
      call('SETRANGE', last_token, '0', last)
    else
      call('SET', last_token, last, 'PX', TOKEN_IDLE)
    end
    -- pcall, because the lock is granted even if the user lacks the right to run ZREM.
    if ARGV[7] == '1' then redis.pcall('ZREM', KEYS[4], ARGV[5]) end
    return crashed and token .. ' ' .. sub(kept, crashed) or token
  end
end

