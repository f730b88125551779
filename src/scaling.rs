//! How many containers there should be. `plan` is a pure function from what is known to what should be
//! done, and says what it waits for; `tick` looks, plans and acts. Nothing here retries: the next look is
//! the retry. Each action is checked again, by its script, at the moment it is carried out.

use std::collections::HashSet;
use std::fmt;

use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::json;

use crate::app::App;
use crate::causes::Causes;
use crate::clock::{now_ms, rfc3339};
use crate::container::{Container, FleetListing, FleetPolicy, FleetSnapshot, FleetTask};
use crate::ids::{ContainerId, ServerId};
use crate::lifecycle;
use crate::store::{Lost, StoreError};

/// How often the fleet itself is asked what it runs. Less than the minute between two looks of a schedule, so that
/// each of those asks.
const LISTING_INTERVAL_MS: u64 = 50_000;
/// A listing may lack what was started shortly before it: ECS makes no promise how shortly.
const LISTING_LAG_MS: u64 = 60_000;
/// How many launches and stops are under way at once. ECS takes 20 a second.
const AT_ONCE: usize = 10;

/// What should be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
    /// Containers that were reserved and never came.
    pub give_back: Vec<ContainerId>,
    /// Servers that gave no sign of life.
    pub lose_servers: Vec<ServerId>,
    pub waiting_for: Vec<Wait>,
}

/// Why something that is wanted is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "for", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Wait {
    /// Containers on their way.
    Start { containers: u64 },
    /// Containers that are wanted, and not tried before the pause after failed starts is over.
    Pause { wanted: u64, attempts: u64, for_ms: u64 },
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
            && self.give_back.is_empty()
            && self.lose_servers.is_empty()
    }

    /// Whether there is somebody silent on whom only a watch without a gap can pass judgement.
    pub fn wants_watch(&self) -> bool {
        self.waiting_for.iter().any(|wait| matches!(wait, Wait::Sight { .. }))
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

    let (mut running, mut slots, mut used, mut draining, mut unseen) = (0u64, 0u64, 0u64, 0u64, 0u64);
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
        .max(policy.min_containers.saturating_sub(starting + running));
    let allowed = policy.max_containers.saturating_sub(starting + running);
    let possible = short.min(allowed);
    let pause_ms = snapshot.failed_starts.hold_until_ms.saturating_sub(now_ms);
    plan.start = if pause_ms == 0 { possible } else { 0 };

    if possible == 0 {
        // The newest first: the others have proved themselves, and what is oldest is easiest to explain.
        idle.sort_by_key(|container| std::cmp::Reverse((container.started_at_ms, container.id.clone())));
        let mut free = slots.saturating_sub(used);
        for container in idle {
            let keep = wanted + container.max_sessions > free || running <= policy.min_containers;
            if !keep {
                free -= container.max_sessions;
                running -= 1;
                draining += 1;
                plan.drain.push(container.id.clone());
            }
        }
    }

    let waits = [
        (starting, Wait::Start { containers: starting }),
        (
            possible - plan.start,
            Wait::Pause { wanted: possible, attempts: snapshot.failed_starts.attempts, for_ms: pause_ms },
        ),
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
            gone = plan.gone.len(), stop = plan.stop.len(),
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
    match app.fleet.list().await {
        Ok(listing) => Some(listing),
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "the fleet does not say what it runs");
            None
        }
    }
}

/// Carries the plan out, without choices of its own.
async fn execute(app: &App, plan: &Plan, now_ms: u64) -> Result<(), StoreError> {
    let silent_since_ms = now_ms.saturating_sub(app.policy.lost_after_ms);
    for container in &plan.lose {
        lifecycle::lose_container(app, container, "it fell silent", None, Some(silent_since_ms)).await?;
    }
    let quiet_since_ms = now_ms.saturating_sub(app.policy.lost_after_ms / 2);
    for container in &plan.gone {
        tracing::warn!(container.id = %container, "the container's task is gone");
        lifecycle::lose_container(app, container, "its task is gone", None, Some(quiet_since_ms)).await?;
    }
    for server in &plan.lose_servers {
        lifecycle::lose_server(app, server, Some(silent_since_ms)).await?;
    }
    for container in &plan.give_back {
        if app.store.give_back(container, Some("it never came"), now_ms).await? {
            tracing::warn!(container.id = %container, "container never came");
            lifecycle::stop(app, container, None).await;
        }
    }
    if plan.start > 0 {
        let candidates: Vec<_> = (0..plan.start).map(|_| ContainerId::random()).collect();
        let reserved = app.store.reserve(&candidates, &app.policy, now_ms).await?;
        let launch = async |container: ContainerId| lifecycle::launch(app, &container).await;
        stream::iter(reserved).map(launch).buffer_unordered(AT_ONCE).for_each(async |()| {}).await;
    }
    for task in &plan.stop {
        // It may have come this moment.
        let why = "nobody knew it";
        let lost = app.store.lose_container(&task.container, why, Some(silent_since_ms), &app.limits, now_ms).await?;
        if matches!(lost, Lost::Unknown) {
            tracing::warn!(container.id = %task.container, task.arn = task.task, "a task that nobody knows is stopped");
            lifecycle::stop(app, &task.container, task.task.as_deref()).await;
        }
    }
    for container in &plan.drain {
        if app.store.drain(container, Some(app.policy.idle_ms), &app.policy, now_ms).await? {
            tracing::info!(container.id = %container, "container drains");
        }
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::container::{FailedStarts, Queue};

    const NOW: u64 = 1_767_225_600_000;

    fn policy() -> FleetPolicy {
        FleetPolicy {
            sessions_per_container: 10,
            warm_slots: 0,
            min_containers: 0,
            max_containers: 5,
            start_wait_ms: 30_000,
            idle_ms: 60_000,
            lost_after_ms: 15_000,
            blind_after_ms: 5_000,
        }
    }

    fn container(number: u64, active_sessions: u64) -> Container {
        Container {
            id: format!("ctr-{number}").parse().expect("an id"),
            active_sessions,
            max_sessions: 10,
            last_heartbeat_ms: NOW - 1_000,
            idle_since_ms: NOW - 100_000,
            started_at_ms: NOW - 200_000 + number,
            draining: false,
            launched: true,
            task_arn: None,
        }
    }

    fn snapshot(pending: u64, containers: Vec<Container>) -> FleetSnapshot {
        let serving = || containers.iter().filter(|container| !container.draining);
        FleetSnapshot {
            watched_since_ms: NOW - 1_000_000,
            queue: Queue { length: pending, ..Queue::default() },
            slots: serving().map(|container| container.max_sessions).sum(),
            used: serving().map(|container| container.active_sessions).sum(),
            containers,
            ..FleetSnapshot::default()
        }
    }

    #[test]
    fn what_is_missing_is_started_and_not_more() {
        for (pending, active, expected) in [(0, 10, 0), (1, 9, 0), (1, 10, 1), (10, 10, 1), (11, 10, 2), (11, 5, 1)] {
            let plan = plan(&snapshot(pending, vec![container(1, active)]), None, &policy(), NOW);
            assert_eq!(plan.start, expected, "{pending} pending beside {active} of 10");
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_started_again_and_what_never_came_is_given_back() {
        let mut snapshot = snapshot(15, vec![]);
        let (coming, late) = (ContainerId::random(), ContainerId::random());
        snapshot.starting = vec![(coming, NOW + 1), (late.clone(), NOW)];
        let plan = plan(&snapshot, None, &policy(), NOW);
        assert_eq!((plan.start, plan.give_back), (1, vec![late]));
        assert_eq!(plan.waiting_for, [Wait::Start { containers: 1 }]);
    }

    #[test]
    fn while_starts_fail_none_is_tried_before_the_pause_is_over() {
        let mut snapshot = snapshot(200, vec![container(1, 0)]);
        snapshot.failed_starts = FailedStarts { attempts: 3, hold_until_ms: NOW + 1, ..FailedStarts::default() };
        let paused = plan(&snapshot, None, &policy(), NOW);
        assert!(paused.is_idle(), "{paused:?}");
        assert_eq!(
            paused.waiting_for,
            [Wait::Pause { wanted: 4, attempts: 3, for_ms: 1 }, Wait::Maximum { wanted: 19, allowed: 4 }]
        );
        assert_eq!(plan(&snapshot, None, &policy(), NOW + 1).start, 4);
    }

    #[test]
    fn what_somebody_else_started_is_not_drained() {
        let mut snapshot = snapshot(0, vec![container(1, 0)]);
        assert_eq!(plan(&snapshot, None, &policy(), NOW).drain.len(), 1);
        snapshot.containers[0].launched = false;
        assert!(plan(&snapshot, None, &policy(), NOW).is_idle());
    }

    #[test]
    fn more_than_the_maximum_is_waited_for() {
        let plan = plan(&snapshot(200, vec![]), None, &policy(), NOW);
        assert_eq!(plan.start, 5);
        assert_eq!(plan.waiting_for, [Wait::Maximum { wanted: 20, allowed: 5 }]);
    }

    #[test]
    fn the_newest_idle_containers_are_drained_and_what_is_wanted_stays() {
        let idle = |numbers: [u64; 3]| numbers.map(|number| container(number, 0)).to_vec();
        let ids = |plan: Plan| plan.drain.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ids(plan(&snapshot(0, idle([2, 3, 1])), None, &policy(), NOW)), ["ctr-3", "ctr-2", "ctr-1"]);
        let warm = FleetPolicy { warm_slots: 15, ..policy() };
        assert_eq!(ids(plan(&snapshot(0, idle([2, 3, 1])), None, &warm, NOW)), ["ctr-3"]);
        let least = FleetPolicy { min_containers: 2, ..policy() };
        assert_eq!(ids(plan(&snapshot(0, idle([2, 3, 1])), None, &least, NOW)), ["ctr-3"]);
    }

    #[test]
    fn a_silent_server_is_lost_only_if_somebody_could_have_heard_it() {
        let silent = ServerId::random();
        let mut snapshot = FleetSnapshot { servers: vec![(silent.clone(), NOW - 15_000)], ..snapshot(0, vec![]) };
        assert_eq!(plan(&snapshot, None, &policy(), NOW).lose_servers, [silent]);
        snapshot.watched_since_ms = NOW - 14_999;
        let blind = plan(&snapshot, None, &policy(), NOW);
        assert!(blind.lose_servers.is_empty() && blind.wants_watch());
        snapshot.servers[0].1 = NOW - 14_999;
        assert!(!plan(&snapshot, None, &policy(), NOW).wants_watch());
    }

    #[test]
    fn a_silent_container_is_lost_only_if_somebody_could_have_heard_it() {
        let mut silent = container(1, 3);
        silent.last_heartbeat_ms = NOW - 15_000;
        let mut snapshot = snapshot(0, vec![silent.clone()]);
        assert_eq!(plan(&snapshot, None, &policy(), NOW).lose, [silent.id]);
        snapshot.watched_since_ms = NOW - 14_999;
        let blind = plan(&snapshot, None, &policy(), NOW);
        assert!(blind.lose.is_empty());
        assert_eq!(blind.waiting_for, [Wait::Sight { silent: 1 }]);
    }

    fn task(container: &ContainerId, age_ms: u64) -> FleetTask {
        FleetTask { container: container.clone(), task: Some(format!("task-{container}")), started_at_ms: NOW - age_ms }
    }

    #[test]
    fn a_task_that_nobody_knows_is_stopped_when_it_had_time_to_come_and_could_be_heard() {
        let (known, coming, stray) = (container(1, 3), ContainerId::random(), ContainerId::random());
        let mut snapshot = snapshot(0, vec![known.clone()]);
        snapshot.starting = vec![(coming.clone(), NOW + 1)];
        let mut listing = FleetListing {
            taken_at_ms: NOW,
            whole: false,
            tasks: vec![task(&known.id, 90_000), task(&coming, 90_000), task(&stray, 29_999)],
        };
        assert_eq!(plan(&snapshot, Some(&listing), &policy(), NOW).stop, []);
        listing.tasks[2] = task(&stray, 30_000);
        let first = plan(&snapshot, Some(&listing), &policy(), NOW);
        assert_eq!(first.stop, [task(&stray, 30_000)]);
        assert!(first.lose.is_empty() && first.gone.is_empty() && first.start == 0);
        snapshot.watched_since_ms = NOW - 14_999;
        let blind = plan(&snapshot, Some(&listing), &policy(), NOW);
        assert!(blind.stop.is_empty() && blind.wants_watch());
    }

    #[test]
    fn a_container_without_a_task_is_gone_when_it_is_silent_and_the_listing_can_have_it() {
        let mut silent = container(1, 3);
        silent.last_heartbeat_ms = NOW - 7_500;
        let whole = FleetListing { taken_at_ms: NOW, whole: true, tasks: vec![] };
        let gone = |container: &Container, listing: &FleetListing| {
            !plan(&snapshot(0, vec![container.clone()]), Some(listing), &policy(), NOW).gone.is_empty()
        };
        assert!(gone(&silent, &whole));
        assert!(!gone(&silent, &FleetListing { whole: false, ..whole.clone() }), "it may be another server's");
        assert!(!gone(&silent, &FleetListing { tasks: vec![task(&silent.id, 90_000)], ..whole.clone() }));
        assert!(!gone(&Container { last_heartbeat_ms: NOW - 7_499, ..silent.clone() }, &whole), "it was heard");
        assert!(!gone(&Container { started_at_ms: NOW - 59_999, ..silent.clone() }, &whole), "it is new");
        assert!(!gone(&Container { launched: false, ..silent }, &whole), "somebody runs it by hand");
    }

    fn snapshots() -> impl Strategy<Value = FleetSnapshot> {
        let containers = proptest::collection::vec((0..12u64, any::<bool>(), 0..20_000u64, 0..100_000u64), 0..8);
        let starting = proptest::collection::vec(0..40_000u64, 0..4);
        let pause = proptest::option::of(0..30_000u64);
        let all = (containers, starting, 0..120u64, 0..40_000u64, pause);
        all.prop_map(|(containers, starting, pending, watched, pause)| {
            let containers =
                containers.into_iter().enumerate().map(|(number, (active, draining, silent, idle))| Container {
                    draining,
                    last_heartbeat_ms: NOW - silent,
                    idle_since_ms: NOW - idle,
                    ..container(number as u64, active.min(10))
                });
            let mut snapshot = snapshot(pending, containers.collect());
            snapshot.watched_since_ms = NOW - watched;
            snapshot.failed_starts.hold_until_ms = pause.map_or(0, |ms| NOW - 10_000 + ms);
            snapshot.starting = starting.into_iter().map(|at| (ContainerId::random(), NOW - 20_000 + at)).collect();
            snapshot
        })
    }

    proptest! {
        #[test]
        fn no_plan_passes_the_maximum_drains_the_busy_or_starts_twice(
            snapshot in snapshots(), warm_slots in 0..30u64, min_containers in 0..4u64, max_containers in 4..8u64,
            listed in proptest::option::of((any::<bool>(), any::<u8>(), proptest::collection::vec(0..60_000u64, 0..4))),
        ) {
            // Some of the containers, all reservations, and tasks that nobody knows.
            let listing = listed.map(|(whole, which, strays)| {
                let known = snapshot.containers.iter().enumerate().filter(|(number, _)| which >> number & 1 == 1);
                let mut tasks: Vec<_> = known.map(|(_, container)| task(&container.id, 90_000)).collect();
                tasks.extend(snapshot.starting.iter().map(|(id, _)| task(id, 90_000)));
                tasks.extend(strays.iter().map(|age_ms| task(&ContainerId::random(), *age_ms)));
                FleetListing { taken_at_ms: NOW, whole, tasks }
            });
            let listing = listing.as_ref();
            let policy = FleetPolicy { warm_slots, min_containers, max_containers, ..policy() };
            let first = plan(&snapshot, listing, &policy, NOW);
            let lost: Vec<_> = first.lose.iter().chain(&first.gone).collect();
            for stopped in &first.stop {
                prop_assert!(snapshot.containers.iter().all(|container| container.id != stopped.container));
                prop_assert!(snapshot.starting.iter().all(|(id, _)| *id != stopped.container));
                prop_assert!(stopped.started_at_ms + policy.start_wait_ms <= NOW);
            }
            for container in snapshot.containers.iter().filter(|container| first.gone.contains(&container.id)) {
                prop_assert!(container.last_heartbeat_ms + policy.lost_after_ms / 2 <= NOW);
            }
            let there = snapshot.containers.len() - lost.len() + snapshot.starting.len() - first.give_back.len();
            prop_assert!(first.start == 0 || there as u64 + first.start <= max_containers);
            prop_assert!(first.start == 0 || snapshot.failed_starts.hold_until_ms <= NOW);
            for id in &first.drain {
                let drained = snapshot.containers.iter().find(|container| container.id == *id).expect("known");
                prop_assert!(drained.active_sessions == 0 && !drained.draining);
                prop_assert!(!lost.contains(&id));
            }
            prop_assert!(first.start == 0 || first.drain.is_empty());

            // Once it is carried out, there is nothing left to do.
            let mut after = snapshot.clone();
            after.queue.length += after.containers.iter().filter(|c| lost.contains(&&c.id)).map(|c| c.active_sessions).sum::<u64>();
            after.containers.retain(|container| !lost.contains(&&container.id));
            for container in &mut after.containers {
                container.draining |= first.drain.contains(&container.id);
            }
            after.starting.retain(|(id, _)| !first.give_back.contains(id));
            after.starting.extend((0..first.start).map(|_| (ContainerId::random(), NOW + 30_000)));
            let listed_after = listing.map(|listing| {
                let mut listing = listing.clone();
                listing.tasks.retain(|task| {
                    let over = first.stop.contains(task) || first.give_back.contains(&task.container);
                    !over && !lost.contains(&&task.container)
                });
                listing
            });
            let second = plan(&after, listed_after.as_ref(), &policy, NOW);
            prop_assert!(second.is_idle(), "{first:?} and then {second:?}");

            // The order in which things are looked at does not matter.
            let mut turned = snapshot.clone();
            turned.containers.reverse();
            turned.starting.reverse();
            let turned_listing = listing.map(|listing| {
                FleetListing { tasks: listing.tasks.iter().rev().cloned().collect(), ..listing.clone() }
            });
            let mut other = plan(&turned, turned_listing.as_ref(), &policy, NOW);
            other.lose.reverse();
            other.gone.reverse();
            other.stop.reverse();
            other.give_back.reverse();
            prop_assert_eq!(first, other);
        }
    }
}
