//! How many containers there should be. `plan` is a pure function from what is known to what should be
//! done, and says what it waits for; `tick` looks, plans and acts. Nothing here retries: the next look is
//! the retry. Each action is checked again, by its script, at the moment it is carried out.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use crate::app::App;
use crate::causes::Causes;
use crate::clock::{now_ms, rfc3339};
use crate::container::{Container, FleetListing, FleetPolicy, FleetSnapshot, FleetTask, StartedBy};
use crate::fleet::FailureKind;
use crate::ids::{ContainerId, ServerId};
use crate::lifecycle;
use crate::store::{Lost, NotComing, StoreError};

/// How often the fleet itself is asked what it runs. Less than the minute between two looks of a schedule, so that
/// each of those asks.
const LISTING_INTERVAL_MS: u64 = 50_000;
/// A listing may lack what was started shortly before it: ECS makes no promise how shortly.
const LISTING_LAG_MS: u64 = 60_000;
/// How many launches and stops are under way at once. ECS takes 20 a second.
const AT_ONCE: usize = 10;
/// How long one look goes on stopping what was given up. What is left then is found by a later one, in a listing.
const STOPPING: Duration = Duration::from_secs(10);

/// What should be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// How many containers to start.
    pub start: u64,
    /// Containers to stop handing work to.
    pub drain: Vec<ContainerId>,
    /// Containers that gave no sign of life.
    pub lose: Vec<ContainerId>,
    /// Containers that are silent, though not for as long, and do not run any more, says the fleet.
    pub gone: Vec<ContainerId>,
    /// What the fleet runs and nobody knows.
    pub stop: Vec<FleetTask>,
    /// Tasks of a service that are on their way, to be counted as what was reserved is.
    pub expect: Vec<FleetTask>,
    /// Containers that were reserved and never came.
    pub give_back: Vec<ContainerId>,
    /// Servers that gave no sign of life.
    pub lose_servers: Vec<ServerId>,
    pub waiting_for: Vec<Wait>,
}

/// Why something that is wanted is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "for", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Wait {
    /// Containers on their way.
    Start { containers: u64 },
    /// Containers that are wanted, and not tried before the pause after failed starts is over.
    Pause { wanted: u64, attempts: u64, for_ms: u64 },
    /// Containers that are wanted, and not asked for before the fleet, of which too much was asked, takes more.
    Throttled { wanted: u64, for_ms: u64 },
    /// More are wanted than there may be.
    Maximum { wanted: u64, allowed: u64 },
    /// Containers that must finish their sessions.
    Drain { containers: u64 },
    /// Old heartbeats that nobody could have seen: of containers, and of servers.
    Sight { silent: u64 },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Start { containers } => write!(f, "{containers} starting"),
            Wait::Pause { wanted, attempts, for_ms } => {
                write!(f, "{wanted} wanted, none is started for {for_ms} ms after {attempts} failed attempts")
            }
            Wait::Throttled { wanted, for_ms } => write!(f, "{wanted} wanted, the fleet is left alone for {for_ms} ms"),
            Wait::Maximum { wanted, allowed } => write!(f, "{wanted} wanted, {allowed} more allowed"),
            Wait::Drain { containers } => write!(f, "{containers} draining"),
            Wait::Sight { silent } => write!(f, "{silent} not heard of since the watch began"),
        }
    }
}

impl Plan {
    pub fn is_idle(&self) -> bool {
        self.start == 0
            && self.drain.is_empty()
            && self.lose.is_empty()
            && self.gone.is_empty()
            && self.stop.is_empty()
            && self.expect.is_empty()
            && self.give_back.is_empty()
            && self.lose_servers.is_empty()
    }

    /// Whether there is somebody silent on whom only a watch without a gap can pass judgement.
    pub fn wants_watch(&self) -> bool {
        self.waiting_for.iter().any(|wait| matches!(wait, Wait::Sight { .. }))
    }

    /// How long it is until containers that are wanted may be tried again.
    pub fn pause_ms(&self) -> Option<u64> {
        self.waiting_for.iter().find_map(|wait| match wait {
            Wait::Pause { for_ms, .. } | Wait::Throttled { for_ms, .. } => Some(*for_ms),
            _ => None,
        })
    }
}

/// The plan for this moment. `containers_short` in `store/shared.lua` has the same sum for starting. `listing` is what
/// the fleet said before the snapshot was taken, if it was asked.
pub fn plan(snapshot: &FleetSnapshot, listing: Option<&FleetListing>, policy: &FleetPolicy, now_ms: u64) -> Plan {
    let mut plan = Plan::default();
    let silent = |last_ms: u64| last_ms + policy.lost_after_ms <= now_ms;
    // A heartbeat that is old because nobody could receive it says nothing.
    let judged = |last_ms: u64| silent(last_ms.max(snapshot.watched_since_ms));
    let runs: Option<HashSet<_>> = listing
        .filter(|listing| listing.whole)
        .map(|listing| listing.tasks.iter().map(|task| &task.container).collect());
    // A container that claims is there, whatever a listing says; half the silence is enough beside its word.
    let gone = |container: &Container| {
        let unheard_ms = container.last_heartbeat_ms.max(snapshot.watched_since_ms);
        container.launched
            && runs.as_ref().is_some_and(|runs| !runs.contains(&container.id))
            && listing.is_some_and(|listing| container.started_at_ms + LISTING_LAG_MS <= listing.taken_at_ms)
            && unheard_ms + policy.lost_after_ms / 2 <= now_ms
    };

    // Those that drain count against the maximum, as they are there, and not for the minimum, as they are no use.
    let (mut running, mut serving, mut slots, mut used, mut draining, mut unseen) =
        (0u64, 0u64, 0u64, 0u64, 0u64, 0u64);
    let mut pending = snapshot.queue.length;
    let mut idle = Vec::new();
    for container in &snapshot.containers {
        if judged(container.last_heartbeat_ms) {
            plan.lose.push(container.id.clone());
            // Its sessions may come back to the queue; how many, the script will say.
            pending += container.active_sessions;
            continue;
        }
        if gone(container) {
            plan.gone.push(container.id.clone());
            pending += container.active_sessions;
            continue;
        }
        running += 1;
        unseen += u64::from(silent(container.last_heartbeat_ms));
        if container.draining {
            draining += 1;
            continue;
        }
        serving += 1;
        slots += container.max_sessions;
        used += container.active_sessions;
        // What somebody else started, somebody else ends: a service of ECS would start it anew at once.
        let ours = container.launched;
        if ours && container.active_sessions == 0 && container.idle_since_ms + policy.idle_ms <= now_ms {
            idle.push(container);
        }
    }
    let mut starting = 0u64;
    for (id, deadline_ms) in &snapshot.starting {
        if *deadline_ms <= now_ms {
            plan.give_back.push(id.clone());
        } else {
            starting += 1;
        }
    }
    for (id, last_beat_ms) in &snapshot.servers {
        if judged(*last_beat_ms) {
            plan.lose_servers.push(id.clone());
        } else {
            unseen += u64::from(silent(*last_beat_ms));
        }
    }

    // Time enough to come, and watched for long enough to be heard: a Redis that has lost its memory knows nobody
    // until everybody has claimed once.
    let known: HashSet<&ContainerId> = snapshot
        .containers
        .iter()
        .map(|container| &container.id)
        .chain(snapshot.starting.iter().map(|(id, _)| id))
        .collect();
    for task in listing.iter().flat_map(|listing| &listing.tasks) {
        if task.started_by == StartedBy::Service {
            if !known.contains(&task.container) && task.started_at_ms + policy.start_wait_ms > now_ms {
                starting += 1;
                plan.expect.push(task.clone());
            }
            continue;
        }
        if known.contains(&task.container) || task.started_at_ms + policy.start_wait_ms > now_ms {
            continue;
        }
        if judged(0) {
            plan.stop.push(task.clone());
        } else {
            unseen += 1;
        }
    }

    let wanted = pending + policy.warm_slots;
    let coming = slots.saturating_sub(used) + starting * policy.sessions_per_container;
    let short = wanted
        .saturating_sub(coming)
        .div_ceil(policy.sessions_per_container)
        .max(policy.min_containers.saturating_sub(starting + serving));
    let allowed = policy.max_containers.saturating_sub(starting + running);
    let possible = short.min(allowed);
    let failed = &snapshot.failed_starts;
    let pause_ms = failed.hold_until_ms.saturating_sub(now_ms);
    let throttled_ms = failed.throttled_until_ms.saturating_sub(now_ms);
    plan.start = if pause_ms == 0 && throttled_ms == 0 { possible } else { 0 };

    if possible == 0 {
        // The newest first: the others have proved themselves, and what is oldest is easiest to explain.
        idle.sort_by_key(|container| std::cmp::Reverse((container.started_at_ms, container.id.clone())));
        let mut free = slots.saturating_sub(used);
        for container in idle {
            let keep = wanted + container.max_sessions > free || serving <= policy.min_containers;
            if !keep {
                free -= container.max_sessions;
                serving -= 1;
                draining += 1;
                plan.drain.push(container.id.clone());
            }
        }
    }

    let waits = [
        (starting, Wait::Start { containers: starting }),
        if pause_ms >= throttled_ms {
            let pause = Wait::Pause { wanted: possible, attempts: failed.attempts, for_ms: pause_ms };
            (possible - plan.start, pause)
        } else {
            (possible - plan.start, Wait::Throttled { wanted: possible, for_ms: throttled_ms })
        },
        (short - possible, Wait::Maximum { wanted: short, allowed }),
        (draining, Wait::Drain { containers: draining }),
        (unseen, Wait::Sight { silent: unseen }),
    ];
    plan.waiting_for = waits.into_iter().filter(|(count, _)| *count > 0).map(|(_, wait)| wait).collect();
    plan
}

/// Looks, plans and acts, once. What could not be done is seen by the next look.
pub async fn tick(app: &App) -> Result<Plan, StoreError> {
    let looked = look(app).await;
    app.metrics.looked(match &looked {
        Ok(plan) if plan.is_idle() => "idle",
        Ok(_) => "acted",
        Err(_) => "failed",
    });
    looked
}

async fn look(app: &App) -> Result<Plan, StoreError> {
    lifecycle::settle(app).await?;
    let expired = lifecycle::expire(app).await?;
    // Before the snapshot: what comes in between is known then.
    let listing = listing(app).await;
    let now_ms = now_ms();
    let snapshot = app.store.snapshot(app.policy.blind_after_ms, now_ms).await?;
    if snapshot.mended {
        tracing::warn!("what Redis counted of the fleet was not what it holds, and is put right");
    }
    let plan = plan(&snapshot, listing.as_ref(), &app.policy, now_ms);
    if plan.wants_watch() {
        // What cannot be judged yet is judged by a later look, by the same listing.
        app.listed.lock().expect("not poisoned").1 = listing;
    }
    execute(app, &plan, now_ms).await?;
    if plan.is_idle() && expired == 0 {
        tracing::debug!(waiting_for = %Waits(&plan.waiting_for), "scaling.tick");
    } else {
        tracing::info!(
            expired, start = plan.start, drain = plan.drain.len(), lose = plan.lose.len(),
            gone = plan.gone.len(), stop = plan.stop.len(), expect = plan.expect.len(),
            give_back = plan.give_back.len(), pending = snapshot.queue.length, containers = snapshot.containers.len(),
            waiting_for = %Waits(&plan.waiting_for), "scaling.tick"
        );
    }
    if !plan.is_idle() {
        let decision = json!({
            "at": rfc3339(now_ms), "plan": plan, "pending": snapshot.queue.length,
            "containers": snapshot.containers.len(), "starting": snapshot.starting.len(),
        });
        // After the deed: what cannot be written down must not keep it from being done.
        app.store.record(&decision, now_ms).await?;
    }
    Ok(plan)
}

/// What the fleet runs, if it is time to ask, or if its last answer is still to be judged. An answer is used once: what
/// has left since would look like something that nobody knows.
async fn listing(app: &App) -> Option<FleetListing> {
    {
        let mut listed = app.listed.lock().expect("not poisoned");
        if listed.0 + LISTING_INTERVAL_MS > now_ms() {
            return listed.1.take();
        }
        *listed = (now_ms(), None);
    }
    // One asks for all: a fleet of many tasks would have too much to answer.
    if app.fleet.is_shared() {
        match app.store.may_list(LISTING_INTERVAL_MS, now_ms()).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::warn!(error = %Causes(&error), "it is not known whether the fleet was asked lately");
                return None;
            }
        }
    }
    match app.fleet.list().await {
        Ok(listing) => Some(listing),
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "the fleet does not say what it runs");
            None
        }
    }
}

/// A container that was given up, in case it runs.
struct Stop {
    container: ContainerId,
    /// The fleet's own name for it.
    task: Option<String>,
    why: &'static str,
}

/// Carries the plan out, without choices of its own.
async fn execute(app: &App, plan: &Plan, now_ms: u64) -> Result<(), StoreError> {
    let mut stops = Vec::new();
    let silent_since_ms = now_ms.saturating_sub(app.policy.lost_after_ms);
    for container in &plan.lose {
        if lifecycle::lose_container(app, container, "it fell silent", Some(silent_since_ms)).await? {
            stops.push(Stop { container: container.clone(), task: None, why: "it fell silent" });
        }
    }
    let quiet_since_ms = now_ms.saturating_sub(app.policy.lost_after_ms / 2);
    for container in &plan.gone {
        tracing::warn!(container.id = %container, "the container's task is gone");
        lifecycle::lose_container(app, container, "its task is gone", Some(quiet_since_ms)).await?;
    }
    for server in &plan.lose_servers {
        lifecycle::lose_server(app, server, Some(silent_since_ms)).await?;
    }
    for container in &plan.give_back {
        if app.store.give_back(container, NotComing::Failed("it never came"), now_ms).await? {
            tracing::warn!(container.id = %container, "container never came");
            // What a service runs is the service's to stop.
            if !container.is_of_service() {
                stops.push(Stop { container: container.clone(), task: None, why: "it never came" });
            }
        }
    }
    for task in &plan.expect {
        app.store.expect(&task.container, task.started_at_ms + app.policy.start_wait_ms).await?;
    }
    if plan.start > 0 {
        let reserved = lifecycle::reserve(app, plan.start).await?;
        // Whoever was asked for too much, or does not answer, need not be asked for the rest.
        let enough = AtomicBool::new(false);
        let launch = async |container: ContainerId| {
            if enough.load(Ordering::Relaxed) {
                return lifecycle::give_back(app, &container, NotComing::Unwanted).await;
            }
            let launched = lifecycle::launch(app, &container).await;
            if matches!(launched, Err(FailureKind::Throttled | FailureKind::NoAnswer)) {
                enough.store(true, Ordering::Relaxed);
            }
        };
        stream::iter(reserved).map(launch).buffer_unordered(AT_ONCE).for_each(async |()| {}).await;
    }
    for task in &plan.stop {
        // It may have come this moment.
        let why = "nobody knew it";
        let lost = app.store.lose_container(&task.container, why, Some(silent_since_ms), &app.limits, now_ms).await?;
        if matches!(lost, Lost::Unknown) {
            tracing::warn!(container.id = %task.container, task.arn = task.task, "a task that nobody knows is stopped");
            stops.push(Stop { container: task.container.clone(), task: task.task.clone(), why });
        }
    }
    for container in &plan.drain {
        if app.store.drain(container, Some(app.policy.idle_ms), &app.policy, now_ms).await? {
            tracing::info!(container.id = %container, "container drains");
        }
    }
    // Last: those who wait for a container need not wait for the ends of others.
    let count = stops.len();
    let stop = async |stop: Stop| lifecycle::stop(app, &stop.container, stop.task.as_deref(), stop.why).await;
    let stopping = stream::iter(stops).map(stop).buffer_unordered(AT_ONCE).for_each(async |()| {});
    if timeout(STOPPING, stopping).await.is_err() {
        tracing::warn!(containers = count, "not all that was given up could be stopped in time");
    }
    Ok(())
}

struct Waits<'a>(&'a [Wait]);

impl fmt::Display for Waits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, wait) in self.0.iter().enumerate() {
            write!(f, "{}{wait}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
