-- Removes ended sessions whose retention has passed.
-- ARGV: now, limit
-- Replies: purged, how many
-- Atomic, or: a page of the owner's list could name a session that is half gone.
local due = redis.call('ZRANGEBYSCORE', RETENTION, '-inf', a.now, 'LIMIT', 0, a.limit)
for _, id in ipairs(due) do
  local fields = redis.call('HMGET', session_key(id), 'userId', 'projectId')
  if fields[1] then
    redis.call('ZREM', sessions_of(owner_of(fields[1], fields[2])), id)
    -- A server of a version that knew no projects may have ended it, and left it there.
    no_longer_live(id, fields[1], fields[2])
  end
  redis.call('DEL', session_key(id))
  redis.call('ZREM', RETENTION, id)
end
return { 'purged', #due }
