-- Ends the wait of an id, and wakes a process that it kept out.
-- KEYS: mark, lock, waiters, token, queue, places. ARGV: id, "1" on a cluster.
local marked = unmark(KEYS[1], ARGV[1])
local placed = end_place(KEYS[5], KEYS[6], KEYS[3], ARGV[1])
if placed then note_queue(KEYS[4], KEYS[5]) end
local kind = redis.call('TYPE', KEYS[2]).ok
if marked or placed and (kind == 'none' or kind == 'zset') then wake(KEYS[3], KEYS[2], ARGV[2]) end
return 1
