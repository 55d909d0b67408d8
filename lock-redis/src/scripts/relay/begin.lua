-- Releases the lock, and acquires it for the next id unless that is left to another process.
-- KEYS: lock, token, waiters, gone of the next id.
-- ARGV: id, stamp of the release; id, ttl in ms, stamp and end of the record of the acquire, and
-- optionally how many further tokens it reserves.
-- Returns {answer of release/one.lua}, and if the release has freed the lock and woken no process
-- {1, answer of acquire/one.lua or {10, message} if that would fail}.
local function release(KEYS, ARGV)
