-- Gives back the reservation of a container that will not come.
-- ARGV: now, container, why? (it should have come: what is known of why it did not), throttled (true: it was not
--   tried, as too much was asked of the fleet)
-- Replies: given_back | already (it has come, or was given back before)
-- Atomic, or: a start that failed is noted, and its reservation keeps others from being started; or the next one
--   follows at once, as nothing is noted yet.
if redis.call('ZREM', STARTING, a.container) == 0 then return { 'already' } end
if a.throttled then
  redis.call('HSET', FLEET, 'throttledUntil', a.now + THROTTLED_PAUSE)
elseif given(a.why) then
  note_failed_start(a.container, a.why, a.now)
end
return { 'given_back' }
