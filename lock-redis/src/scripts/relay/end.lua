end

local released = release({KEYS[1], KEYS[2], KEYS[3]}, {ARGV[1], ARGV[2]})
if released ~= 1 then return {released} end
-- pcall, because the lock is released by now, and the caller has to know that.
local done, answer = pcall(
  acquire, {KEYS[1], KEYS[2], KEYS[4]}, {ARGV[3], ARGV[4], ARGV[5], ARGV[6], '', '', '', ARGV[7]})
return {1, done and answer or failure(answer)}
