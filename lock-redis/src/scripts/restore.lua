-- Sets a held lock again on a server of a quorum that lost it.
-- KEYS: lock, token, gone, trace of a break.
-- ARGV: id, ttl in ms, stamp of this request, token, end of the record.
-- Returns 1 if this id holds the lock now; 0 if another client has it, or if the id was released or
-- broken.
local found = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
local held, kept, at, broken = found[1], found[2], found[3], found[4]
local id, ttl, stamp, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- A duplicate of this request must not extend a lease, so the ttl stays.
if held then return string.sub(held, 1, 32) == id and 1 or 0 end
if broken then return 0 end
local last, state, rest = string.match(kept or '', '^(%d+) (%u)(.*)$')
if state == 'R' and string.sub(rest, 1, 33) == id .. ' ' then
  local released = string.sub(rest, 34, 49)
  if not at or at < released then at = released end
end
-- This request arrived after the release of its id, so it must not leave a lock.
if at and at > stamp then return 0 end

local mine = id .. ' ' .. stamp .. ' ' .. token .. ' ' .. ARGV[5]
-- Changes nothing, but fails for a key of another type, which is another client's.
if not kept then redis.call('SETRANGE', KEYS[2], '0', '') end
-- NX, because MGET returns nothing for a key of another type, which is another client's lock.
if not redis.call('SET', KEYS[1], mine, 'NX', 'PX', ttl) then return 0 end
-- An attempt that was rolled back since may have minted a larger token here.
if not last or tonumber(last) < tonumber(token) then last = token end
redis.call('SET', KEYS[2], last .. ' H' .. mine, 'PX', TOKEN_IDLE)
return 1
