-- Passes on an unused signal of python-redis-lock. KEYS: lock, signal list.
if redis.call('EXISTS', KEYS[1]) == 0 then signal(KEYS[2]) end
return 1
