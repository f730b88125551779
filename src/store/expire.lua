-- Ends the sessions whose time, or whose patience, is up.
-- ARGV: now, retention, limit
-- Replies: expired, [id, reason, ..]
-- Atomic, or: a session whose client returns at the last moment would be ended under it.
local due = redis.call('ZRANGEBYSCORE', DEADLINES, '-inf', a.now, 'LIMIT', 0, a.limit)
local ended = {}
for _, id in ipairs(due) do
  local fields = redis.call('HMGET', session_key(id), 'status', 'waitUntil', 'waitReason')
  if fields[1] then
    local reason = fields[2] and number(fields[2]) <= a.now and fields[3] or 'timeout'
    end_session(id, a.now, reason, a.retention)
    table.insert(ended, id)
    table.insert(ended, reason)
  else
    redis.call('ZREM', DEADLINES, id)
  end
end
trim_queue(a.limit)
-- A gateway lets no connection live longer than two hours: what nobody closed is closed.
redis.call('ZREMRANGEBYSCORE', CLOSING, '-inf', a.now - 7200000)
return { 'expired', ended }
