-- Notes how many messages have been delivered to a gateway's connection, in case the answer to its container is
-- lost.
-- ARGV: connection, delivered
-- Replies: noted | unknown (the connection has ended meanwhile)
-- Atomic, or: the note would make a connection of its own after the end of this one.
if redis.call('EXISTS', connection_key(a.connection)) == 0 then return { 'unknown' } end
redis.call('HSET', connection_key(a.connection), 'delivered', a.delivered)
return { 'noted' }
