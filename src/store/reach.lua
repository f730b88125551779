-- Notes that a client's connection has reached the session's browser.
-- ARGV: now, id, connection
-- Replies: reached | lost (the session has ended, or its container was given up, since it was entered)
-- A session that was reached is never given to another container; until then the dial of one whose container
-- hangs must not keep it from being served by another.
-- Atomic, or: a container given up in between would take a session with it whose client has just got through.
if redis.call('SISMEMBER', connections_key(a.id), a.connection) == 0 then return { 'lost' } end
-- By whom: the answer may be lost, and the client refused that was to be the first.
redis.call('HSETNX', session_key(a.id), 'reached', a.connection)
return { 'reached' }
