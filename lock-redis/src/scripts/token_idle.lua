-- How long the token of an unused name is kept, in ms: 30 days. Without it tokens still rise by the
-- server's clock.
-- A string, like all command arguments in the scripts that run most: formatting a number with 17
-- digits takes Redis longer than storing it.
local TOKEN_IDLE = '2592000000'

