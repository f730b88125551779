-- Gives up a container: its reservation, or its place and all it holds.
-- ARGV: now, container, silent_since? (only if no heartbeat came after that), queue_wait, max_leases, retention
-- Replies: lost, [id, outcome, ..] (outcome: requeued or an end reason) | alive | unknown
-- Atomic, or: a heartbeat or claim that comes in between would leave sessions on a container that is
--   no longer in the registry.
local beat = redis.call('ZSCORE', CONTAINERS, a.container)
if not beat then
  return { redis.call('ZREM', STARTING, a.container) == 1 and 'lost' or 'unknown', {} }
end
if given(a.silent_since) and tonumber(beat) > a.silent_since then return { 'alive' } end
return { 'lost', forget_container(a.container, a.now, a.queue_wait, a.max_leases, a.retention) }
