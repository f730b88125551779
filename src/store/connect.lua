-- Enters a client's connection if the session's browser can be dialled now.
-- ARGV: now, id, connection, server, max_connections
-- Replies: ready, address, secret, expires_at, reached (0: whoever gets through tells so by `reach`) | waiting |
--   ended, reason | unknown | crowded (as many are connected as may be)
-- Atomic, or: a session could end between the look and the entry, and the entry would stay for ever; many who come at
--   once would all get in.
local key = session_key(a.id)
local fields = redis.call('HMGET', key, 'status', 'ready', 'containerId', 'cdpSecret', 'userId', 'expiresAt', 'endReason', 'reached')
if not fields[1] then return { 'unknown' } end
if fields[1] == 'ended' then return { 'ended', fields[7] } end
local address = fields[2] and redis.call('HGET', container_key(fields[3]), 'address')
if not address then return { 'waiting' } end
if crowded(a.id, a.connection, a.max_connections) then return { 'crowded' } end
redis.call('SADD', connections_key(a.id), a.connection)
redis.call('HSET', connection_key(a.connection), 'sessionId', a.id, 'userId', fields[5], 'serverId', a.server, 'connectedAt', a.now)
redis.call('SADD', server_key(a.server), a.connection)
redis.call('ZADD', SERVERS, 'GT', a.now, a.server)
redis.call('HSET', key, 'lastActivity', a.now)
-- Whoever comes after the first may get through, and does not say so.
if fields[8] then redis.call('HSET', key, 'reached', '1') end
wait_for(a.id, nil)
return { 'ready', address, fields[4], fields[6], fields[8] and 1 or 0 }
