-- Says to which container a gateway client's message goes, and keeps it until a browser is known to answer.
-- ARGV: connection, message (its id), text, again (true: it was kept before), max_messages, max_bytes
-- Replies: route, session, address, secret, settled (1: the session stays where it is to its end)
--          held      there is no browser yet: the container gets it in the answer to its `ready`
--          full      no browser yet, and as much is kept for the session as may be
--          unknown   no such connection, or its session has ended
-- Until the session is settled its container may be lost and another take its place, and that must get all
-- messages from the first on: so each is kept, also when it is brought.
-- Atomic, or: a message kept just after `ready` has read them would be brought by nobody.
local id = redis.call('HGET', connection_key(a.connection), 'sessionId')
if not id then return { 'unknown' } end
local key = session_key(id)
local fields = redis.call('HMGET', key, 'ready', 'containerId', 'cdpSecret', 'reached', 'heldMessages', 'heldBytes')
if not fields[4] and not a.again then
  local bytes = string.len(a.text)
  if number(fields[5]) >= a.max_messages or number(fields[6]) + bytes > a.max_bytes then return { 'full' } end
  redis.call('RPUSH', messages_key(a.connection), a.message, a.text)
  redis.call('HINCRBY', connection_key(a.connection), 'heldBytes', bytes)
  redis.call('HINCRBY', key, 'heldBytes', bytes)
  redis.call('HINCRBY', key, 'heldMessages', 1)
end
local address = fields[1] and redis.call('HGET', container_key(fields[2]), 'address')
if not address then return { 'held' } end
return { 'route', id, address, fields[3], fields[4] and 1 or 0 }
