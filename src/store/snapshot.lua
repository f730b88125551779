-- Reads all that the scaling plan is made from: the containers, the reservations, the queue, and the servers. Grows
-- with the number of containers, never with that of sessions, but when the queue's list is thinned out.
-- ARGV: now, blind_after? (none: only to show it, and nobody is looking), decisions (how many of the last to tell)
-- Replies: snapshot, watched_since, looked_at, slots, used, mended (1: what was counted was not what there is, and is
--   put right), [container fields..], [id, deadline, ..], [server id, last beat, ..],
--   [failed starts, until when none is tried, when the last one failed, why, until when none is tried as too much was
--   asked of the fleet],
--   [sessions waiting, users waiting, since when the first of them or 0, outlook], [decision..]
-- `watched_since` is when this began to be looked at without a gap longer than `blind_after`: after an
--   outage, or with no server running, every heartbeat is old, and nobody must be judged by that.
-- All moves keep what is counted in step with what there is; somebody who changes something in Redis by hand does not.
-- Atomic, or: a container that registers between two reads counts twice, or not at all.

-- Who waits for long at the list's head keeps in it what has come behind it and waits no longer. It is taken out when it is
-- more than half of the list, so that each id costs as little as it did to put it there.
local SPARE = 1000
local function thin_queue()
  if redis.call('LLEN', PENDING) <= 2 * redis.call('ZCARD', ORDER) + SPARE then return end
  local listed, kept = redis.call('LRANGE', PENDING, 0, -1), {}
  redis.call('DEL', PENDING)
  for _, id in ipairs(listed) do
    -- Who was put back to the head may be there twice.
    if not kept[id] and redis.call('ZSCORE', ORDER, id) then
      kept[id] = true
      redis.call('RPUSH', PENDING, id)
    end
  end
end

if given(a.blind_after) then
  local last = number(redis.call('HGET', FLEET, 'lookedAt'))
  if a.now - last > a.blind_after then redis.call('HSET', FLEET, 'watchedSince', a.now) end
  if a.now > last then redis.call('HSET', FLEET, 'lookedAt', a.now) end
end
local failed = redis.call('HMGET', FLEET, 'failedStarts', 'holdUntil', 'failedAt', 'failedWhy', 'throttledUntil')
local containers, slots, used, mended = {}, 0, 0, 0
for _, id in ipairs(redis.call('ZRANGE', CONTAINERS, 0, -1)) do
  local key = container_key(id)
  local fields = redis.call('HMGET', key, 'draining', 'maxSessions', 'activeSessions')
  local held = redis.call('SCARD', held_key(id))
  if fields[1] == '0' then slots, used = slots + number(fields[2]), used + held end
  if given(a.blind_after) and not fields[1] then
    -- It comes again by its next claim, if it still runs.
    redis.call('ZREM', CONTAINERS, id)
    redis.call('ZREM', OPEN, id)
    mended = 1
  elseif given(a.blind_after) and number(fields[3]) ~= held then
    redis.call('HSET', key, 'activeSessions', held)
    note_room(id)
    mended = 1
  end
  if fields[1] then table.insert(containers, redis.call('HGETALL', key)) end
end
local fleet = redis.call('HMGET', FLEET, 'watchedSince', 'lookedAt', 'slots', 'used')
if given(a.blind_after) and (number(fleet[3]) ~= slots or number(fleet[4]) ~= used) then
  redis.call('HSET', FLEET, 'slots', slots, 'used', used)
  mended = 1
end
-- In the order of arrival; before the first that still waits there may be some that do not.
trim_queue(100)
if given(a.blind_after) then thin_queue() end
local first = redis.call('LINDEX', PENDING, 0)
local since = first and redis.call('HGET', session_key(first), 'createdAt')
return {
  'snapshot', number(fleet[1]), number(fleet[2]), slots, used, mended, containers,
  redis.call('ZRANGE', STARTING, 0, -1, 'WITHSCORES'), redis.call('ZRANGE', SERVERS, 0, -1, 'WITHSCORES'),
  { failed[1] or 0, failed[2] or 0, failed[3] or 0, failed[4] or '', failed[5] or 0 },
  { redis.call('ZCARD', ORDER), redis.call('HLEN', WAITING), since or 0, outlook() },
  a.decisions > 0 and redis.call('LRANGE', DECISIONS, 0, a.decisions - 1) or {},
}
