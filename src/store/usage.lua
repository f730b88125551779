-- Reads how long a user's sessions of one project had a container, those that have ended.
-- ARGV: user, project?
-- Replies: usage, milliseconds
-- Atomic, as every read is: one value of one hash, which each end counts up in the script that ends the session.
local project = given(a.project) and a.project or nil
return { 'usage', number(redis.call('HGET', USAGE, usage_of(a.user, project))) }
