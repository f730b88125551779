-- Removes ended sessions whose retention has passed.
-- ARGV: now, limit
-- Replies: purged, how many
-- Atomic, or: a page of the owner's list could name a session that is half gone.
local due = redis.call('ZRANGEBYSCORE', RETENTION, '-inf', a.now, 'LIMIT', 0, a.limit)
for _, id in ipairs(due) do
  local user = redis.call('HGET', session_key(id), 'userId')
  if user then redis.call('ZREM', user_sessions_key(user), id) end
  redis.call('DEL', session_key(id))
  redis.call('ZREM', RETENTION, id)
end
return { 'purged', #due }
