-- Releases several locks.
-- KEYS, ARGV: those of release/one.lua for the first lock without any option, then those for the
-- next, and so on.
-- Returns for each lock what release/one.lua returns, or {10, message} if that would fail.
local OF_ALL, ARGUMENTS, call, sub = KEYS, ARGV, redis.call, string.sub
local found = call('MGET', unpack(KEYS))
-- No request has an option.
local KEYS, ARGV = {}, {}

local function attempt(lock, last_token, waiters, held, kept, id, stamp)
