-- What several scripts share. Each script has it before the part that needs it.

-- The longest record that a reply contains, in bytes: 1 MiB.
local LONGEST_RECORD = 1048576

-- Returns the holder, for a refusal:
-- {0, record or false, remaining ms, type of a key that is not a string or false, time in µs or
-- false}. `now` is the time in µs, or nil if the caller does not know it.
local function holder(lock, held, now)
  -- A foreign value may be as large as 512 MB. Its beginning is enough to recognise it as foreign.
  if held and #held > LONGEST_RECORD then held = string.sub(held, 1, 40) end
  local kind = false
  if not held then kind = redis.call('TYPE', lock).ok end
  if not now then
    -- pcall, because a user without the right to read the time may still read the lock.
    local time = redis.pcall('TIME')
    now = not time.err and string.format('%s%06d', time[1], time[2])
  end
  return {0, held, redis.call('PTTL', lock), kind, now}
end

-- Returns whether the key of the token says that fair requests wait.
local function is_queued(kept) return kept and string.find(kept, '^%d* [FQ]') end

-- Queues a waiting process, identified by its channel, or a fair request, by the channel and its id.
-- A queued process keeps its place. Without a channel no process waits.
local function enqueue(waiters, channel, score, lock)
  if channel == '' then return end
  redis.call('ZADD', waiters, 'NX', string.format('%.0f', score), channel)
  -- A waiter retries when the lease ends, at the latest. A queue that is unchanged ten minutes later
  -- has no live waiters.
  redis.call('PEXPIRE', waiters, math.max(redis.call('PTTL', lock), 0) + 600000)
end

-- Wakes one waiter of python-redis-lock.
local function signal(list)
  redis.call('DEL', list)
  redis.call('LPUSH', list, 1)
  redis.call('PEXPIRE', list, 1000)
end

-- Wakes only the process that has waited longest. It passes on a wake-up that it cannot use.
-- If a process has died, PUBLISH reports no receiver, and the next process is woken. On a cluster
-- PUBLISH counts only receivers on its own node, so the count means nothing.
-- pcall, because a user without the right to publish must still be able to release.
-- `popped` is the answer to a ZPOPMIN that the caller has run, or nil.
local function wake(waiters, lock, cluster, popped)
  while true do
    local first = popped or redis.pcall('ZPOPMIN', waiters)
    popped = nil
    if first.err or not first[1] then return end
    -- The id of a fair request follows the channel, which has 45 characters, and then the lock.
    local received = redis.pcall('PUBLISH', string.sub(first[1], 1, 45), lock .. string.sub(first[1], 46))
    if type(received) ~= 'number' or received > 0 or cluster == '1' then return end
  end
end
