-- Tries to acquire a lock whose name may have a queue of fair requests.
-- KEYS: those of acquire/one.lua or join.lua with the waiters, then: mark, queue, places.
-- ARGV: those of acquire/one.lua with all that is optional, or of join.lua, then: mode, wake-up channel
-- of a fair request that waits or "", owner.
-- Returns what acquire.lua or join.lua returns, or {7, …} for the first place of the queue.
local LOCK, TOKEN, WAITERS, MARK, QUEUE, PLACES =
  KEYS[1], KEYS[2], KEYS[#KEYS - 3], KEYS[#KEYS - 2], KEYS[#KEYS - 1], KEYS[#KEYS]
local ID, TTL, MODE, CHANNEL, OWNER = ARGV[1], tonumber(ARGV[2]), ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV]
local NOW = micros()
-- For join.lua: no request is marked as waiting behind the queue.
local FIRST, FIRST_PLACE = first_of(QUEUE, PLACES, WAITERS, NOW)
-- For acquire.lua and join.lua: how many are ahead, or false.
local TURN = places_ahead(QUEUE, PLACES, ID, MODE, NOW)
-- The places came after a request that is marked as waiting: while it waits, they are refused.
if string.sub(redis.call('MGET', MARK)[1] or '', 1, 32) == ID then TURN = 0 end

local function attempt()
