-- Reads all that the scaling plan is made from: the containers, the reservations, the queue's length,
-- and the servers. Grows with the number of containers, never with that of sessions.
-- ARGV: now, blind_after
-- Replies: snapshot, watched_since, sessions waiting, slots, used, [container fields..], [id, deadline, ..],
--   [server id, last beat, ..], [failed starts, until when none is tried, when the last one failed, why]
-- `watched_since` is when this began to be looked at without a gap longer than `blind_after`: after an
--   outage, or with no server running, every heartbeat is old, and nobody must be judged by that.
-- Atomic, or: a container that registers between two reads counts twice, or not at all.
local last = number(redis.call('HGET', FLEET, 'lookedAt'))
if a.now - last > a.blind_after then redis.call('HSET', FLEET, 'watchedSince', a.now) end
if a.now > last then redis.call('HSET', FLEET, 'lookedAt', a.now) end
local fleet = redis.call('HMGET', FLEET, 'watchedSince', 'slots', 'used')
local failures = redis.call('HMGET', FLEET, 'failedStarts', 'holdUntil', 'failedAt', 'failedWhy')
local containers = {}
for _, id in ipairs(redis.call('ZRANGE', CONTAINERS, 0, -1)) do
  table.insert(containers, redis.call('HGETALL', container_key(id)))
end
return {
  'snapshot', number(fleet[1]), redis.call('ZCARD', ORDER), number(fleet[2]), number(fleet[3]), containers,
  redis.call('ZRANGE', STARTING, 0, -1, 'WITHSCORES'), redis.call('ZRANGE', SERVERS, 0, -1, 'WITHSCORES'),
  { failures[1] or 0, failures[2] or 0, failures[3] or 0, failures[4] or '' },
}
