-- Releases several locks.
-- KEYS, ARGV: those of release/one.lua for the first lock without any option, then those for the
-- next, and so on.
-- Returns for each lock what release/one.lua returns, or {10, message} if that would fail.
local OF_ALL, ARGUMENTS, call, sub = KEYS, ARGV, redis.call, string.sub
local found = call('MGET', unpack(KEYS))
local queues = {}
for i = 1, #KEYS / 3 do queues[i] = KEYS[3 * i] end
-- One command for all locks, because usually no process waits for any. pcall, because a user may lack
-- the right.
local may_wait = redis.pcall('EXISTS', unpack(queues)) ~= 0
-- No request has an option.
local KEYS, ARGV = {}, {}

local function attempt(lock, last_token, waiters, held, kept, id, stamp)
