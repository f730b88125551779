-- Stops handing work to a container: to one that has been idle, if it still is, or to one that is about to end anyway.
-- ARGV: now, container, idle_for? (none: whatever it holds), policy (as in create)
-- Replies: draining | busy (it has a session, was idle too short, or is needed) | unknown (or draining already)
-- Atomic, or: a claim between the look and the mark puts a session on a container about to stop.
local key = container_key(a.container)
local fields = redis.call('HMGET', key, 'draining', 'idleSince', 'maxSessions')
if not fields[1] or fields[1] == '1' then return { 'unknown' } end
if given(a.idle_for) then
  local fleet = redis.call('HMGET', FLEET, 'slots', 'used')
  local idle = redis.call('SCARD', held_key(a.container)) == 0 and number(fields[2]) + a.idle_for <= a.now
  local spare = number(fleet[1]) - number(fleet[2]) - number(fields[3])
  local needed = redis.call('ZCARD', ORDER) + a.policy.warm_slots > spare
    or serving() <= a.policy.min_containers
  if not idle or needed then return { 'busy' } end
end
start_draining(a.container)
publish('drain ' .. a.container)
return { 'draining' }
