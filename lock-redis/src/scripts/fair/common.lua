-- Prepended to the scripts of names that may have a queue of fair requests.
--
-- The queue is a sorted set of lease ids, by the time at which each request took its place, in µs.
-- A hash beside it has the places: end by this server's clock in µs, wake-up channel, mode, owner.
-- A waiter is also in the sorted set of waiting processes, before all that are not fair.
-- While there are places, the letter in the key of the token is F for H, and Q for R. It tells the
-- scripts that know no queue.

-- Moves a time in µs before all times at which a process can have begun to wait.
local BEFORE_OTHERS = 4000000000000000

-- Returns the end of a place. A place that another client has written in another form has ended.
local function ends_at(place) return tonumber(string.match(place, '^(%d+) %S+ [sxp]%d* ')) or 0 end

local function mode_of_place(place) return string.match(place, '^%d+ %S+ (%S+) ') end

local function member_of(id, place) return (string.match(place, '^%d+ (%S+)') or '') .. ' ' .. id end

-- Ends a place. Returns whether there was one. If there is no place, a user without the rights
-- of fair requests may call it too.
local function end_place(queue, places, waiters, id)
  if redis.call('ZREM', queue, id) == 0 then return false end
  local place = redis.call('HGET', places, id)
  if place then redis.pcall('ZREM', waiters, member_of(id, place)) end
  redis.call('HDEL', places, id)
  return true
end

-- Returns the first id of the queue and its place, and clears away those that have ended before it.
local function first_of(queue, places, waiters, now)
  while true do
    local id = redis.call('ZRANGE', queue, 0, 0)[1]
    if not id then return nil end
    local place = redis.call('HGET', places, id)
    if place and ends_at(place) > now then return id, place end
    end_place(queue, places, waiters, id)
  end
end

-- Returns how many places are ahead of an id; false if the lock cannot be shared with one of them.
local function places_ahead(queue, places, id, mode, now)
  local rank = redis.call('ZRANK', queue, id)
  if rank == 0 then return 0 end
  local ahead = 0
  for _, other in ipairs(redis.call('ZRANGE', queue, 0, rank and rank - 1 or -1)) do
    local place = redis.call('HGET', places, other)
    if place and ends_at(place) > now then
      if mode == 'x' or mode_of_place(place) ~= mode then return false end
      ahead = ahead + 1
    end
  end
  return ahead
end

-- Says in the key of the token whether there are places.
local function note_queue(token, queue)
  local kept = redis.call('MGET', token)[1] or ''
  local number, letter = string.match(kept, '^(%d*) (%u)')
  local queued = redis.call('EXISTS', queue) == 1
  local said
  if letter == 'H' or letter == 'F' then
    said = queued and 'F' or 'H'
  else
    said = queued and 'Q' or 'R'
  end
  if number and letter ~= said then
    redis.call('SETRANGE', token, #number + 1, said)
  elseif not number and queued then
    require_string(token)
    redis.call('SET', token, (string.match(kept, '^%d+') or '0') .. ' Q', 'PX', TOKEN_IDLE)
  end
end

-- Lets a key live for at least `ttl` ms.
local function keep(key, ttl)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, text(ttl)) end
end
