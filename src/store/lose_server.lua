-- Gives up a server that no longer beats: its clients' connections have ended with it.
-- ARGV: now, server, limit, silent_since? (only if no heartbeat came after that)
-- Replies: lost, [connection, session, ..] | alive | unknown
-- At most `limit` connections at a time; the caller takes each out with `disconnect` and asks again. The
-- entry goes when none is left.
-- Atomic, or: a server that is only slow would be given up between two of its beats.
local beat = redis.call('ZSCORE', SERVERS, a.server)
if not beat then return { 'unknown' } end
if given(a.silent_since) and tonumber(beat) > a.silent_since then return { 'alive' } end
local found = {}
for _, connection in ipairs(redis.call('SRANDMEMBER', server_key(a.server), a.limit)) do
  local owner = redis.call('HGET', connection_key(connection), 'sessionId')
  if owner then
    table.insert(found, connection)
    table.insert(found, owner)
  else
    redis.call('SREM', server_key(a.server), connection)
  end
end
if redis.call('EXISTS', server_key(a.server)) == 0 then redis.call('ZREM', SERVERS, a.server) end
return { 'lost', found }
