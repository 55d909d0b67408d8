-- Returns the holders of any kind. KEYS: lock, records; of a request that waits also: mark, gone,
-- token.
-- ARGV of such a request: id, mode, owner, ttl in ms, stamp. If there are several holders, it is
-- noted, unless it arrived after the release of its id.
local mode = mode_of(KEYS[1])
-- Before the mark: a user who may not read the holders must leave none.
local holders = state(KEYS[1], KEYS[2], mode)
if mode and KEYS[3] then
  local found = redis.call('MGET', KEYS[3], KEYS[4], KEYS[5])
  local waiting = found[1] and string.match(found[1], '^%x+ [sxp]%d* ')
  -- Behind a queue of fair requests the mark would make this request the first.
  local queued = is_queued(found[3]) and string.sub(found[1] or '', 1, 32) ~= ARGV[1]
  if not queued and (not found[2] or found[2] < ARGV[5]) then
    set_mark(KEYS[3], waiting and found[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
  end
end
return holders
