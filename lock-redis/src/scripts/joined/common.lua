-- Prepended to the scripts of locks that may have several holders: shared locks and permits.
--
-- The holders are one sorted set at the key of the lock, so that every other kind of lock finds
-- the key taken. A member is the id of a holder, with the end of its part by this server's clock in
-- µs. A released part that is kept for its minimum hold is the id after an R. The first member
-- names the mode, and distinguishes the set from a foreign one. The key expires with the last part.
-- The records of the holders are a hash beside it, which decides nothing.

local HEAD = 'onelock:'

-- The end of the latest lease, in µs: a double has no larger whole numbers.
local LATEST = 9007199254740991

-- How many holders a reply names.
local NAMED = 16

-- How many parts of crashed holders an acquire clears away.
local SWEPT = 100

-- Numbers with 16 digits need a format.
local function text(number) return string.format('%.0f', number) end

local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function end_of(now, ttl) return math.min(now + ttl * 1000, LATEST) end

-- Returns the mode of the holders, or nil if the key is not a lock with several holders; and the
-- type of the key.
local function mode_of(lock)
  local kind = redis.call('TYPE', lock).ok
  if kind ~= 'zset' then return nil, kind end
  local first = redis.call('ZRANGE', lock, 0, 0, 'WITHSCORES')
  if first[2] == '-inf' and string.sub(first[1], 1, #HEAD) == HEAD then
    return string.sub(first[1], #HEAD + 1), kind
  end
  return nil, kind
end

-- Returns how many hold the lock, with the parts that are kept for a minimum hold.
local function living(lock, now) return redis.call('ZCOUNT', lock, '(' .. text(now), '+inf') end

-- Returns the end of the part of an id, or nil if the id does not hold the lock.
local function part_of(lock, id, now)
  local ends = tonumber(redis.call('ZSCORE', lock, id) or nil)
  return ends and ends > now and ends or nil
end

-- Lets the key expire with the last part, but not before `ends`.
local function live_until(lock, ends)
  local last = tonumber(redis.call('ZRANGE', lock, -1, -1, 'WITHSCORES')[2])
  redis.call('PEXPIREAT', lock, text(math.ceil(math.min(math.max(last, ends), LATEST) / 1000)))
end

local function expire(lock) live_until(lock, 0) end

-- Adds a part. `free` tells that this creates the key.
-- ZADD comes first: a full server refuses it before anything has changed.
local function add_part(lock, mode, id, ends, ttl, free)
  redis.call('ZADD', lock, '-inf', HEAD .. mode, text(ends), id)
  -- At once, so that an error in the rest leaves no lock without an end.
  if free and type(redis.pcall('PEXPIRE', lock, ttl)) ~= 'number' then
    redis.call('DEL', lock)
    -- Ends the script with the error.
    redis.call('PEXPIRE', lock, ttl)
  end
end

-- Adds or moves the end of a member. The key outlives it first: if the user lacks the right to run
-- ZADD, the parts of other holders last.
-- PEXPIREAT comes first: a full server runs it, and then the rest of a script that has written.
local function set_end(lock, member, ends)
  live_until(lock, ends)
  redis.call('ZADD', lock, text(ends), member)
end

-- Moves the end of a part from `before`.
local function renew_part(lock, id, before, ends)
  set_end(lock, id, ends)
  if ends < before then expire(lock) end
end

-- Returns the holders, the first to expire first:
-- {6, time in µs, mode, how many, member, its end, its record or '', and so on}.
local function holders(lock, records, mode, now)
  local members = redis.call(
    'ZRANGEBYSCORE', lock, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, NAMED)
  local reply = {6, text(now), mode, living(lock, now)}
  local room = LONGEST_RECORD
  for i = 1, #members, 2 do
    -- A member that is no id is cut. pcall, because the records may be another kind of key.
    local member = string.sub(members[i], 1, 40)
    local record = redis.pcall('HGET', records, string.sub(member, -32))
    if type(record) ~= 'string' or #record > room then record = '' end
    room = room - #record
    reply[#reply + 1] = member
    reply[#reply + 1] = members[i + 1]
    reply[#reply + 1] = record
  end
  return reply
end

-- Returns the holders of any kind, for a refusal.
local function state(lock, records, mode)
  if mode then return holders(lock, records, mode, micros()) end
  return holder(lock, redis.call('MGET', lock)[1])
end

-- Changes nothing, but fails for a key of another type, which is another client's. MGET returns
-- nothing for such a key.
local function require_string(key) redis.call('SETRANGE', key, '0', '') end

-- Notes the request that waits for holders of another mode, unless another request waits.
-- Newcomers of the modes with several holders respect the mark.
local function set_mark(key, known, id, mode, owner, ttl)
  if not known or string.sub(known, 1, 32) == id then
    require_string(key)
    redis.call('SET', key, id .. ' ' .. mode .. ' ' .. owner, 'PX', ttl)
  end
end

-- Removes the mark of an id. Returns whether it was there.
local function unmark(key, id)
  local known = redis.call('MGET', key)[1]
  if not known or string.sub(known, 1, 32) ~= id then return false end
  redis.call('DEL', key)
  return true
end

-- Splits the key of the token. Returns the token, the record of the last holder that has not
-- released, and the id and the stamp of the last release.
local function last_of(kept)
  if not kept then return 0 end
  local token, state, rest = string.match(kept, '^(%d*) (%u)(.*)$')
  if state == 'H' or state == 'F' then return tonumber(token) or 0, rest end
  if state == 'R' or state == 'Q' then
    return tonumber(token) or 0, nil, string.sub(rest, 1, 32), string.sub(rest, 34, 49)
  end
  return tonumber(string.match(kept, '^%d+')) or 0
end

-- Returns the record of a holder that has not released, preferably of one that crashed.
local function unreleased(lock, records)
  for _, order in ipairs({'ZRANGE', 'ZREVRANGE'}) do
    for _, member in ipairs(redis.call(order, lock, 0, NAMED)) do
      local record = #member == 32 and redis.call('HGET', records, member)
      if record then return record end
    end
  end
end

-- Ends the part of an id that holds the lock, and keeps it refused until `kept_until` unless nil.
-- The key of the token then names another holder that has not released, so that its crash is
-- reported, or else this release. Returns whether the lock is free.
local function end_part(lock, token, records, id, stamp, kept_until, now)
  local record = redis.call('HGET', records, id) or ''
  if kept_until then set_end(lock, 'R' .. id, kept_until) end
  -- ZREM comes first: a full server runs it, and then the rest of a script that has written.
  redis.call('ZREM', lock, id)
  if not kept_until then redis.call('HDEL', records, id) end
  local kept = redis.call('MGET', token)[1]
  local number, last = last_of(kept)
  if not last or string.sub(last, 1, 32) == id then
    number = math.max(number, tonumber(string.match(record, '^%x+ %d+ (%d+)')) or 0)
    local other = unreleased(lock, records)
    local held, released = 'H', 'R'
    if is_queued(kept) then
      held, released = 'F', 'Q'
    end
    local rest = other and held .. other or released .. id .. ' ' .. stamp .. ' '
    -- NX, because MGET returns nothing for a key of another type.
    redis.call('SET', token, text(number) .. ' ' .. rest, 'PX', TOKEN_IDLE, kept and 'XX' or 'NX')
  end
  if living(lock, now) == 0 then
    redis.call('DEL', lock)
    redis.call('DEL', records)
    return true
  end
  redis.call('HSET', records, 'released', id .. ' ' .. stamp)
  expire(lock)
  return false
end

-- Wakes a process that may be able to use what a holder has left: a permit, or a free lock.
local function wake_after(waiters, lock, mode, free, cluster)
  if free or mode ~= 's' then wake(waiters, lock, cluster) end
end
