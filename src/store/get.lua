-- Reads one session with its live connections and its place in the queue.
-- ARGV: id
-- Replies: session, session | unknown
-- Atomic, or: the place in the queue and the status could belong to different moments.
if redis.call('EXISTS', session_key(a.id)) == 0 then return { 'unknown' } end
return { 'session', session(a.id) }
