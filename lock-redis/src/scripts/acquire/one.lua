-- Tries to acquire a lock. KEYS: lock, token, gone.
-- ARGV: id, ttl in ms, stamp of this request, end of the record.
-- A waiting process adds to KEYS: waiters; to ARGV: its wake-up channel, its place in the queue
-- or "", and "1" if it stops waiting once granted. A grant that reserves further tokens adds their
-- number, after these three or three times "", and "1" if it shows the token before it.
-- Returns the token and, after a space, the record of a crashed holder; or {0, ...}, {2, record},
-- {3}; {9} if only a script that knows the queue of fair requests can tell.
-- A grant that shows the token before it has "P" and that token after the space. If the holder
-- crashed, a space, a letter and the record follow.
--
-- This script runs most often. So it splits text by position, not by pattern, and names globals once,
-- because Lua looks up each by its name. common.lua comes after the grant, because each call creates
-- the functions that it reaches.
local KEYS, ARGV, call, sub = KEYS, ARGV, redis.call, string.sub
local lock, last_token = KEYS[1], KEYS[2]
local found = call('MGET', lock, last_token, KEYS[3])
local held, kept, at = found[1], found[2], found[3]
local id, ttl, stamp, record_end = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now

