-- Strikes out gateway connections that have been closed, and reads the next whose sessions have ended.
-- ARGV: closed ([connection, reason, ..] as read before), limit
-- Replies: closing, [connection, reason, ..]
-- Atomic, being a removal and a read that need not fit together; it is a script for the one round trip.
for i = 1, #a.closed, 2 do redis.call('ZREM', CLOSING, a.closed[i] .. ' ' .. a.closed[i + 1]) end
local found = {}
for _, entry in ipairs(redis.call('ZRANGE', CLOSING, 0, a.limit - 1)) do
  local connection, reason = string.match(entry, '^(%S+) (%S+)$')
  table.insert(found, connection)
  table.insert(found, reason)
end
return { 'closing', found }
