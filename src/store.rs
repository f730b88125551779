//! The only code that knows Redis: the connection, the scripts, and what their answers mean.
//!
//! Each atomic move is a Lua script in `store/`, named like the method that calls it, and costs one round
//! trip. A refusal ("the queue is full") is a value; an `Err` means that Redis could not be asked.

mod answers;
mod connection;
pub mod events;
pub mod failure;
pub mod reply;

pub use answers::*;

use fred::bytes_utils::Str;
use fred::prelude::{ClientLike, Error as RedisError, KeysInterface};
use fred::types::scripts::Script;
use fred::types::{ClusterHash, CustomCommand, SetOptions, Value as RedisValue};
use fred::util::redis_keyslot;
use serde_json::{Value, json};

use crate::container::{FleetPolicy, FleetSnapshot};
use crate::ids::{ConnectionId, ContainerId, Owner, ServerId, SessionId};
use crate::protocol::{
    ClaimRequest, ContainerPhase, HELD_BYTES, HELD_MESSAGES, HeldMessage, ReadyRequest, WaitingConnection,
};
use crate::session::{EndReason, MAX_CONNECTIONS, NewSession, Session, SessionStatus};
use connection::Connection;
use failure::Failure;
use reply::Reply;

/// Redis could not be asked, or answered what no script of ours answers.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("redis is not available: {0}")]
    Unavailable(Failure, #[source] RedisError),
    #[error("REDIS_ENDPOINT cannot be used")]
    Endpoint(#[source] RedisError),
    #[error("redis answered what no script of ours answers: {0}")]
    Unexpected(String),
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        StoreError::Unavailable(Failure::of(&error), error)
    }
}

macro_rules! scripts {
    ($($flags:literal: $($name:ident),* ;)*) => {
        /// Every script, ready to be called by its digest.
        #[derive(Clone)]
        struct Scripts { $($($name: Script),*),* }

        impl Scripts {
            fn new() -> Self {
                Self {
                    $($($name: Script::from_lua(concat!(
                        $flags,
                        "\n",
                        include_str!("store/shared.lua"),
                        include_str!(concat!("store/", stringify!($name), ".lua")),
                    ))),*),*
                }
            }
        }
    };
}

// With such a first line Redis looks before a script runs, and not at its first write: a server that may not be
// written to refuses it also where it only reads, for what a former primary knows may be old. When its memory is full,
// new sessions are refused, and whatever goes on with what is there is not. Of `route` only the keeping of messages
// is, so there the first write decides.
scripts!(
    "#!lua":
    create;
    "":
    route;
    "#!lua flags=allow-oom":
    ping,
    get,
    list,
    usage,
    claim,
    ready,
    connect,
    view,
    reach,
    disconnect,
    enter,
    deliver,
    delivered,
    closing,
    end,
    expire,
    purge,
    snapshot,
    record,
    may_list,
    expect,
    join,
    reserve,
    give_back,
    drain,
    lose_container,
    beat_server,
    lose_server;
);

/// A handle on Redis. Cheap to clone; all clones share one multiplexed connection.
#[derive(Clone)]
pub struct Store {
    connection: Connection,
    scripts: Scripts,
    prefix: String,
    /// The one key that every script is given, and its slot on a cluster.
    anchor: RedisValue,
    slot: u16,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes the handle and begins to connect. A Redis that is not there is no error here: it may come.
    pub fn open(endpoint: &str, prefix: &str) -> Result<Self, StoreError> {
        let anchor = format!("{prefix}pending-sessions");
        Ok(Self {
            connection: Connection::open(endpoint)?,
            scripts: Scripts::new(),
            prefix: prefix.to_owned(),
            slot: redis_keyslot(anchor.as_bytes()),
            anchor: anchor.into(),
        })
    }

    /// Whether Redis can be worked with: asked as every script is, of the server that holds the keys.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match self.call(&self.scripts.ping, json!({})).await?.word()?.as_str() {
            "pong" => Ok(()),
            word => Err(unexpected("ping", word)),
        }
    }

    /// After a pause in which this process may have been frozen.
    pub async fn wake(&self) {
        self.connection.wake(self.ping()).await;
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.connection.close().await;
    }

    /// A value all processes on this Redis share, made by whoever asks first.
    pub async fn shared_value(&self, name: &str, proposal: &str) -> Result<String, StoreError> {
        let (client, key) = (self.connection.client(), format!("{}{name}", self.prefix));
        let made = client.set(&key, proposal, None, Some(SetOptions::NX), false);
        let () = self.connection.outcome(made).await?;
        self.connection.outcome(client.get(&key)).await
    }

    async fn call(&self, script: &Script, args: Value) -> Result<Reply, StoreError> {
        let args = RedisValue::from(args.to_string());
        let run = async {
            match self.run("EVALSHA", script.sha1(), &args).await {
                // Which server has forgotten it is known only on the way there, so it goes the same way.
                Err(error) if error.details().starts_with("NOSCRIPT") => {
                    self.run("EVAL", script.lua().expect("made from its text"), &args).await
                }
                value => value,
            }
        };
        Reply::new(self.connection.outcome(run).await?)
    }

    async fn run(&self, command: &'static str, script: &Str, args: &RedisValue) -> Result<RedisValue, RedisError> {
        // Not by the library's own calls for scripts: on a cluster that it has not seen yet they fail at once, and this
        // waits for it as any other command.
        let command = CustomCommand::new_static(command, ClusterHash::Custom(self.slot), false);
        let script = RedisValue::String(script.clone());
        self.connection.client().custom(command, vec![script, 1.into(), self.anchor.clone(), args.clone()]).await
    }

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

    /// How long an owner's ended sessions had a container, in milliseconds.
    pub async fn usage(&self, owner: &Owner) -> Result<u64, StoreError> {
        let mut reply = self.call(&self.scripts.usage, json!({ "owner": owner })).await?;
        match reply.word()?.as_str() {
            "usage" => reply.number(),
            word => Err(unexpected("usage", word)),
        }
    }

    /// A container's heartbeat and its request for work. `look` tells the first look of a claim from those that it
    /// takes while it waits.
    pub async fn claim(
        &self,
        request: &ClaimRequest,
        look: Look<'_>,
        limits: &Limits,
        policy: &FleetPolicy,
        now_ms: u64,
    ) -> Result<Claimed, StoreError> {
        let mut reply = self
            .call(
                &self.scripts.claim,
                json!({
                    "now": now_ms,
                    "container": request.container_id,
                    "address": request.address,
                    "max": request.max_sessions,
                    "current": request.current_sessions,
                    "reported": request.session_ids,
                    "phase": request.phase,
                    "launched": request.launched,
                    "task_arn": request.task_arn,
                    "process": request.process,
                    "first": request.first,
                    "claim": look.claim,
                    "again": look.again,
                    "yield_for": look.yield_for.as_millis() as u64,
                    "start_wait": limits.browser_wait_ms,
                    "launch_wait": policy.start_wait_ms,
                    "max_containers": policy.max_containers,
                    "queue_wait": limits.queue_wait_ms,
                    "max_leases": limits.max_leases,
                    "retention": limits.retention_ms,
                }),
            )
            .await?;
        match reply.word()?.as_str() {
            "claimed" => {
                let drain = reply.number()? == 1;
                let end = reply.list()?.ids()?;
                let mut handed = reply.list()?;
                let mut sessions = Vec::new();
                while !handed.is_empty() {
                    let (session, details) = handed.session()?;
                    sessions.push((session, details.lease));
                }
                let turn = match reply.word()?.as_str() {
                    "next" => Turn::Next,
                    "yields" => Turn::Yields,
                    "waits" => Turn::Waits,
                    word => return Err(unexpected("claim", word)),
                };
                Ok(Claimed { sessions, end, drain, turn, superseded: false, replaced: false })
            }
            "surplus" => Ok(Claimed { end: reply.list()?.ids()?, drain: true, ..Claimed::default() }),
            "gone" if request.phase == ContainerPhase::Leaving => Ok(Claimed { drain: true, ..Claimed::default() }),
            "replaced" if request.process.is_some() => Ok(Claimed { replaced: true, ..Claimed::default() }),
            "superseded" if look.again => Ok(Claimed { superseded: true, ..Claimed::default() }),
            word => Err(unexpected("claim", word)),
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

    /// Enters a client's connection, if the session's browser can be dialled now.
    pub async fn connect(
        &self,
        id: &SessionId,
        connection: &ConnectionId,
        server: &ServerId,
        now_ms: u64,
    ) -> Result<Connect, StoreError> {
        let args = json!({
            "now": now_ms, "id": id, "connection": connection, "server": server, "max_connections": MAX_CONNECTIONS,
        });
        let mut reply = self.call(&self.scripts.connect, args).await?;
        match reply.word()?.as_str() {
            "ready" => {
                let (address, secret) = (reply.text()?, reply.text()?);
                Ok(Connect::Ready { address, secret, expires_at_ms: reply.number()?, reached: reply.number()? == 1 })
            }
            "waiting" => Ok(Connect::Waiting),
            "ended" => Ok(Connect::Ended(reply::parse("end reason", &reply.text()?)?)),
            "unknown" => Ok(Connect::Unknown),
            "crowded" => Ok(Connect::Crowded),
            word => Err(unexpected("connect", word)),
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

    /// Notes that an entered connection has reached the browser. False: the session has ended or moved since.
    pub async fn reach(&self, id: &SessionId, connection: &ConnectionId, now_ms: u64) -> Result<bool, StoreError> {
        let args = json!({ "now": now_ms, "id": id, "connection": connection });
        match self.call(&self.scripts.reach, args).await?.word()?.as_str() {
            "reached" => Ok(true),
            "lost" => Ok(false),
            word => Err(unexpected("reach", word)),
        }
    }

    /// Takes a connection out; `id` is its session, where that is known. If a gateway held its socket, and a container
    /// knows it, the way there is returned.
    pub async fn disconnect(
        &self,
        connection: &ConnectionId,
        id: Option<&SessionId>,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Option<Route>, StoreError> {
        self.take_out(connection, id, false, limits, now_ms).await
    }

    /// The same of one whose client was refused after it had been entered, and perhaps noted as having reached the
    /// browser: no client has come yet.
    pub async fn back_out(
        &self,
        connection: &ConnectionId,
        id: &SessionId,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.take_out(connection, Some(id), true, limits, now_ms).await.map(drop)
    }

    async fn take_out(
        &self,
        connection: &ConnectionId,
        id: Option<&SessionId>,
        never_in: bool,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Option<Route>, StoreError> {
        let args = json!({
            "now": now_ms, "connection": connection, "id": id, "never_in": never_in, "grace": limits.grace_ms,
            "connect_wait": limits.connect_wait_ms,
        });
        let mut reply = self.call(&self.scripts.disconnect, args).await?;
        match reply.word()?.as_str() {
            "disconnected" => reply.route(),
            "already" => Ok(None),
            word => Err(unexpected("disconnect", word)),
        }
    }

    /// Enters a connection whose socket a gateway holds.
    pub async fn enter(&self, id: &SessionId, connection: &ConnectionId, now_ms: u64) -> Result<Entered, StoreError> {
        let args = json!({
            "now": now_ms, "id": id, "connection": connection, "max_connections": MAX_CONNECTIONS,
        });
        let mut reply = self.call(&self.scripts.enter, args).await?;
        match reply.word()?.as_str() {
            "entered" => Ok(Entered::Now(reply.route()?)),
            "ended" => Ok(Entered::Ended(reply::parse("end reason", &reply.text()?)?)),
            "unknown" => Ok(Entered::Unknown),
            "crowded" => Ok(Entered::Crowded),
            word => Err(unexpected("enter", word)),
        }
    }

    /// Where a gateway client's message goes. `again`: it was asked for before, so the message is kept already.
    pub async fn route(
        &self,
        connection: &ConnectionId,
        message: &str,
        text: &str,
        again: bool,
    ) -> Result<Routed, StoreError> {
        let args = json!({
            "connection": connection, "message": message, "text": text, "again": again,
            "max_messages": HELD_MESSAGES, "max_bytes": HELD_BYTES,
        });
        let mut reply = self.call(&self.scripts.route, args).await?;
        match reply.word()?.as_str() {
            "route" => match reply.route()? {
                Some(route) => Ok(Routed::To { route, settled: reply.number()? == 1 }),
                None => Err(StoreError::Unexpected("route: without an address".to_owned())),
            },
            "held" => Ok(Routed::Held),
            "full" => Ok(Routed::Full),
            "unknown" => Ok(Routed::Unknown),
            word => Err(unexpected("route", word)),
        }
    }

    /// Whether the container may deliver to the connection: how many messages it has had, or `None`.
    pub async fn deliver(&self, connection: &ConnectionId, container: &ContainerId) -> Result<Option<u64>, StoreError> {
        let args = json!({ "connection": connection, "container": container });
        let mut reply = self.call(&self.scripts.deliver, args).await?;
        match reply.word()?.as_str() {
            "deliver" => Ok(Some(reply.number()?)),
            "unknown" => Ok(None),
            word => Err(unexpected("deliver", word)),
        }
    }

    /// Notes how many messages a connection has had. False: it has ended.
    pub async fn delivered(&self, connection: &ConnectionId, delivered: u64) -> Result<bool, StoreError> {
        let args = json!({ "connection": connection, "delivered": delivered });
        match self.call(&self.scripts.delivered, args).await?.word()?.as_str() {
            "noted" => Ok(true),
            "unknown" => Ok(false),
            word => Err(unexpected("delivered", word)),
        }
    }

    /// At most `limit` gateway connections that are to be closed because their sessions have ended; those of the
    /// last time have been.
    pub async fn closing(
        &self,
        closed: &[(ConnectionId, EndReason)],
        limit: u64,
    ) -> Result<Vec<(ConnectionId, EndReason)>, StoreError> {
        let closed: Vec<&str> = closed.iter().flat_map(|(id, reason)| [id.as_str(), reason.as_str()]).collect();
        let mut reply = self.call(&self.scripts.closing, json!({ "closed": closed, "limit": limit })).await?;
        match reply.word()?.as_str() {
            "closing" => reply.list()?.pairs("closing connection"),
            word => Err(unexpected("closing", word)),
        }
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

    /// What the scaling plan is made from. Whoever is going to judge by it is looking: that is noted.
    pub async fn snapshot(&self, blind_after_ms: u64, now_ms: u64) -> Result<FleetSnapshot, StoreError> {
        Ok(self.look_at_fleet(Some(blind_after_ms), 0, now_ms).await?.0)
    }

    /// The same, only to be shown, with the last decisions, newest first.
    pub async fn show_fleet(&self, now_ms: u64) -> Result<(FleetSnapshot, Vec<Value>), StoreError> {
        self.look_at_fleet(None, KEPT_DECISIONS, now_ms).await
    }

    async fn look_at_fleet(
        &self,
        blind_after_ms: Option<u64>,
        decisions: u64,
        now_ms: u64,
    ) -> Result<(FleetSnapshot, Vec<Value>), StoreError> {
        let args = json!({ "now": now_ms, "blind_after": blind_after_ms, "decisions": decisions });
        let mut reply = self.call(&self.scripts.snapshot, args).await?;
        match reply.word()?.as_str() {
            "snapshot" => Ok((reply.fleet()?, reply.list()?.objects()?)),
            word => Err(unexpected("snapshot", word)),
        }
    }

    /// Keeps what a look decided, for people who ask later.
    pub async fn record(&self, decision: &Value, now_ms: u64) -> Result<(), StoreError> {
        let args = json!({ "now": now_ms, "decision": decision.to_string(), "keep": KEPT_DECISIONS });
        match self.call(&self.scripts.record, args).await?.word()?.as_str() {
            "recorded" => Ok(()),
            word => Err(unexpected("record", word)),
        }
    }

    /// Reserves as many of these containers as are short at this moment.
    pub async fn reserve(
        &self,
        containers: &[ContainerId],
        policy: &FleetPolicy,
        now_ms: u64,
    ) -> Result<Vec<ContainerId>, StoreError> {
        let args = json!({
            "now": now_ms, "containers": containers, "start_wait": policy.start_wait_ms, "policy": policy.as_json(),
        });
        let mut reply = self.call(&self.scripts.reserve, args).await?;
        match reply.word()?.as_str() {
            "reserved" => reply.list()?.ids(),
            word => Err(unexpected("reserve", word)),
        }
    }

    /// Whether it is this process that asks the fleet what it runs: nobody has for as long as `interval_ms`.
    pub async fn may_list(&self, interval_ms: u64, now_ms: u64) -> Result<bool, StoreError> {
        let args = json!({ "now": now_ms, "interval": interval_ms });
        match self.call(&self.scripts.may_list, args).await?.word()?.as_str() {
            "yes" => Ok(true),
            "no" => Ok(false),
            word => Err(unexpected("may_list", word)),
        }
    }

    /// Counts a task that somebody else has started as one that is on its way.
    pub async fn expect(&self, container: &ContainerId, deadline_ms: u64) -> Result<(), StoreError> {
        let args = json!({ "container": container, "deadline": deadline_ms });
        match self.call(&self.scripts.expect, args).await?.word()?.as_str() {
            "expected" => Ok(()),
            word => Err(unexpected("expect", word)),
        }
    }

    /// Whether a container that a service has started may come: whether none of its name is there.
    pub async fn join(&self, container: &ContainerId, policy: &FleetPolicy, now_ms: u64) -> Result<bool, StoreError> {
        let args = json!({ "now": now_ms, "container": container, "start_wait": policy.start_wait_ms });
        match self.call(&self.scripts.join, args).await?.word()?.as_str() {
            "welcome" => Ok(true),
            "taken" => Ok(false),
            word => Err(unexpected("join", word)),
        }
    }

    /// Whether there was a reservation to give back.
    pub async fn give_back(
        &self,
        container: &ContainerId,
        why: NotComing<'_>,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let (why, throttled) = match why {
            NotComing::Unwanted => (None, false),
            NotComing::Throttled => (None, true),
            NotComing::Failed(why) => (Some(short(why)), false),
        };
        let args = json!({ "now": now_ms, "container": container, "why": why, "throttled": throttled });
        let mut reply = self.call(&self.scripts.give_back, args).await?;
        match reply.word()?.as_str() {
            "given_back" => Ok(true),
            "already" => Ok(false),
            word => Err(unexpected("give_back", word)),
        }
    }

    /// Whether the container takes no more work from now on. With `idle_for_ms`, only if it has had none for that long
    /// and is not needed.
    pub async fn drain(
        &self,
        container: &ContainerId,
        idle_for_ms: Option<u64>,
        policy: &FleetPolicy,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let args = json!({
            "now": now_ms, "container": container, "idle_for": idle_for_ms, "policy": policy.as_json(),
        });
        match self.call(&self.scripts.drain, args).await?.word()?.as_str() {
            "draining" => Ok(true),
            "busy" | "unknown" => Ok(false),
            word => Err(unexpected("drain", word)),
        }
    }

    /// Gives up a container; with `silent_since_ms` only if it gave no sign of life after that. `why` is what is known
    /// of its end.
    pub async fn lose_container(
        &self,
        container: &ContainerId,
        why: &str,
        silent_since_ms: Option<u64>,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Lost<(SessionId, Outcome)>, StoreError> {
        let args = json!({
            "now": now_ms, "container": container, "why": short(why), "silent_since": silent_since_ms,
            "queue_wait": limits.queue_wait_ms, "max_leases": limits.max_leases, "retention": limits.retention_ms,
        });
        let mut reply = self.call(&self.scripts.lose_container, args).await?;
        match reply.word()?.as_str() {
            "lost" => Ok(Lost::Now(reply.list()?.pairs("lost session")?)),
            "alive" => Ok(Lost::Alive),
            "unknown" => Ok(Lost::Unknown),
            word => Err(unexpected("lose_container", word)),
        }
    }

    pub async fn beat_server(&self, server: &ServerId, now_ms: u64) -> Result<(), StoreError> {
        match self.call(&self.scripts.beat_server, json!({ "now": now_ms, "server": server })).await?.word()?.as_str() {
            "beating" => Ok(()),
            word => Err(unexpected("beat_server", word)),
        }
    }

    /// Gives up a server: at most `limit` connections it carried, to be disconnected. Ask until none is left.
    pub async fn lose_server(
        &self,
        server: &ServerId,
        silent_since_ms: Option<u64>,
        limit: u64,
        now_ms: u64,
    ) -> Result<Lost<(ConnectionId, SessionId)>, StoreError> {
        let args = json!({ "now": now_ms, "server": server, "limit": limit, "silent_since": silent_since_ms });
        let mut reply = self.call(&self.scripts.lose_server, args).await?;
        match reply.word()?.as_str() {
            "lost" => Ok(Lost::Now(reply.list()?.pairs("lost connection")?)),
            "alive" => Ok(Lost::Alive),
            "unknown" => Ok(Lost::Unknown),
            word => Err(unexpected("lose_server", word)),
        }
    }
}

/// How long an `Idempotency-Key` is remembered.
const IDEMPOTENCY_MS: u64 = 24 * 60 * 60 * 1_000;
/// How long a create that came without one is known again.
const REPEAT_MS: u64 = 90_000;
/// How many entries one page of a filtered list may look at, so that a rare status cannot make it long.
const LIST_SCAN: u64 = 1_000;

/// How many decisions of the looks are kept.
const KEPT_DECISIONS: u64 = 50;

/// What others say of an error can be long. This much of it is kept.
fn short(text: &str) -> String {
    text.chars().take(500).collect()
}

fn unexpected(script: &str, word: &str) -> StoreError {
    StoreError::Unexpected(format!("{script}: {word:?}"))
}
