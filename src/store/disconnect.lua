-- Takes a client's connection out; after the last one the grace time runs.
-- ARGV: now, connection, id? (a gateway does not know it), never_in (true: its client was refused, whatever may have been
--   noted), grace, connect_wait
-- Replies: disconnected, session, address and secret of the container that has to be told, or '', '' | already
-- Atomic, or: the last connection's end and a new one's start could cross, and end a session in use.
local entry = redis.call('HMGET', connection_key(a.connection), 'sessionId', 'gateway')
local id = given(a.id) and a.id or entry[1]
if not id or not forget_connection(id, a.connection) then return { 'already' } end
local key = session_key(id)
local fields = redis.call('HMGET', key, 'keepAlive', 'reached', 'ready', 'containerId', 'cdpSecret')
redis.call('HSET', key, 'lastActivity', a.now)
if a.never_in and fields[2] == a.connection then
  redis.call('HDEL', key, 'reached')
  fields[2] = nil
end
-- Without a browser it waits for something else already.
if fields[3] and fields[1] == '0' and redis.call('SCARD', connections_key(id)) == 0 then
  if fields[2] then
    wait_for(id, a.now + a.grace, 'disconnected')
  else
    wait_for(id, a.now + a.connect_wait, 'never_connected')
  end
end
local address = entry[2] and fields[3] and redis.call('HGET', container_key(fields[4]), 'address')
return { 'disconnected', id, address or '', address and fields[5] or '' }
