-- Raises the token of a held lock. KEYS: lock, token. ARGV: id, token.
local found = redis.call('MGET', KEYS[1], KEYS[2])
local held, kept = found[1], found[2]
local id, stamp, token, rest = string.match(held or '', '^(%x+)( %d+ )(%d+)( .*)$')
if id ~= ARGV[1] then return 0 end
if tonumber(token) < tonumber(ARGV[2]) then
  local record = id .. stamp .. ARGV[2] .. rest
  -- Not KEEPTTL, which Redis has only since 6.0, and some compatible servers lack.
  redis.call('SET', KEYS[1], record, 'PX', redis.call('PTTL', KEYS[1]))
  local letter = string.find(kept or '', '^%d* F') and ' F' or ' H'
  redis.call('SET', KEYS[2], ARGV[2] .. letter .. record, 'PX', TOKEN_IDLE, kept and 'XX' or 'NX')
end
return 1
