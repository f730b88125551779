-- Writes down what a look decided, for people who ask later.
-- ARGV: now, decision (a JSON text), keep (how many)
-- Replies: recorded
-- Atomic, or: a process that dies in between leaves the list longer than it may be.
local WEEK = 604800000
redis.call('LPUSH', DECISIONS, a.decision)
redis.call('LTRIM', DECISIONS, 0, a.keep - 1)
redis.call('PEXPIRE', DECISIONS, WEEK)
return { 'recorded' }
