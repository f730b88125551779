-- Enters a connection whose socket a gateway holds, whether or not its session has a browser yet.
-- ARGV: now, id, connection, max_connections
-- Replies: entered, session, address and secret of its container, or '', '' | ended, reason | unknown |
--   crowded (as many are connected as may be)
-- Atomic, or: a session could end between the look and the entry, and the entry would stay for ever; or become
--   ready in between, and its container would not be told of the connection by either side.
local key = session_key(a.id)
local fields = redis.call('HMGET', key, 'status', 'ready', 'containerId', 'cdpSecret', 'userId', 'endReason')
if not fields[1] then return { 'unknown' } end
if fields[1] == 'ended' then return { 'ended', fields[6] } end
if crowded(a.id, a.connection, a.max_connections) then return { 'crowded' } end
redis.call('SADD', connections_key(a.id), a.connection)
redis.call('HSET', connection_key(a.connection), 'sessionId', a.id, 'userId', fields[5], 'gateway', '1', 'connectedAt', a.now)
redis.call('HSET', key, 'lastActivity', a.now)
if not fields[2] then return { 'entered', a.id, '', '' } end
wait_for(a.id, nil)
return { 'entered', a.id, redis.call('HGET', container_key(fields[3]), 'address') or '', fields[4] }
