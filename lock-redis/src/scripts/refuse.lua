-- Follows acquire.lua where the lock is held.
if KEYS[4] then enqueue(KEYS[4], ARGV[5], ARGV[6] ~= '' and ARGV[6] or now, lock) end
return holder(lock, held, now)
