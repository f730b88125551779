-- Reads a page of an owner's sessions, newest first.
-- ARGV: owner, limit, status? (pending, active or ended), reasons? (of which those that ended, ended for one),
--   metadata? {path, value} (whose userMetadata has that text there), after? {created_at, id},
--   scan (entries to look at)
-- Replies: page, [session..], created_at and id of the last entry looked at if there may be more, else '', ''
-- Atomic, or: a session that moves between two reads is listed twice or never.
local reasons
if given(a.reasons) then
  reasons = {}
  for _, reason in ipairs(a.reasons) do reasons[reason] = true end
end

local function is_wanted(id, status)
  if given(a.status) and status ~= a.status then return false end
  local key = session_key(id)
  if reasons and not reasons[redis.call('HGET', key, 'endReason')] then return false end
  local query = given(a.metadata) and a.metadata
  if not query then return true end
  local at = cjson.decode(redis.call('HGET', key, 'userMetadata'))
  for _, name in ipairs(query.path) do
    if type(at) ~= 'table' then return false end
    at = at[name]
  end
  return at == query.value
end

local live_only = a.status == 'pending' or a.status == 'active'
local index = live_only and live_of(a.owner) or sessions_of(a.owner)
local from = given(a.after) and a.after.created_at or '+inf'
local found, looked, offset = {}, 0, 0
local last_score, last_id = '', ''
while #found < a.limit and looked < a.scan do
  local chunk = redis.call('ZREVRANGEBYSCORE', index, from, '-inf', 'WITHSCORES', 'LIMIT', offset, 100)
  if #chunk == 0 then return { 'page', found, '', '' } end
  for i = 1, #chunk, 2 do
    local id, score = chunk[i], chunk[i + 1]
    -- Of equal times the greater id comes first, and the page before ended with `after`.
    local seen = given(a.after) and tonumber(score) == a.after.created_at and id >= a.after.id
    if not seen then
      if #found >= a.limit or looked >= a.scan then return { 'page', found, last_score, last_id } end
      looked = looked + 1
      last_score, last_id = score, id
      local fields = redis.call('HMGET', session_key(id), 'status', 'userId', 'projectId')
      if not fields[1] then
        redis.call('ZREM', index, id)
        offset = offset - 1
      -- What lives of a user's may be a project's.
      elseif owner_of(fields[2], fields[3]) == a.owner and is_wanted(id, fields[1]) then
        table.insert(found, session(id))
      end
    end
  end
  offset = offset + 100
end
return { 'page', found, last_score, last_id }
