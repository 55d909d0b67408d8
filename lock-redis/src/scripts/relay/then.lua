end

local function acquire(KEYS, ARGV)
