-- One attempt to acquire. KEYS: lock, token, gone, waiters. ARGV: id, ttl in ms, end of the record, idle time of the token
-- in ms, the wake-up channel of a waiting process or "", its place in the queue or "", "1" if it stops waiting when granted,
-- when the client sent this.
local held, kept, gone = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local id, ttl = ARGV[1], ARGV[2]

if held and string.sub(held, 1, 32) == id then
  -- An earlier attempt with this id had succeeded, and its reply was lost.
  redis.call('PEXPIRE', KEYS[1], ttl)
  return {2, held}
end
local previous, state, record = string.match(kept or '', '^(%d+) (%a)(.*)$')
local released, at = string.match(state == 'R' and record or '', '^(%x+) (%d+)$')
if released ~= id then at = gone end
if at and tonumber(at) > tonumber(ARGV[8]) then
  -- A request that was overtaken by the release of its own id must not leave a lock behind.
  return {3}
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local token = math.max(now, (tonumber(previous) or 0) + 1)
local crashed = state == 'H' and record

if not held then
  -- Lua prints a large double as 1.7e+15 unless told otherwise.
  local number = string.format('%.0f', token)
  local mine = id .. ' ' .. number .. ' ' .. string.format('%.0f', now) .. ' ' .. ttl .. ' ' .. ARGV[3]
  -- NX, because MGET shows nothing at a key of another type, and that key is somebody's lock.
  if redis.call('SET', KEYS[1], mine, 'NX', 'PX', ttl) then
    redis.call('SET', KEYS[2], number .. ' H' .. mine, 'PX', ARGV[4])
    if ARGV[7] == '1' then redis.call('ZREM', KEYS[4], ARGV[5]) end
    return {1, number, crashed}
  end
end

if ARGV[5] ~= '' then enqueue(KEYS[4], ARGV[5], ARGV[6] ~= '' and ARGV[6] or now, KEYS[1]) end
return holder(KEYS[1], held)
