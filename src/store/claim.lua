-- A container's heartbeat: registers it, settles which sessions it holds, and hands it those whose turn it is
-- while it has room.
-- ARGV: now, container, address?, max, current, reported? (ids the container holds), proxy_bytes {id: how many so far}, phase, launched,
--   task_arn?, process? (its name), first (true: that process has had no answer yet), claim (this one's name), again (true: it has looked before, and waits), yield_for (how long a session is
--   left to a fuller container), start_wait, launch_wait (what a container may take to come), max_containers, queue_wait, max_leases, retention
-- Replies: claimed, drain (0 or 1), [id to end..], [session..], next (it is the one to look soon), yields (look again
--            when `yield_for` is over) or waits
--          surplus, [id to end..]     started by us, given up meanwhile, and one too many
--          gone                       answer to phase `leaving`
--          replaced                   another process has come under the same id since
--          superseded                 the container has asked anew since, has left or was given up: whoever waits
--            for this answer is not there any more, as a home that is behind a gateway is not told
-- Atomic, or: two processes of one id both serve what it holds; two containers pop the same session; a container that dies between pop and mark takes the
--   session with it; a session released while it is handed out keeps its slot for ever.
local key, held = container_key(a.container), held_key(a.container)
local reported = given(a.reported) and a.reported or {}

-- One that was given the id of another takes its place, and what that one ran is lost: either it has died, or two were
-- given one id, and both would run the same sessions.
local process = given(a.process) and redis.call('HGET', key, 'process')
if process and process ~= a.process then
  if not a.first or a.phase == 'leaving' then return { 'replaced' } end
  forget_container(a.container, a.now, a.queue_wait, a.max_leases, a.retention)
end

if not a.again then
  for id, bytes in pairs(a.proxy_bytes) do note_proxy_bytes(id, a.container, bytes) end
end

if a.phase == 'leaving' then
  forget_container(a.container, a.now, a.queue_wait, a.max_leases, a.retention)
  return { 'gone' }
end

if a.again and redis.call('HGET', key, 'claim') ~= a.claim then return { 'superseded' } end
if redis.call('EXISTS', key) == 0 then
  local deadline = redis.call('ZSCORE', STARTING, a.container)
  local expected = redis.call('ZREM', STARTING, a.container) == 1
  if a.launched and expected then note_came(math.max(0, a.now - (tonumber(deadline) - a.launch_wait))) end
  local full = redis.call('ZCARD', STARTING) + redis.call('ZCARD', CONTAINERS) >= a.max_containers
  if a.launched and not expected and full then return { 'surplus', reported } end
  -- It holds nothing, unless its hash alone was taken away by hand.
  local holds = redis.call('SCARD', held)
  redis.call('HINCRBY', FLEET, 'used', holds)
  redis.call('HSET', key, 'containerId', a.container, 'startedAt', a.now, 'idleSince', a.now,
    'activeSessions', holds, 'maxSessions', a.max, 'draining', '0', 'launched', a.launched and '1' or '0')
  redis.call('HINCRBY', FLEET, 'slots', a.max)
end
local draining = redis.call('HGET', key, 'draining') == '1'
if a.phase == 'draining' and not draining then
  start_draining(a.container)
  draining = true
end
if not draining then
  redis.call('HINCRBY', FLEET, 'slots', a.max - number(redis.call('HGET', key, 'maxSessions')))
end
redis.call('HSET', key, 'lastHeartbeat', a.now, 'maxSessions', a.max, 'claim', a.claim)
if given(a.address) then redis.call('HSET', key, 'address', a.address) end
if given(a.process) then redis.call('HSET', key, 'process', a.process) end
if given(a.task_arn) then redis.call('HSET', key, 'taskArn', a.task_arn) end
redis.call('ZADD', CONTAINERS, a.now, a.container)

-- What it runs and no longer holds is to end; what it holds and does not know of was handed out in an
-- answer that never arrived, or ran in a process that has been replaced.
local to_end, to_lose, handed = {}, {}, {}
for _, id in ipairs(reported) do
  if redis.call('SISMEMBER', held, id) == 0 then table.insert(to_end, id) end
end
if given(a.reported) then
  local known = {}
  for _, id in ipairs(reported) do known[id] = true end
  for _, id in ipairs(redis.call('SMEMBERS', held)) do
    if not known[id] then
      if redis.call('HEXISTS', session_key(id), 'ready') == 1 then
        table.insert(to_lose, id)
      else
        table.insert(handed, session(id))
      end
    end
  end
end
lose_sessions(to_lose, a.now, a.queue_wait, a.max_leases, a.retention)

local room = a.max - math.max(redis.call('SCARD', held), a.current + #handed)
if draining then room = 0 end
local turn = 'waits'
if room > 0 and a.yield_for > 0 then
  local fullest = redis.call('ZRANGE', OPEN, -1, -1, 'WITHSCORES')
  local head = redis.call('ZRANGE', ORDER, 0, 0)[1]
  local fuller = fullest[1] and fullest[1] ~= a.container and tonumber(fullest[2]) > redis.call('SCARD', held)
  if head and fuller and a.now - number(redis.call('HGET', session_key(head), 'createdAt')) < a.yield_for then
    room, turn = 0, 'yields'
  end
end
local taken = 0
while taken < room do
  local id = next_in_queue()
  if not id then break end
  local claimed = session_key(id)
  leave_queue(id, redis.call('HGET', claimed, 'userId'))
  redis.call('HSET', claimed, 'status', 'active', 'containerId', a.container, 'claimedAt', a.now)
  if given(a.task_arn) then redis.call('HSET', claimed, 'taskArn', a.task_arn) end
  redis.call('HINCRBY', claimed, 'lease', 1)
  redis.call('SADD', held, id)
  wait_for(id, a.now + a.start_wait, 'failed_to_start')
  table.insert(handed, session(id))
  taken = taken + 1
end
note_room(a.container)
if turn == 'waits' and redis.call('ZRANGE', OPEN, -1, -1)[1] == a.container then turn = 'next' end
if taken > 0 then
  trim_queue(2 * taken)
  note_drained(taken, a.now)
  redis.call('HINCRBY', key, 'activeSessions', taken)
  redis.call('HINCRBY', FLEET, 'used', taken)
  -- The next container may have room for the rest.
  if redis.call('ZCARD', ORDER) > 0 then publish('pending') end
end
return { 'claimed', draining and 1 or 0, to_end, handed, turn }
