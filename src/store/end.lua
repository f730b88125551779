-- Ends a session, at its owner's word or at that of the container that holds it.
-- ARGV: now, id, reason, retention, and either owner, or container, lease, queue_wait
-- Replies: ended, session (with nothing kept: as it was before) | already, session | unknown
--   (a container that does not hold it, or one who does not own it, learns nothing else)
--          requeued   its container is being stopped, and nobody has reached it yet
-- Atomic, or: a release and a crash report at once would free the same slot twice.
local key = session_key(a.id)
local fields = redis.call('HMGET', key, 'status', 'userId', 'containerId', 'lease', 'projectId')
if not fields[1] then return { 'unknown' } end
if given(a.owner) and owner_of(fields[2], fields[5]) ~= a.owner then return { 'unknown' } end
if given(a.container) and (fields[3] ~= a.container or number(fields[4]) ~= a.lease) then return { 'unknown' } end
if fields[1] == 'ended' then return { 'already', session(a.id) } end
local before = session(a.id)
-- One that is stopped in order takes its browsers along like one that dies, but no session has brought it down.
if given(a.container) and a.reason == 'container_lost' then
  if lose_session(a.id, a.now, a.queue_wait, math.huge, a.retention) == 'requeued' then
    publish('pending')
    return { 'requeued' }
  end
else
  end_session(a.id, a.now, a.reason, a.retention)
end
if redis.call('EXISTS', key) == 1 then before = session(a.id) end
return { 'ended', before }
