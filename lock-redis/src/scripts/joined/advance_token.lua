-- Raises the token of one of several holders. KEYS: lock, token, records. ARGV: id, token.
local lock, token, records, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
if not mode_of(lock) or not part_of(lock, id, micros()) then return 0 end
local record = redis.call('HGET', records, id)
local start, mine, rest = string.match(record or '', '^(%x+ %d+ )(%d+)( .*)$')
if mine and tonumber(mine) < tonumber(ARGV[2]) then
  record = start .. ARGV[2] .. rest
  redis.call('HSET', records, id, record)
end
local kept = redis.call('MGET', token)[1]
local last, holder_record = last_of(kept)
if last < tonumber(ARGV[2]) then
  -- Another holder that has not released stays known.
  local other = holder_record and string.sub(holder_record, 1, 32) ~= id and holder_record
  local letter = is_queued(kept) and ' F' or ' H'
  redis.call('SET', token, ARGV[2] .. letter .. (other or record or ''), 'PX', TOKEN_IDLE, kept and 'XX' or 'NX')
end
return 1
