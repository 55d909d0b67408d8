-- Prepended to every script, behind the constants that script.rs shares with them.

-- How long the token of a name that nobody uses is kept, in ms: 30 days. Tokens rise by the server's clock even without it.
-- As text, like all arguments of commands in the scripts that run most: Redis spells a number with 17 digits, which takes longer than to store it.
local TOKEN_IDLE = '2592000000'

-- Who holds the lock, for a refusal: {0, record or false, remaining ms, type of a key that is no string or false}.
local function holder(lock, held)
  local kind = false
  if not held then kind = redis.call('TYPE', lock).ok end
  return {0, held, redis.call('PTTL', lock), kind}
end

-- Queues a waiting process, known by its channel; one that waits already keeps its place.
local function enqueue(waiters, channel, score, lock)
  redis.call('ZADD', waiters, 'NX', string.format('%.0f', score), channel)
  -- A waiter comes back when the lease ends, at the latest; a queue that nobody has touched for long is dead.
  redis.call('PEXPIRE', waiters, math.max(redis.call('PTTL', lock), 0) + 600000)
end

-- Wakes one of those who wait in the way of python-redis-lock.
local function signal(list)
  redis.call('DEL', list)
  redis.call('LPUSH', list, 1)
  redis.call('PEXPIRE', list, 1000)
end

-- Wakes the process that has waited longest, and only that one: it passes the wake-up on if it cannot use it. A process that died
-- does not receive, and the next one is woken. On a cluster, PUBLISH counts only its own node's receivers, so the count says nothing.
-- pcall: a user without the right to publish must still be able to release.
local function wake(waiters, lock, cluster)
  while true do
    local first = redis.pcall('ZPOPMIN', waiters)
    if first.err or not first[1] then return end
    local received = redis.pcall('PUBLISH', first[1], lock)
    if type(received) ~= 'number' or received > 0 or cluster == '1' then return end
  end
end
