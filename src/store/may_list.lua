-- Takes the turn to ask the fleet what it runs, for all processes together.
-- ARGV: now, interval
-- Replies: yes | no (somebody has, less than the interval ago)
-- Atomic, or: all that look at the same moment ask.
if a.now - number(redis.call('HGET', FLEET, 'listedAt')) < a.interval then return { 'no' } end
redis.call('HSET', FLEET, 'listedAt', a.now)
return { 'yes' }
