//! What runs sessions and carries their clients: containers and servers.

use serde_json::{Value, json};

use super::{Claimed, Limits, Look, Lost, NotComing, Outcome, Store, StoreError, Turn, unexpected};
use crate::container::{FleetPolicy, FleetSnapshot};
use crate::ids::{ConnectionId, ContainerId, ServerId, SessionId};
use crate::protocol::{ClaimRequest, ContainerPhase};

/// How many decisions of the looks are kept.
const KEPT_DECISIONS: u64 = 50;

impl Store {
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
                    "proxy_bytes": request.proxy_bytes,
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
                    sessions.push(handed.session()?);
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

/// What others say of an error can be long. This much of it is kept.
fn short(text: &str) -> String {
    text.chars().take(500).collect()
}
