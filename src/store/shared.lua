-- What several moves have in common; put in front of each script when it is loaded.
--
-- Every script is called with
--   KEYS[1]  <prefix>pending-sessions: names the prefix, and on a cluster routes to the one slot that
--            the prefix's hash tag stands for. All other keys are made from it.
--   ARGV[1]  a JSON object with named arguments; times are milliseconds since the epoch, durations
--            milliseconds. `now` is always one of them: a script never reads a clock.
-- and replies with a word, followed by what belongs to it.

local P = string.sub(KEYS[1], 1, -(string.len('pending-sessions') + 1))
local a = cjson.decode(ARGV[1])

local PENDING, ORDER = P .. 'pending-sessions', P .. 'pending-order'
local TURNS, WAITING = P .. 'pending-turns', P .. 'pending-users'
local DEADLINES, RETENTION = P .. 'session-deadlines', P .. 'session-retention'
local CONTAINERS, STARTING, FLEET = P .. 'containers', P .. 'containers-starting', P .. 'fleet'
local OPEN = P .. 'containers-open'
local USAGE = P .. 'usage'
local SERVERS, CLOSING, DECISIONS = P .. 'servers', P .. 'connections-closing', P .. 'fleet-decisions'

local function session_key(id) return P .. 'session:' .. id end
local function connections_key(id) return P .. 'session:' .. id .. ':connections' end
local function connection_key(id) return P .. 'connection:' .. id end
local function messages_key(id) return P .. 'connection:' .. id .. ':messages' end
local function container_key(id) return P .. 'container:' .. id end
local function held_key(id) return P .. 'container:' .. id .. ':sessions' end
local function server_key(id) return P .. 'server:' .. id .. ':connections' end

-- Whose a session is (`project:` or `user:` and a name): its project's, or else its user's.
local function owner_of(user, project) return project and 'project:' .. project or 'user:' .. user end
-- The owner's sessions that are kept, and those that live, by the time they were created. What lives of a project's is
-- also listed as its user's: both may be limited.
local function sessions_of(owner) return P .. owner .. ':sessions' end
local function live_of(owner) return P .. owner .. ':live' end
-- How fast its sessions are created.
local function rate_of(owner) return P .. owner .. ':rate' end

-- What one user does in one project, or in none: a repeated request is known again only there.
local function account_of(user, project) return project and user .. '@' .. project or user end
-- The creates of one body that a client may repeat without knowing whether they were carried out: the sessions they
-- made, by time, and how many of them were refused.
local function repeats_key(account, body) return P .. 'repeats:' .. account .. ':' .. body end
local function refused_key(account, body) return repeats_key(account, body) .. ':refused' end

local function number(text) return tonumber(text or 0) or 0 end

local function publish(message) redis.call('PUBLISH', P .. 'events', message) end

-- cjson reads JSON null as a value of its own, which Lua takes for true.
local function given(value) return value ~= nil and value ~= cjson.null end

-- What a session waits for beside its end: at most one thing at a time (a container, a browser, the
-- first client, a client's return). When `at` passes, the session ends with `reason`.
local function wait_for(id, at, reason)
  local key = session_key(id)
  local expires_at = number(redis.call('HGET', key, 'expiresAt'))
  if at and at < expires_at then
    redis.call('HSET', key, 'waitUntil', at, 'waitReason', reason)
    redis.call('ZADD', DEADLINES, at, id)
  else
    redis.call('HDEL', key, 'waitUntil', 'waitReason')
    redis.call('ZADD', DEADLINES, expires_at, id)
  end
end

-- The queue. `pending-sessions` lists who waits in the order of arrival, those put back to the head first; it may
-- hold ids that wait no longer, until they come to its head. `pending-order` is the order in which they are served:
-- users take turns, and the sessions of one user are served in the order in which they came. So somebody's thousand
-- sessions keep another's single one waiting for one turn only.
--
-- The turn of a new session is the one after its user's last that waits, but none that is over already. A score is
-- the turn, and within a turn the order of arrival (27 bits: only within one turn can they be mistaken, if so many
-- sessions came in between). Whoever is put back to the head has a score below 0.
local TURN = 134217728

local function join_queue(id, user, seq)
  local turn = math.max(number(redis.call('HGET', FLEET, 'turn')), number(redis.call('HGET', TURNS, user)))
  redis.call('HSET', TURNS, user, turn + 1)
  redis.call('HINCRBY', WAITING, user, 1)
  -- Lua would write so large a number with fewer digits than it has.
  redis.call('ZADD', ORDER, string.format('%.0f', turn * TURN + seq % TURN), id)
  redis.call('RPUSH', PENDING, id)
end

local function rejoin_queue(id, user)
  redis.call('HINCRBY', WAITING, user, 1)
  redis.call('ZADD', ORDER, redis.call('HINCRBY', FLEET, 'queueHead', -1), id)
  redis.call('LPUSH', PENDING, id)
end

local function leave_queue(id, user)
  redis.call('ZREM', ORDER, id)
  if redis.call('HINCRBY', WAITING, user, -1) == 0 then
    redis.call('HDEL', WAITING, user)
    redis.call('HDEL', TURNS, user)
  end
  if redis.call('ZCARD', ORDER) == 0 then
    redis.call('HDEL', FLEET, 'turn', 'queueHead')
    -- What is still listed waits no longer.
    redis.call('DEL', PENDING)
  end
end

-- Takes ids that wait no longer from the list's head: taking one out of its middle would cost as much as it is long.
local function trim_queue(limit)
  for _ = 1, limit do
    local head = redis.call('LINDEX', PENDING, 0)
    if not head or redis.call('ZSCORE', ORDER, head) then return end
    redis.call('LPOP', PENDING)
  end
end

-- Whose turn it is. Nil if nobody waits. A session that somebody else has deleted from Redis must not keep all others
-- waiting.
local function next_in_queue()
  local head = redis.call('ZRANGE', ORDER, 0, 0, 'WITHSCORES')
  while head[1] and redis.call('EXISTS', session_key(head[1])) == 0 do
    redis.call('ZREM', ORDER, head[1])
    redis.call('ZREM', DEADLINES, head[1])
    head = redis.call('ZRANGE', ORDER, 0, 0, 'WITHSCORES')
  end
  if not head[1] then return nil end
  local turn = math.floor(tonumber(head[2]) / TURN)
  if turn > number(redis.call('HGET', FLEET, 'turn')) then redis.call('HSET', FLEET, 'turn', turn) end
  return head[1]
end

-- How fast the queue moves: how many have been served lately, where each counts for less as time goes by, to a third
-- after a minute; and when that was noted. src/session.rs reckons with it.
local function drained()
  local fields = redis.call('HMGET', FLEET, 'drained', 'drainedAt')
  return fields[1] or '0', fields[2] or '0'
end

local function note_drained(count, now)
  local before, at = drained()
  local lately = number(before) * math.exp(math.min(0, number(at) - now) / 60000) + count
  redis.call('HSET', FLEET, 'drained', string.format('%.6f', lately), 'drainedAt', now)
end

-- How long a container takes to come, of which the latest count for most.
local function note_came(took)
  local before = redis.call('HGET', FLEET, 'startTook')
  redis.call('HSET', FLEET, 'startTook', math.floor(before and tonumber(before) * 0.7 + took * 0.3 or took))
end

-- What can be said of how long somebody will wait: how fast the queue moves, how many slots are free, how many containers
-- are on their way, when the first of them must have come, and how long they take. In a list of its own.
local function outlook()
  local fleet = redis.call('HMGET', FLEET, 'slots', 'used', 'startTook')
  local lately, at = drained()
  local first = redis.call('ZRANGE', STARTING, 0, 0, 'WITHSCORES')
  local free = math.max(0, number(fleet[1]) - number(fleet[2]))
  return { lately, at, free, redis.call('ZCARD', STARTING), number(first[2]), number(fleet[3]) }
end

-- The session as the API shows it.
local function session(id)
  return {
    redis.call('HGETALL', session_key(id)),
    redis.call('SCARD', connections_key(id)),
    redis.call('ZRANK', ORDER, id),
    outlook(),
  }
end

-- Whether a gateway holds its socket, and not one of our servers.
local function is_gateways(connection) return redis.call('HEXISTS', connection_key(connection), 'gateway') == 1 end

-- Whether a session has no place for one more connection.
local function crowded(id, connection, max)
  local key = connections_key(id)
  return redis.call('SCARD', key) >= max and redis.call('SISMEMBER', key, connection) == 0
end

-- The messages of a gateway's client that were kept in case another container would have to get them.
local function forget_messages(session_id, connection)
  local count = redis.call('LLEN', messages_key(connection)) / 2
  if count == 0 then return end
  local bytes = number(redis.call('HGET', connection_key(connection), 'heldBytes'))
  redis.call('DEL', messages_key(connection))
  redis.call('HDEL', connection_key(connection), 'heldBytes')
  redis.call('HINCRBY', session_key(session_id), 'heldBytes', 0 - bytes)
  redis.call('HINCRBY', session_key(session_id), 'heldMessages', 0 - count)
end

local function forget_connection(session_id, connection)
  local key = connection_key(connection)
  local server = redis.call('HGET', key, 'serverId')
  if server then redis.call('SREM', server_key(server), connection) end
  forget_messages(session_id, connection)
  redis.call('DEL', key)
  return redis.call('SREM', connections_key(session_id), connection) == 1
end

-- The containers that take work and have room for it, by how many sessions they hold. The fullest is served first:
-- what is spread over all of them would keep each of them from ever being idle.
local function note_room(id)
  local fields = redis.call('HMGET', container_key(id), 'draining', 'maxSessions')
  local count = redis.call('SCARD', held_key(id))
  if fields[1] == '0' and count < number(fields[2]) then
    redis.call('ZADD', OPEN, count, id)
  else
    redis.call('ZREM', OPEN, id)
  end
end

-- Frees the slot the session holds. `fleet` counts the slots of containers that take work.
local function leave_container(id, container, now)
  redis.call('SREM', held_key(container), id)
  local key = container_key(container)
  redis.call('HINCRBY', key, 'activeSessions', -1)
  if redis.call('SCARD', held_key(container)) == 0 then redis.call('HSET', key, 'idleSince', now) end
  if redis.call('HGET', key, 'draining') == '0' then redis.call('HINCRBY', FLEET, 'used', -1) end
  note_room(container)
end

-- Takes a session out of the lists of what lives.
local function no_longer_live(id, user, project)
  redis.call('ZREM', live_of('user:' .. user), id)
  if project then redis.call('ZREM', live_of('project:' .. project), id) end
end

local function end_session(id, now, reason, retention)
  local key = session_key(id)
  local fields = redis.call('HMGET', key, 'status', 'userId', 'containerId', 'claimedAt', 'projectId')
  local user, container, project = fields[2], fields[3], fields[5]
  if fields[1] == 'pending' then leave_queue(id, user) end
  if container then leave_container(id, container, now) end
  if fields[4] then
    -- How long an owner's sessions had a container, in milliseconds.
    redis.call('HINCRBY', USAGE, owner_of(user, project), math.max(0, now - number(fields[4])))
  end
  for _, connection in ipairs(redis.call('SMEMBERS', connections_key(id))) do
    -- Ours are closed by the server that holds them, which hears of the end.
    if is_gateways(connection) then redis.call('ZADD', CLOSING, now, connection .. ' ' .. reason) end
    forget_connection(id, connection)
  end
  redis.call('ZREM', DEADLINES, id)
  no_longer_live(id, user, project)
  if retention > 0 then
    redis.call('HDEL', key, 'waitUntil', 'waitReason', 'cdpSecret', 'proxyCredentials', 'ready', 'reached',
      'heldBytes', 'heldMessages')
    redis.call('HSET', key, 'status', 'ended', 'endedAt', now, 'endReason', reason)
    redis.call('ZADD', RETENTION, now + retention, id)
    -- Only in case nothing ever looks again: what is due is taken away by `purge`.
    redis.call('PEXPIRE', key, retention + 3600000)
  else
    redis.call('DEL', key)
    redis.call('ZREM', sessions_of(owner_of(user, project)), id)
  end
  publish('ended ' .. id .. ' ' .. reason .. ' ' .. (container or '-'))
end

-- How much went through a session's proxies, from the beginning on: what is said twice counts once. It is said only by
-- the container that holds it, or in which it has ended.
local function note_proxy_bytes(id, container, bytes)
  local key = session_key(id)
  local fields = redis.call('HMGET', key, 'containerId', 'userId', 'projectId', 'proxyBytes')
  local more = bytes - number(fields[4])
  if fields[1] ~= container or more <= 0 then return end
  -- Lua would write so large a number with fewer digits than it has.
  redis.call('HSET', key, 'proxyBytes', string.format('%.0f', bytes))
  redis.call('HINCRBY', USAGE, 'proxyBytes:' .. owner_of(fields[2], fields[3]), string.format('%.0f', more))
end

-- The browser of this session is gone, and not by its own doing: whoever nobody has reached yet is
-- served by another container, first of all; for the others it is the end.
local function lose_session(id, now, queue_wait, max_leases, retention)
  local key = session_key(id)
  local fields = redis.call('HMGET', key, 'reached', 'lease', 'containerId', 'userId')
  if fields[1] then
    end_session(id, now, 'container_lost', retention)
    return 'container_lost'
  end
  -- One that takes down every container it comes to must not go on for ever.
  if number(fields[2]) >= max_leases then
    end_session(id, now, 'failed_to_start', retention)
    return 'failed_to_start'
  end
  leave_container(id, fields[3], now)
  -- Of clients whose dial is under way: it leads nowhere. A gateway's clients stay, with what they have sent.
  for _, connection in ipairs(redis.call('SMEMBERS', connections_key(id))) do
    if not is_gateways(connection) then forget_connection(id, connection) end
  end
  redis.call('HDEL', key, 'containerId', 'taskArn', 'claimedAt', 'ready', 'cdpSecret', 'version')
  redis.call('HSET', key, 'status', 'pending')
  rejoin_queue(id, fields[4])
  wait_for(id, now + queue_wait, 'queue_timeout')
  publish('requeued ' .. id)
  return 'requeued'
end

-- Loses several, so that at the queue's head they stand in the order in which they were created. Returns a
-- flat list of session, outcome.
local function lose_sessions(ids, now, queue_wait, max_leases, retention)
  local seq, outcomes = {}, {}
  for _, id in ipairs(ids) do seq[id] = number(redis.call('HGET', session_key(id), 'queueSeq')) end
  table.sort(ids, function(x, y) return seq[x] > seq[y] end)
  for _, id in ipairs(ids) do
    table.insert(outcomes, id)
    table.insert(outcomes, lose_session(id, now, queue_wait, max_leases, retention))
  end
  return outcomes
end

-- Takes a container out of the registry. Returns what became of its sessions.
local function forget_container(id, now, queue_wait, max_leases, retention)
  local key = container_key(id)
  local outcomes = lose_sessions(redis.call('SMEMBERS', held_key(id)), now, queue_wait, max_leases, retention)
  local draining = redis.call('HGET', key, 'draining')
  if draining == '0' then
    redis.call('HINCRBY', FLEET, 'slots', 0 - number(redis.call('HGET', key, 'maxSessions')))
  elseif draining == '1' then
    redis.call('HINCRBY', FLEET, 'draining', -1)
  end
  redis.call('DEL', key, held_key(id))
  redis.call('ZREM', CONTAINERS, id)
  redis.call('ZREM', OPEN, id)
  redis.call('ZREM', STARTING, id)
  if redis.call('ZCARD', ORDER) > 0 then publish('pending') end
  return outcomes
end

-- How many containers take work, or would if they had room.
local function serving() return redis.call('ZCARD', CONTAINERS) - number(redis.call('HGET', FLEET, 'draining')) end

local function start_draining(id)
  local key = container_key(id)
  redis.call('HSET', key, 'draining', '1')
  redis.call('HINCRBY', FLEET, 'draining', 1)
  redis.call('ZREM', OPEN, id)
  redis.call('HINCRBY', FLEET, 'slots', 0 - number(redis.call('HGET', key, 'maxSessions')))
  -- Not `-x`: Lua has a negative zero, and Redis takes it for no integer.
  redis.call('HINCRBY', FLEET, 'used', 0 - redis.call('SCARD', held_key(id)))
end

-- A container that was to come and did not, or came and was gone before it was of any use. What makes one fail makes
-- the next one fail, too, most of the time: the first comes at once, and then each failed attempt makes the pause
-- before the next longer. All that fails within one pause was one attempt.
local FIRST_PAUSE, LONGEST_PAUSE, FORGET_FAILURES = 1000, 30000, 600000
-- A fleet of which too much was asked has not failed, and takes more before long: ECS allows for 20 starts a second.
local THROTTLED_PAUSE = 2000
-- One that was of no use for longer than this was of use: it stood by.
local YOUNG = 60000

local function note_failed_start(container, why, now)
  -- A service of ECS, which starts others in its stead, has a pace of its own.
  if string.sub(container, 1, 5) == 'task-' then return end
  local fields = redis.call('HMGET', FLEET, 'failedStarts', 'holdUntil')
  local failed, hold_until = number(fields[1]), number(fields[2])
  if now >= hold_until then
    failed = now - hold_until > FORGET_FAILURES and 1 or failed + 1
    hold_until = now + math.min(FIRST_PAUSE * 2 ^ (failed - 1), LONGEST_PAUSE)
  end
  redis.call('HSET', FLEET, 'failedStarts', failed, 'holdUntil', hold_until, 'failedAt', now, 'failedWhy', why)
end

-- A container has shown that it is of use.
local function note_good_start(container)
  local key = container_key(container)
  if redis.call('HSETNX', key, 'proved', '1') == 0 then return end
  local failed_at = redis.call('HGET', FLEET, 'failedAt')
  if failed_at and number(redis.call('HGET', key, 'startedAt')) >= number(failed_at) then
    redis.call('HDEL', FLEET, 'failedStarts', 'holdUntil', 'failedAt', 'failedWhy')
  end
end

-- How many containers are to be started now: enough slots for all who wait and for `warm_slots` more,
-- at least `min_containers`, never more than `max_containers`; none while starts fail and the pause is not over.
-- src/scaling.rs has the same sum.
local function containers_short(policy, now)
  local pauses = redis.call('HMGET', FLEET, 'holdUntil', 'throttledUntil')
  if now < math.max(number(pauses[1]), number(pauses[2])) then return 0 end
  local per = policy.sessions_per_container
  local starting, running = redis.call('ZCARD', STARTING), redis.call('ZCARD', CONTAINERS)
  local fleet = redis.call('HMGET', FLEET, 'slots', 'used')
  local wanted = redis.call('ZCARD', ORDER) + policy.warm_slots
  local coming = number(fleet[1]) - number(fleet[2]) + starting * per
  local short = math.max(math.ceil((wanted - coming) / per), policy.min_containers - starting - serving())
  return math.max(0, math.min(short, policy.max_containers - starting - running))
end
