-- Takes a client's connection out; after the last one the grace time runs.
-- ARGV: now, id, connection, grace, connect_wait
-- Replies: disconnected, connections left | already
-- Atomic, or: the last connection's end and a new one's start could cross, and end a session in use.
if not forget_connection(a.id, a.connection) then return { 'already' } end
local key = session_key(a.id)
local left = redis.call('SCARD', connections_key(a.id))
redis.call('HSET', key, 'lastActivity', a.now)
if left == 0 and redis.call('HGET', key, 'keepAlive') == '0' then
  if redis.call('HEXISTS', key, 'reached') == 1 then
    wait_for(a.id, a.now + a.grace, 'disconnected')
  else
    wait_for(a.id, a.now + a.connect_wait, 'never_connected')
  end
end
return { 'disconnected', left }
