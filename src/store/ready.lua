-- Notes that a claimed session's browser answers, and how to reach it.
-- ARGV: now, id, container, lease, secret, version (a JSON text), connect_wait
-- Replies: ready, milliseconds since the session was created, [connection, [message id, text, ..], ..]
--            (the gateway's clients that are there already, with what they have sent)
--          stale   not that container's, not that lease, or ended: the browser is to be killed
-- Atomic, or: a session that ended or moved in between would lead clients to a browser that is gone.
local key = session_key(a.id)
local fields = redis.call('HMGET', key, 'status', 'containerId', 'lease', 'keepAlive', 'ready', 'createdAt')
if fields[1] ~= 'active' or fields[2] ~= a.container or number(fields[3]) ~= a.lease then return { 'stale' } end
local waiting = {}
for _, connection in ipairs(redis.call('SMEMBERS', connections_key(a.id))) do
  if is_gateways(connection) then
    table.insert(waiting, connection)
    table.insert(waiting, redis.call('LRANGE', messages_key(connection), 0, -1))
  end
end
-- The report is repeated when its answer was lost; the clock for the first client must not start again.
if not fields[5] then
  redis.call('HSET', key, 'ready', '1', 'cdpSecret', a.secret, 'version', a.version)
  local wanted = fields[4] == '0' and #waiting == 0
  wait_for(a.id, wanted and a.now + a.connect_wait or nil, 'never_connected')
  note_good_start(a.container)
  publish('ready ' .. a.id)
end
return { 'ready', a.now - number(fields[6]), waiting }
