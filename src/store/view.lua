-- Reads whose session it is and where its browser is reached, for those who only look: it enters nobody.
-- ARGV: id
-- Replies: ready, user, project or '', expires_at, id, address, secret | waiting, user, project | ended, user, project,
--   reason | unknown
-- Atomic, or: the session could move between the two looks, and be sought with its secret at another's address.
local fields = redis.call('HMGET', session_key(a.id), 'status', 'ready', 'containerId', 'cdpSecret', 'userId', 'expiresAt', 'endReason',
  'projectId')
if not fields[1] then return { 'unknown' } end
local project = fields[8] or ''
if fields[1] == 'ended' then return { 'ended', fields[5], project, fields[7] } end
local address = fields[2] and redis.call('HGET', container_key(fields[3]), 'address')
if not address then return { 'waiting', fields[5], project } end
return { 'ready', fields[5], project, fields[6], a.id, address, fields[4] }
