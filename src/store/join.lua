-- Lets a container come that a service has started: from now on it is one that is on its way.
-- ARGV: now, container, start_wait
-- Replies: welcome | taken (one of that name is there, and has a token)
-- Atomic, or: a look in between starts another in its place.
if redis.call('EXISTS', container_key(a.container)) == 1 then return { 'taken' } end
redis.call('ZADD', STARTING, 'NX', a.now + a.start_wait, a.container)
return { 'welcome' }
