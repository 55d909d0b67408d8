-- How long the old holder can find out who broke its lock, in ms: one hour.
local BROKEN_FOR = 3600000

