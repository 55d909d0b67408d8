-- Releases the lock if this id holds it.
-- KEYS: lock, token, waiters, gone; with python-redis-lock also its signal list. Without the last
-- ones, or only with lock and token, that is not enough for an id that does not hold the lock.
-- ARGV: id, stamp of this request; optionally ms to keep the lock refused, "1" on a cluster, and
-- "1" if an acquire of this id got no reply.
-- Returns 1; 5 if it has woken a process; 4 if this id has released before; {0, ...}; or {9} if the key gone is needed.
-- As in acquire/one.lua, globals are named once, and common.lua comes after what runs most often.

local KEYS, ARGV, call, sub = KEYS, ARGV, redis.call, string.sub
local lock, last_token, waiters = KEYS[1], KEYS[2], KEYS[3]
local found = call('MGET', lock, last_token)
local held, kept = found[1], found[2]
local id, stamp = ARGV[1], ARGV[2]
-- Whether processes may wait.
local may_wait = waiters

