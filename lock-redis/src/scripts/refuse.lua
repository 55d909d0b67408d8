-- Follows acquire.lua where the lock is held.
if KEYS[4] then enqueue(KEYS[4], ARGV[5], ARGV[6] ~= '' and ARGV[6] or now, KEYS[1]) end
return holder(KEYS[1], held, now)
