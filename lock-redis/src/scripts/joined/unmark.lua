-- Ends the wait of an id, and wakes a process that it kept out. KEYS: mark, lock, waiters.
-- ARGV: id, "1" on a cluster.
if unmark(KEYS[1], ARGV[1]) then wake(KEYS[3], KEYS[2], ARGV[2]) end
return 1
