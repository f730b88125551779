//! What happens to sessions.

use serde_json::{Value, json};

use super::{
    Allowance, Created, Ended, EndedBy, Idempotency, Limits, PageEnd, Readied, Store, StoreError, Used, View, ViewedAt,
    Wanted, Whose, reply, unexpected,
};
use crate::container::FleetPolicy;
use crate::ids::{ContainerId, Owner, SessionId};
use crate::protocol::{HeldMessage, ReadyRequest, WaitingConnection};
use crate::session::{EndReason, NewSession, Session, SessionStatus};

/// How long an `Idempotency-Key` is remembered.
const IDEMPOTENCY_MS: u64 = 24 * 60 * 60 * 1_000;
/// How long a create that came without one is known again.
const REPEAT_MS: u64 = 90_000;
/// How many entries one page of a filtered list may look at, so that a rare status cannot make it long.
const LIST_SCAN: u64 = 1_000;

impl Store {
    /// Writes a session at the end of the queue, within the limits. If slots are short, `container` is reserved.
    pub async fn create(
        &self,
        new: &NewSession,
        idempotency: Option<&Idempotency>,
        container: &ContainerId,
        limits: &Limits,
        policy: &FleetPolicy,
        now_ms: u64,
    ) -> Result<Created, StoreError> {
        let (mut keyed, mut attempt) = (None, None);
        match idempotency {
            Some(Idempotency::Key { key, body }) => {
                keyed = Some(json!({ "key": key, "body": body, "ttl": IDEMPOTENCY_MS }));
            }
            Some(Idempotency::Attempt { body, attempt: number }) => {
                attempt = Some(json!({ "body": body, "attempt": number, "ttl": REPEAT_MS }));
            }
            None => {}
        }
        let mut reply = self
            .call(
                &self.scripts.create,
                json!({
                    "now": now_ms,
                    "id": new.id,
                    "user": new.user_id,
                    "project": new.project,
                    "timeout": new.timeout_ms,
                    "expires_at": now_ms + new.timeout_ms,
                    "keep_alive": new.keep_alive,
                    "browser_settings": Value::from(new.browser_settings.clone()).to_string(),
                    "proxy_credentials": new.proxy_credentials.as_ref().map(|secret| json!(secret).to_string()),
                    "extension": new.extension,
                    "user_metadata": Value::from(new.user_metadata.clone()).to_string(),
                    "queue_wait": limits.queue_wait_ms,
                    "max_pending": limits.max_pending,
                    "max_per_user": limits.max_per_user,
                    "per_minute": limits.creates_per_minute,
                    "max_per_project": limits.max_per_project,
                    "project_per_minute": limits.project_creates_per_minute,
                    "container": container,
                    "start_wait": policy.start_wait_ms,
                    "policy": policy.as_json(),
                    "idempotency": keyed,
                    "again": attempt,
                }),
            )
            .await?;
        match reply.word()?.as_str() {
            "created" => {
                let session = reply.session()?.0;
                let launch = (!reply.text()?.is_empty()).then(|| container.clone());
                let mut left = |limit| -> Result<_, StoreError> {
                    let allowance = Allowance { limit, left: reply.number()?, whole_in_ms: reply.number()? };
                    Ok(Some(allowance).filter(|allowance| allowance.limit > 0))
                };
                let users = left(limits.creates_per_minute)?;
                let projects = left(limits.project_creates_per_minute)?;
                let tightest = [users, projects].into_iter().flatten().min_by_key(|allowance| allowance.left);
                Ok(Created::New { session, launch, allowance: tightest })
            }
            "again" => Ok(Created::Again(reply.session()?.0)),
            "conflict" => Ok(Created::Conflict),
            "forgotten" => Ok(Created::Forgotten),
            "queue_full" => Ok(Created::QueueFull(reply.outlook()?)),
            "user_limit" => Ok(Created::Full(Whose::User)),
            "project_limit" => Ok(Created::Full(Whose::Project)),
            "too_fast" => {
                let (whose, limit) = match reply.word()?.as_str() {
                    "user" => (Whose::User, limits.creates_per_minute),
                    "project" => (Whose::Project, limits.project_creates_per_minute),
                    word => return Err(unexpected("create", word)),
                };
                let retry_ms = reply.number()?;
                let allowance = Allowance { limit, left: 0, whole_in_ms: reply.number()? };
                Ok(Created::TooFast { whose, allowance, retry_ms })
            }
            word => Err(unexpected("create", word)),
        }
    }

    pub async fn get(&self, id: &SessionId) -> Result<Option<(Session, reply::Details)>, StoreError> {
        let mut reply = self.call(&self.scripts.get, json!({ "id": id })).await?;
        match reply.word()?.as_str() {
            "session" => Ok(Some(reply.session()?)),
            "unknown" => Ok(None),
            word => Err(unexpected("get", word)),
        }
    }

    /// A page of an owner's sessions, newest first, and where the next one begins.
    pub async fn list(
        &self,
        owner: &Owner,
        wanted: &Wanted,
        limit: u64,
        after: Option<&PageEnd>,
    ) -> Result<(Vec<Session>, Option<PageEnd>), StoreError> {
        let after = after.map(|end| json!({ "created_at": end.created_at_ms, "id": end.id }));
        let args = json!({
            "owner": owner, "status": wanted.status, "reasons": wanted.reasons, "metadata": wanted.metadata,
            "limit": limit, "after": after, "scan": LIST_SCAN,
        });
        let mut reply = self.call(&self.scripts.list, args).await?;
        match reply.word()?.as_str() {
            "page" => {
                let mut sessions = Vec::new();
                let mut list = reply.list()?;
                while !list.is_empty() {
                    sessions.push(list.session()?.0);
                }
                let (score, id) = (reply.text()?, reply.text()?);
                let end = if id.is_empty() {
                    None
                } else {
                    Some(PageEnd { created_at_ms: reply::parse("score", &score)?, id: reply::parse("id", &id)? })
                };
                Ok((sessions, end))
            }
            word => Err(unexpected("list", word)),
        }
    }

    pub async fn usage(&self, owner: &Owner) -> Result<Used, StoreError> {
        let mut reply = self.call(&self.scripts.usage, json!({ "owner": owner })).await?;
        match reply.word()?.as_str() {
            "usage" => Ok(Used { container_ms: reply.number()?, proxy_bytes: reply.number()? }),
            word => Err(unexpected("usage", word)),
        }
    }

    /// Its browser answers. `None` if it is no longer the container's.
    pub async fn ready(
        &self,
        id: &SessionId,
        container: &ContainerId,
        report: &ReadyRequest,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Option<Readied>, StoreError> {
        let args = json!({
            "now": now_ms, "id": id, "container": container, "lease": report.lease, "secret": report.cdp_secret,
            "version": Value::from(report.version.clone()).to_string(), "connect_wait": limits.connect_wait_ms,
        });
        let mut reply = self.call(&self.scripts.ready, args).await?;
        match reply.word()?.as_str() {
            "ready" => {
                let since_created_ms = reply.number()?;
                let mut list = reply.list()?;
                let mut waiting = Vec::new();
                while !list.is_empty() {
                    let connection_id = reply::parse("connection", &list.text()?)?;
                    let mut held = list.list()?;
                    let mut messages = Vec::new();
                    while !held.is_empty() {
                        messages.push(HeldMessage { message_id: held.text()?, text: held.text()? });
                    }
                    waiting.push(WaitingConnection { connection_id, messages });
                }
                Ok(Some(Readied { since_created_ms, waiting }))
            }
            "stale" => Ok(None),
            word => Err(unexpected("ready", word)),
        }
    }

    /// Where a session can be watched, and whose it is. Nothing is changed by it.
    pub async fn view(&self, id: &SessionId) -> Result<Option<View>, StoreError> {
        let mut reply = self.call(&self.scripts.view, json!({ "id": id })).await?;
        let word = reply.word()?;
        if word == "unknown" {
            return Ok(None);
        }
        let user = reply::parse("user", &reply.text()?)?;
        let project = Some(reply.text()?).filter(|project| !project.is_empty());
        let project = project.map(|project| reply::parse("project", &project)).transpose()?;
        let at = match word.as_str() {
            "ready" => {
                let expires_at_ms = reply.number()?;
                let route = reply.route()?.ok_or_else(|| unexpected("view", "an empty address"))?;
                ViewedAt::Ready { route, expires_at_ms }
            }
            "waiting" => ViewedAt::Waiting,
            "ended" => ViewedAt::Ended(reply::parse("end reason", &reply.text()?)?),
            word => return Err(unexpected("view", word)),
        };
        Ok(Some(View { owner: Owner::of(&user, project.as_ref()), user, at }))
    }

    pub async fn end(
        &self,
        id: &SessionId,
        by: EndedBy<'_>,
        reason: EndReason,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Ended, StoreError> {
        let mut args = json!({ "now": now_ms, "id": id, "reason": reason, "retention": limits.retention_ms });
        match by {
            EndedBy::Owner(owner) => args["owner"] = json!(owner),
            EndedBy::Holder { container, lease } => {
                args["container"] = json!(container);
                args["lease"] = json!(lease);
                args["queue_wait"] = json!(limits.queue_wait_ms);
            }
        }
        let mut reply = self.call(&self.scripts.end, args).await?;
        match reply.word()?.as_str() {
            "ended" => {
                let mut session = reply.session()?.0;
                session.status = SessionStatus::Ended;
                session.end_reason.get_or_insert(reason);
                session.ended_at_ms.get_or_insert(now_ms);
                session.queue_position = None;
                session.active_connections = 0;
                Ok(Ended::Now(session))
            }
            "already" => Ok(Ended::Already(reply.session()?.0)),
            "requeued" => Ok(Ended::Requeued),
            "unknown" => Ok(Ended::Unknown),
            word => Err(unexpected("end", word)),
        }
    }

    /// Ends at most `limit` sessions that are due.
    pub async fn expire(
        &self,
        limits: &Limits,
        limit: u64,
        now_ms: u64,
    ) -> Result<Vec<(SessionId, EndReason)>, StoreError> {
        let args = json!({ "now": now_ms, "retention": limits.retention_ms, "limit": limit });
        let mut reply = self.call(&self.scripts.expire, args).await?;
        match reply.word()?.as_str() {
            "expired" => reply.list()?.pairs("expired session"),
            word => Err(unexpected("expire", word)),
        }
    }

    /// Removes at most `limit` ended sessions whose retention has passed, and says how many it were.
    pub async fn purge(&self, limit: u64, now_ms: u64) -> Result<u64, StoreError> {
        let mut reply = self.call(&self.scripts.purge, json!({ "now": now_ms, "limit": limit })).await?;
        match reply.word()?.as_str() {
            "purged" => reply.number(),
            word => Err(unexpected("purge", word)),
        }
    }
}
