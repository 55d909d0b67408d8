-- Sets the part of one of several holders again on a server of a quorum that lost it.
-- KEYS: lock, token, records, gone, trace of a break.
-- ARGV: id, ttl in ms, stamp of this request, token, end of the record, mode.
-- Returns 1 if this id holds the lock now; 0 if the lock has holders of another mode, or if the id
-- was released or broken.
local lock, token, records = KEYS[1], KEYS[2], KEYS[3]
local id, stamp, mode = ARGV[1], ARGV[3], ARGV[6]
local now = micros()
local found = redis.call('MGET', token, KEYS[4], KEYS[5])
local kept, at, broken = found[1], found[2], found[3]
local present, kind = mode_of(lock)

-- A duplicate of this request must not extend a part, so its end stays.
if present and part_of(lock, id, now) then return 1 end
if broken or present and present ~= mode then return 0 end
-- Released, and kept for its minimum hold.
if present and part_of(lock, 'R' .. id, now) then return 0 end
if not present and kind ~= 'none' then return 0 end
local last, _, released, released_at = last_of(kept)
local known = present and redis.call('HGET', records, 'released')
if released == id and released_at > stamp then return 0 end
if known and string.sub(known, 1, 32) == id and string.sub(known, 34, 49) > stamp then return 0 end
-- This request arrived after the release of its id, so it must not leave a lock.
if at and at > stamp then return 0 end

if not kept then require_string(token) end
if not present then redis.call('HMGET', records, id) end

local mine = id .. ' ' .. stamp .. ' ' .. ARGV[4] .. ' ' .. ARGV[5]
add_part(lock, mode, id, end_of(now, ARGV[2]), ARGV[2], not present)
if not present then redis.call('DEL', records) end
redis.call('HSET', records, id, mine)
redis.call('PEXPIRE', records, TOKEN_IDLE)
expire(lock)
-- An attempt that was rolled back since may have minted a larger token here.
redis.call('SET', token, text(math.max(last, tonumber(ARGV[4]))) .. ' H' .. mine, 'PX', TOKEN_IDLE)
return 1
