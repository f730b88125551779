-- A server's heartbeat: its clients' connections count as long as it comes.
-- ARGV: now, server
-- Replies: beating
-- Atomic, being one command.
redis.call('ZADD', SERVERS, a.now, a.server)
return { 'beating' }
