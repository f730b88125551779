-- Counts a task that somebody else has started as one that is on its way.
-- ARGV: container (its reservation's name), deadline
-- Replies: expected
-- Atomic, being one command; it is a script so that all moves are told in one way.
redis.call('ZADD', STARTING, 'NX', a.deadline, a.container)
return { 'expected' }
