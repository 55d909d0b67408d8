end

local answers = {}
for i = 1, #OF_ALL / 3 do
  local k, a = 3 * i, 2 * i
  -- pcall, because an odd key of one lock must not affect the others.
  local done, answer = pcall(
    attempt, OF_ALL[k - 2], OF_ALL[k - 1], OF_ALL[k], found[k - 2], found[k - 1],
    ARGUMENTS[a - 1], ARGUMENTS[a])
  answers[i] = done and answer or failure(answer)
end
return answers
