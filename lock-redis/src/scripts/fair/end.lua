end

-- Gives a refused request its place, or keeps it longer.
local function take_place()
  local at = tonumber(redis.call('ZSCORE', QUEUE, ID) or nil)
  if not at then
    local last = redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')[2]
    at = math.max(NOW, (tonumber(last) or 0) + 1)
    redis.call('ZADD', QUEUE, text(at), ID)
  end
  local place = text(end_of(NOW, TTL)) .. ' ' .. CHANNEL .. ' ' .. MODE .. ' ' .. string.sub(OWNER, 1, 1024)
  redis.call('HSET', PLACES, ID, place)
  keep(QUEUE, TTL)
  keep(PLACES, TTL)
  enqueue(WAITERS, member_of(ID, place), at - BEFORE_OTHERS, LOCK)
end

-- Before the attempt, because a grant may wake the next one.
if CHANNEL ~= '' then redis.pcall('ZREM', WAITERS, CHANNEL .. ' ' .. ID) end
local answer = attempt()
local kind = type(answer) == 'table' and answer[1]
if kind == 0 or kind == 6 or kind == 7 then
  local free = redis.call('EXISTS', LOCK) == 0
  if CHANNEL ~= '' then take_place() end
  if FIRST and FIRST ~= ID and free then
    -- It may have missed its wake-up.
    redis.pcall('PUBLISH', string.match(FIRST_PLACE, '^%d+ (%S+)'), LOCK .. ' ' .. FIRST)
  end
  if kind == 0 and FIRST and free then
    local mode, owner = string.match(FIRST_PLACE, '^%d+ %S+ (%S+) (.*)$')
    answer = {7, mode, owner, math.ceil((ends_at(FIRST_PLACE) - NOW) / 1000)}
  end
elseif kind ~= 3 and kind ~= 8 then
  end_place(QUEUE, PLACES, WAITERS, ID)
end
note_queue(TOKEN, QUEUE)
return answer
