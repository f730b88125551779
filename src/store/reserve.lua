-- Reserves containers to start, as many as are short at this moment.
-- ARGV: now, containers (ids, at most that many), start_wait, policy (as in create)
-- Replies: reserved, [id..]
-- Atomic, or: two plans made from the same look would both start what one of them must.
local reserved = {}
local short = containers_short(a.policy, a.now)
for _, id in ipairs(a.containers) do
  -- The client library repeats a command whose answer it lost with the connection.
  if redis.call('ZSCORE', STARTING, id) then
    table.insert(reserved, id)
  elseif short > 0 then
    redis.call('ZADD', STARTING, a.now + a.start_wait, id)
    table.insert(reserved, id)
    short = short - 1
  end
end
return { 'reserved', reserved }
