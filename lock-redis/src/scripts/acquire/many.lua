-- Tries to acquire several locks.
-- KEYS, ARGV: those of acquire/one.lua for the first lock without any option, then those for the
-- next, and so on.
-- Returns for each lock what acquire/one.lua returns, or {10, message} if that would fail.
local OF_ALL, ARGUMENTS, call, sub = KEYS, ARGV, redis.call, string.sub
local found = call('MGET', unpack(KEYS))
-- Read for the first lock that needs it.
local now
-- No request has an option.
local KEYS, ARGV = {}, {}

local function attempt(lock, last_token, held, kept, at, id, ttl, stamp, record_end)
