-- Lets a container deliver to a gateway's connection: its browser has answered, so the session stays there.
-- ARGV: connection, container
-- Replies: deliver, how many messages have been delivered to it so far
--          unknown   no such connection, or its session is not held by that container
-- Atomic, or: a container given up in between would take a session with it whose client has just got an answer.
local fields = redis.call('HMGET', connection_key(a.connection), 'sessionId', 'gateway', 'delivered')
if not fields[2] then return { 'unknown' } end
if redis.call('SISMEMBER', held_key(a.container), fields[1]) == 0 then return { 'unknown' } end
redis.call('HSET', session_key(fields[1]), 'reached', '1')
forget_messages(fields[1], a.connection)
return { 'deliver', number(fields[3]) }
