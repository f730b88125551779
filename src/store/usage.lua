-- Reads how long an owner's sessions had a container, those that have ended.
-- ARGV: owner
-- Replies: usage, milliseconds
-- Atomic, as every read is: one value of one hash, which each end counts up in the script that ends the session.
return { 'usage', number(redis.call('HGET', USAGE, a.owner)) }
