-- Reads what an owner's sessions have used: how long those that have ended had a container, and what went through proxies.
-- ARGV: owner
-- Replies: usage, milliseconds, bytes
-- Atomic, as every read is: two values of one hash, which the scripts count up that end a session, or hear of its proxies.
local used = redis.call('HMGET', USAGE, a.owner, 'proxyBytes:' .. a.owner)
return { 'usage', number(used[1]), number(used[2]) }
