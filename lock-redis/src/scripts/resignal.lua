-- Passes a signal of python-redis-lock on that was taken and will not be used. KEYS: lock, signal list.
if redis.call('EXISTS', KEYS[1]) == 0 then signal(KEYS[2]) end
return 1
