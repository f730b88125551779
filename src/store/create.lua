-- Writes a session, puts it at the end of the queue, and reserves a container if slots are short.
-- ARGV: now, id, user, timeout, expires_at, keep_alive, browser_settings and user_metadata (JSON texts),
--   queue_wait, max_pending, max_per_user and per_minute (0: no limit), max_per_project and project_per_minute (the
--   same, if there is a project), container (the id to reserve), start_wait,
--   policy {sessions_per_container, warm_slots, min_containers, max_containers},
--   project?, proxy_credentials? (a JSON text, which is kept no longer than the session lives), extension? (the hash of
--   its archive), idempotency? {key, body, ttl}, or again? {body, attempt (0: the first), ttl}: what a client repeats
--   without a key, with a body that others may send as well
-- Replies: created, session, container id or '', the user's creates left, until all are back, the same of the project
--          again, session           the same Idempotency-Key and body made it before, or an attempt whose answer was lost
--          conflict                 the same key, another body
--          forgotten                the same key and body, but its session is no longer kept
--          queue_full, outlook
--          user_limit, or project_limit
--          too_fast, user or project (whose limit it is), until one more may be created, until all may
-- Atomic, or: two creates at the limit both get in; two repeated creates are given the same session; N creates at zero
--   capacity each start a task of their own; a crash in between leaves a session that stands in no queue.
local project = given(a.project) and a.project
local account = account_of(a.user, project)
local idempotency = given(a.idempotency) and P .. 'idempotency:' .. account .. ':' .. a.idempotency.key
if idempotency then
  local before = redis.call('HMGET', idempotency, 'body', 'sessionId')
  if before[1] and before[1] ~= a.idempotency.body then return { 'conflict' } end
  if before[2] and redis.call('EXISTS', session_key(before[2])) == 0 then return { 'forgotten' } end
  if before[2] then return { 'again', session(before[2]) } end
end

-- The client library repeats a command whose answer it lost with the connection.
if redis.call('EXISTS', session_key(a.id)) == 1 then
  return { 'created', session(a.id), redis.call('ZSCORE', STARTING, a.container) and a.container or '', 0, 0, 0, 0 }
end

-- A client that repeats a create gets what the lost attempt made: the oldest session of that body that nobody has
-- reached, and that nobody was given who has repeated as often. Whoever was refused before has lost nothing, and gets
-- one of its own: otherwise it would share the browser of somebody who had sent the same body.
local repeats = given(a.again) and repeats_key(account, a.again.body)
local refused = repeats and refused_key(account, a.again.body)
local LOOKS = 100
if repeats then
  redis.call('ZREMRANGEBYSCORE', repeats, '-inf', a.now - a.again.ttl)
  local was_refused = a.again.attempt > 0 and number(redis.call('HGET', refused, 'count')) > 0
  if was_refused then redis.call('HINCRBY', refused, 'count', -1) end
  if a.again.attempt > 0 and not was_refused then
    for _, id in ipairs(redis.call('ZRANGE', repeats, 0, LOOKS - 1)) do
      local made = redis.call('HMGET', session_key(id), 'status', 'reached', 'attempt')
      if not made[1] or made[1] == 'ended' or made[2] then
        redis.call('ZREM', repeats, id)
      elseif number(made[3]) < a.again.attempt then
        redis.call('HSET', session_key(id), 'attempt', a.again.attempt)
        return { 'again', session(id) }
      end
    end
  end
end
local function refuse(answer)
  if repeats then
    redis.call('HINCRBY', refused, 'count', 1)
    redis.call('PEXPIRE', refused, a.again.ttl)
  end
  return answer
end

if redis.call('ZCARD', ORDER) >= a.max_pending then return refuse({ 'queue_full', outlook() }) end
local of_user, of_project = 'user:' .. a.user, project and 'project:' .. project
local function is_full(owner, most) return owner and most > 0 and redis.call('ZCARD', live_of(owner)) >= most end
if is_full(of_user, a.max_per_user) then return refuse({ 'user_limit' }) end
if is_full(of_project, a.max_per_project) then return refuse({ 'project_limit' }) end

-- The creates of a user, and those of a project, take turns at even distances (the "generic cell rate algorithm"): those of one minute may come at
-- once, and then each has to wait until one of them is a minute old. All that is kept is when the last turn taken is over.
local MINUTE = 60000
local function next_turn(owner, per_minute)
  if not owner or per_minute == 0 then return { left = 0, back = 0, late = 0 } end
  local step = MINUTE / per_minute
  local over = math.max(a.now, number(redis.call('HGET', rate_of(owner), 'over'))) + step
  local back = over - a.now
  return {
    key = rate_of(owner), over = over, back = back, left = math.floor((MINUTE - back) / step + 0.001),
    late = back > MINUTE + 0.5 and back - MINUTE or 0, without = back - step,
  }
end
local function too_fast(whose, turn)
  return refuse({ 'too_fast', whose, math.ceil(turn.late), math.ceil(turn.without) })
end
-- Neither is taken before it is known that both may be.
local users, projects = next_turn(of_user, a.per_minute), next_turn(of_project, a.project_per_minute)
if users.late > 0 and users.late >= projects.late then return too_fast('user', users) end
if projects.late > 0 then return too_fast('project', projects) end
for _, turn in ipairs({ users, projects }) do
  if turn.key then
    redis.call('HSET', turn.key, 'over', string.format('%.3f', turn.over))
    redis.call('PEXPIRE', turn.key, math.ceil(turn.back))
  end
end

local seq = redis.call('HINCRBY', FLEET, 'queueTail', 1)
redis.call('HSET', session_key(a.id),
  'sessionId', a.id, 'userId', a.user, 'status', 'pending', 'createdAt', a.now, 'lastActivity', a.now,
  'timeout', a.timeout, 'expiresAt', a.expires_at, 'keepAlive', a.keep_alive and '1' or '0',
  'browserSettings', a.browser_settings, 'userMetadata', a.user_metadata, 'queueSeq', seq)
if project then redis.call('HSET', session_key(a.id), 'projectId', project) end
if given(a.proxy_credentials) then redis.call('HSET', session_key(a.id), 'proxyCredentials', a.proxy_credentials) end
if given(a.extension) then redis.call('HSET', session_key(a.id), 'extension', a.extension) end
join_queue(a.id, a.user, seq)
redis.call('ZADD', sessions_of(owner_of(a.user, project)), a.now, a.id)
redis.call('ZADD', live_of(of_user), a.now, a.id)
if project then redis.call('ZADD', live_of(of_project), a.now, a.id) end
wait_for(a.id, a.now + a.queue_wait, 'queue_timeout')
if idempotency then
  redis.call('HSET', idempotency, 'body', a.idempotency.body, 'sessionId', a.id)
  redis.call('PEXPIRE', idempotency, a.idempotency.ttl)
end
if repeats then
  redis.call('ZADD', repeats, a.now, a.id)
  redis.call('PEXPIRE', repeats, a.again.ttl)
  redis.call('HSET', session_key(a.id), 'attempt', a.again.attempt)
end

local reserved = ''
if containers_short(a.policy, a.now) > 0 then
  redis.call('ZADD', STARTING, a.now + a.start_wait, a.container)
  reserved = a.container
end
publish('pending')
return { 'created', session(a.id), reserved, users.left, math.ceil(users.back), projects.left, math.ceil(projects.back) }
