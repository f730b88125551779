//! The only code that knows Redis: the connection, the scripts, and what their answers mean.
//!
//! Each atomic move is a Lua script in `store/`, named like the method that calls it, and costs one round
//! trip. A refusal ("the queue is full") is a value; an `Err` means that Redis could not be asked.

mod answers;
pub mod events;
pub mod reply;

pub use answers::*;

use std::time::Duration;

use fred::clients::{Client, SubscriberClient};
use fred::prelude::{
    Builder, ClientLike, Config as RedisConfig, Error as RedisError, KeysInterface, PubsubInterface, ReconnectPolicy,
};
use fred::types::Value as RedisValue;
use fred::types::scripts::Script;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::container::{Container, FleetPolicy, FleetSnapshot};
use crate::ids::{ConnectionId, ContainerId, ServerId, SessionId, UserId};
use crate::protocol::{
    ClaimRequest, ContainerPhase, HELD_BYTES, HELD_MESSAGES, HeldMessage, ReadyRequest, WaitingConnection,
};
use crate::session::{EndReason, NewSession, Session, SessionStatus};
use reply::Reply;

/// How long a command may take before the caller is told that Redis is not available: the answer must be with the
/// client within two seconds, on a busy machine too.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(1_200);

/// How long a connection may take to show that it still leads anywhere, and another to take its place. With a
/// command after it the answer is still within the two seconds.
const WAKE_TIMEOUT: Duration = Duration::from_millis(250);

const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);

/// Redis could not be asked, or answered what no script of ours answers.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("redis is not available")]
    Unavailable(#[source] RedisError),
    #[error("redis answered what no script of ours answers: {0}")]
    Unexpected(String),
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        StoreError::Unavailable(error)
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        /// Every script, ready to be called by its digest.
        #[derive(Clone)]
        struct Scripts { $($name: Script),* }

        impl Scripts {
            fn new() -> Self {
                Self {
                    $($name: Script::from_lua(concat!(
                        include_str!("store/shared.lua"),
                        include_str!(concat!("store/", stringify!($name), ".lua")),
                    ))),*
                }
            }
        }
    };
}

scripts!(
    create,
    get,
    list,
    claim,
    ready,
    connect,
    reach,
    disconnect,
    enter,
    route,
    deliver,
    delivered,
    closing,
    end,
    expire,
    purge,
    snapshot,
    reserve,
    give_back,
    drain,
    lose_container,
    beat_server,
    lose_server,
);

/// A handle on Redis. Cheap to clone; all clones share one multiplexed connection.
#[derive(Clone)]
pub struct Store {
    client: Client,
    scripts: Scripts,
    prefix: String,
    anchor: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn builder(endpoint: &str) -> Result<Builder, StoreError> {
    let config = RedisConfig { fail_fast: false, ..RedisConfig::from_url(endpoint)? };
    let mut policy = ReconnectPolicy::new_exponential(0, 1, 500, 2);
    // The first connection waits for the first delay, too, and a function that was frozen or has just been started
    // connects while a request waits; the usual jitter is 100 ms.
    policy.set_jitter(2);
    let mut builder = Builder::from_config(config);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(2);
            connection.internal_command_timeout = Duration::from_secs(2);
            // Every script may be repeated, so a command that was under way when the connection broke is.
            connection.max_command_attempts = 2;
            // A Redis that accepts and never answers.
            connection.unresponsive.max_timeout = Some(Duration::from_secs(3));
            connection.unresponsive.interval = Duration::from_secs(1);
        })
        .set_policy(policy);
    Ok(builder)
}

impl Store {
    /// Makes the handle and begins to connect. A Redis that is not there is no error here: it may come.
    pub fn open(endpoint: &str, prefix: &str) -> Result<Self, StoreError> {
        let client = builder(endpoint)?.build()?;
        client.connect();
        Ok(Self {
            client,
            scripts: Scripts::new(),
            prefix: prefix.to_owned(),
            anchor: format!("{prefix}pending-sessions"),
        })
    }

    /// A second connection, on which the moves made by any process are told. Returns when it is subscribed,
    /// however long Redis takes to come.
    pub async fn subscribe(endpoint: &str, prefix: &str) -> Result<SubscriberClient, StoreError> {
        let mut builder = builder(endpoint)?;
        builder.with_performance_config(|performance| {
            // A burst of sessions is a burst of events; one that is missed makes everybody look again. Only here:
            // a client makes eight such channels at once, and they are megabytes.
            performance.broadcast_channel_capacity = 8_192;
        });
        let subscriber = builder.build_subscriber_client()?;
        subscriber.connect();
        while let Err(error) = subscriber.subscribe(format!("{prefix}events")).await {
            tracing::debug!(%error, "redis cannot be subscribed to yet");
            tokio::time::sleep(SUBSCRIBE_PAUSE).await;
        }
        Ok(subscriber)
    }

    /// After a reconnection. Returns when it is done.
    pub async fn subscribe_again(subscriber: &SubscriberClient) {
        while let Err(error) = subscriber.resubscribe_all().await {
            tracing::debug!(%error, "redis cannot be subscribed to yet");
            tokio::time::sleep(SUBSCRIBE_PAUSE).await;
        }
    }

    /// Whether Redis answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        Ok(self.client.ping::<()>(None).await?)
    }

    /// After a pause in which this process may have been frozen. A connection that was closed meanwhile is noticed by
    /// its next command, and costs nothing; one that was forgotten on its way says nothing, and would cost that
    /// command all its time. Here it is found out and replaced. A Redis that is away is the next command's affair.
    pub async fn wake(&self) {
        if matches!(timeout(WAKE_TIMEOUT, self.ping()).await, Ok(Ok(()))) {
            return;
        }
        tracing::info!("redis does not answer after a pause: connecting again");
        let _ = timeout(WAKE_TIMEOUT, self.client.force_reconnection()).await;
    }

    /// Closes the connection.
    pub async fn close(&self) {
        let _ = self.client.quit().await;
    }

    /// A value all processes on this Redis share, made by whoever asks first.
    pub async fn shared_value(&self, name: &str, proposal: &str) -> Result<String, StoreError> {
        let key = format!("{}{name}", self.prefix);
        let () = self.client.set(&key, proposal, None, Some(fred::types::SetOptions::NX), false).await?;
        Ok(self.client.get(&key).await?)
    }

    async fn call(&self, script: &Script, args: Value) -> Result<Reply, StoreError> {
        let value: RedisValue =
            script.evalsha_with_reload(&self.client, vec![self.anchor.as_str()], vec![args.to_string()]).await?;
        Reply::new(value)
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
        let mut reply = self
            .call(
                &self.scripts.create,
                json!({
                    "now": now_ms,
                    "id": new.id,
                    "user": new.user_id,
                    "timeout": new.timeout_ms,
                    "expires_at": now_ms + new.timeout_ms,
                    "keep_alive": new.keep_alive,
                    "browser_settings": Value::from(new.browser_settings.clone()).to_string(),
                    "user_metadata": Value::from(new.user_metadata.clone()).to_string(),
                    "queue_wait": limits.queue_wait_ms,
                    "max_pending": limits.max_pending,
                    "max_per_user": limits.max_per_user,
                    "container": container,
                    "start_wait": policy.start_wait_ms,
                    "policy": policy.as_json(),
                    "idempotency": idempotency.map(|i| json!({ "key": i.key, "body": i.body, "ttl": IDEMPOTENCY_MS })),
                }),
            )
            .await?;
        match reply.word()?.as_str() {
            "created" => {
                let session = reply.session()?.0;
                let launch = (!reply.text()?.is_empty()).then(|| container.clone());
                Ok(Created::New { session, launch })
            }
            "again" => Ok(Created::Again(reply.session()?.0)),
            "conflict" => Ok(Created::Conflict),
            "forgotten" => Ok(Created::Forgotten),
            "queue_full" => Ok(Created::QueueFull(reply.drained()?)),
            "user_limit" => Ok(Created::UserLimit),
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

    /// A page of a user's sessions, newest first, and where the next one begins.
    pub async fn list(
        &self,
        user: &UserId,
        status: Option<SessionStatus>,
        limit: u64,
        after: Option<&PageEnd>,
    ) -> Result<(Vec<Session>, Option<PageEnd>), StoreError> {
        let after = after.map(|end| json!({ "created_at": end.created_at_ms, "id": end.id }));
        let args = json!({ "user": user, "status": status, "limit": limit, "after": after, "scan": LIST_SCAN });
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
                    "claim": look.claim,
                    "again": look.again,
                    "start_wait": limits.browser_wait_ms,
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
                Ok(Claimed { sessions, end, drain, superseded: false })
            }
            "surplus" => Ok(Claimed { end: reply.list()?.ids()?, drain: true, ..Claimed::default() }),
            "gone" if request.phase == ContainerPhase::Leaving => Ok(Claimed { drain: true, ..Claimed::default() }),
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
        let args = json!({ "now": now_ms, "id": id, "connection": connection, "server": server });
        let mut reply = self.call(&self.scripts.connect, args).await?;
        match reply.word()?.as_str() {
            "ready" => {
                let (address, secret) = (reply.text()?, reply.text()?);
                Ok(Connect::Ready { address, secret, expires_at_ms: reply.number()?, reached: reply.number()? == 1 })
            }
            "waiting" => Ok(Connect::Waiting),
            "ended" => Ok(Connect::Ended(reply::parse("end reason", &reply.text()?)?)),
            "unknown" => Ok(Connect::Unknown),
            word => Err(unexpected("connect", word)),
        }
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
        let args = json!({
            "now": now_ms, "connection": connection, "id": id, "grace": limits.grace_ms,
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
        let args = json!({ "now": now_ms, "id": id, "connection": connection });
        let mut reply = self.call(&self.scripts.enter, args).await?;
        match reply.word()?.as_str() {
            "entered" => Ok(Entered::Now(reply.route()?)),
            "ended" => Ok(Entered::Ended(reply::parse("end reason", &reply.text()?)?)),
            "unknown" => Ok(Entered::Unknown),
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
            EndedBy::Owner(user) => args["user"] = json!(user),
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

    /// What the scaling plan is made from.
    pub async fn snapshot(&self, blind_after_ms: u64, now_ms: u64) -> Result<FleetSnapshot, StoreError> {
        let args = json!({ "now": now_ms, "blind_after": blind_after_ms });
        let mut reply = self.call(&self.scripts.snapshot, args).await?;
        if reply.word()? != "snapshot" {
            return Err(StoreError::Unexpected("snapshot".to_owned()));
        }
        let (watched_since_ms, pending) = (reply.number()?, reply.number()?);
        let (slots, used) = (reply.number()?, reply.number()?);
        let mut containers = Vec::new();
        let mut list = reply.list()?;
        while !list.is_empty() {
            let fields = list.list()?.fields()?;
            containers.push(Container {
                id: fields.parse("containerId")?,
                active_sessions: fields.parse("activeSessions")?,
                max_sessions: fields.parse("maxSessions")?,
                last_heartbeat_ms: fields.parse("lastHeartbeat")?,
                idle_since_ms: fields.parse("idleSince")?,
                started_at_ms: fields.parse("startedAt")?,
                draining: fields.text("draining")? == "1",
                launched: fields.text("launched")? == "1",
            });
        }
        Ok(FleetSnapshot {
            watched_since_ms,
            pending,
            slots,
            used,
            containers,
            starting: reply.list()?.pairs("reservation")?,
            servers: reply.list()?.pairs("server")?,
        })
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

    /// Whether there was a reservation to give back.
    pub async fn give_back(&self, container: &ContainerId) -> Result<bool, StoreError> {
        let mut reply = self.call(&self.scripts.give_back, json!({ "container": container })).await?;
        match reply.word()?.as_str() {
            "given_back" => Ok(true),
            "already" => Ok(false),
            word => Err(unexpected("give_back", word)),
        }
    }

    /// Whether the container was idle and now takes no more work.
    pub async fn drain(&self, container: &ContainerId, policy: &FleetPolicy, now_ms: u64) -> Result<bool, StoreError> {
        let args = json!({
            "now": now_ms, "container": container, "idle_for": policy.idle_ms, "policy": policy.as_json(),
        });
        match self.call(&self.scripts.drain, args).await?.word()?.as_str() {
            "draining" => Ok(true),
            "busy" | "unknown" => Ok(false),
            word => Err(unexpected("drain", word)),
        }
    }

    /// Gives up a container; with `silent_since_ms` only if it gave no sign of life after that.
    pub async fn lose_container(
        &self,
        container: &ContainerId,
        silent_since_ms: Option<u64>,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Lost<(SessionId, Outcome)>, StoreError> {
        let args = json!({
            "now": now_ms, "container": container, "silent_since": silent_since_ms,
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
/// How many entries one page of a filtered list may look at, so that a rare status cannot make it long.
const LIST_SCAN: u64 = 1_000;

fn unexpected(script: &str, word: &str) -> StoreError {
    StoreError::Unexpected(format!("{script}: {word:?}"))
}
