-- Gives back the reservation of a container that will not come.
-- ARGV: container
-- Replies: given_back | already (it has come, or was given back before)
-- Atomic, being one command; it is a script so that all moves are told in one way.
return { redis.call('ZREM', STARTING, a.container) == 1 and 'given_back' or 'already' }
