-- Gives up a container: its reservation, or its place and all it holds.
-- ARGV: now, container, why (what is known of it), silent_since? (only if no heartbeat came after that),
--   queue_wait, max_leases, retention
-- Replies: lost, [id, outcome, ..] (outcome: requeued or an end reason) | alive | unknown
-- Atomic, or: a heartbeat or claim that comes in between would leave sessions on a container that is
--   no longer in the registry.
local beat = redis.call('ZSCORE', CONTAINERS, a.container)
if not beat then
  if redis.call('ZREM', STARTING, a.container) == 0 then return { 'unknown', {} } end
  note_failed_start(a.container, a.why, a.now)
  return { 'lost', {} }
end
if given(a.silent_since) and tonumber(beat) > a.silent_since then return { 'alive' } end
local fields = redis.call('HMGET', container_key(a.container), 'launched', 'proved', 'startedAt')
if fields[1] == '1' and not fields[2] and a.now - number(fields[3]) < YOUNG then note_failed_start(a.container, a.why, a.now) end
return { 'lost', forget_container(a.container, a.now, a.queue_wait, a.max_leases, a.retention) }
