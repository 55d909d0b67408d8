-- Returns the answer for a lock whose request failed with this error.
local function failure(error)
  -- Redis throws a text until version 6, and a table since version 7.
  return {10, type(error) == 'table' and error.err or error}
end
