//! Plans for situations, and what holds of every plan.

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
fn those_that_drain_are_none_of_the_minimum_and_some_of_the_maximum() {
    let least = FleetPolicy { min_containers: 2, max_containers: 3, ..policy() };
    let drains = |number| Container { draining: true, ..container(number, 0) };
    // One look has drained the third: the next must not drain the second for it.
    let two_and_one = snapshot(0, vec![container(1, 0), container(2, 0), drains(3)]);
    assert!(plan(&two_and_one, None, &least, NOW).is_idle());
    let one_and_one = snapshot(0, vec![container(1, 0), drains(2)]);
    assert_eq!(plan(&one_and_one, None, &least, NOW).start, 1);
    let one_and_two = plan(&snapshot(0, vec![container(1, 0), drains(2), drains(3)]), None, &least, NOW);
    assert_eq!((one_and_two.start, &one_and_two.waiting_for[0]), (0, &Wait::Maximum { wanted: 1, allowed: 0 }));
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
    FleetTask {
        container: container.clone(),
        task: Some(format!("task-{container}")),
        started_at_ms: NOW - age_ms,
        started_by: StartedBy::Us,
    }
}

#[test]
fn a_services_task_counts_while_it_is_on_its_way_and_is_never_stopped() {
    let of_service = |age_ms| FleetTask { started_by: StartedBy::Service, ..task(&ContainerId::random(), age_ms) };
    let (coming, late) = (of_service(29_999), of_service(30_000));
    let tasks = vec![coming.clone(), late];
    let listing = FleetListing { taken_at_ms: NOW, whole: true, tasks };
    let mut snapshot = snapshot(11, vec![]);
    let first = plan(&snapshot, Some(&listing), &policy(), NOW);
    assert_eq!((first.expect, first.stop, first.start), (vec![coming.clone()], vec![], 1));
    // It is expected already; or it has come.
    snapshot.starting = vec![(coming.container.clone(), NOW + 1)];
    assert!(plan(&snapshot, Some(&listing), &policy(), NOW).expect.is_empty());
    snapshot.starting.clear();
    snapshot.containers = vec![Container { id: coming.container, launched: false, ..container(1, 0) }];
    assert!(plan(&snapshot, Some(&listing), &policy(), NOW).expect.is_empty());
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

/// Busy fleets, of which hardly one has anything to drain, and idle ones.
fn snapshots() -> impl Strategy<Value = FleetSnapshot> {
    let busy = (
        proptest::collection::vec((0..12u64, any::<bool>(), 0..20_000u64, 0..100_000u64), 0..8),
        proptest::collection::vec(0..40_000u64, 0..4),
        0..120u64,
    );
    let idle = (
        proptest::collection::vec(
            (prop_oneof![4 => Just(0u64), 1 => 1..12u64], any::<bool>(), 0..16_000u64, 50_000..100_000u64),
            0..8,
        ),
        proptest::collection::vec(0..40_000u64, 0..2),
        prop_oneof![3 => Just(0u64), 1 => 1..10u64],
    );
    let pause = proptest::option::of(0..30_000u64);
    let fleets = prop_oneof![busy.boxed(), idle.boxed()];
    let all = (fleets, 0..40_000u64, pause)
        .prop_map(|((containers, starting, pending), watched, pause)| (containers, starting, pending, watched, pause));
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
            tasks.extend(strays.iter().enumerate().map(|(number, age_ms)| {
                let started_by = if number % 2 == 0 { StartedBy::Us } else { StartedBy::Service };
                FleetTask { started_by, ..task(&ContainerId::random(), *age_ms) }
            }));
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
            prop_assert!(stopped.started_by == StartedBy::Us);
        }
        for container in snapshot.containers.iter().filter(|container| first.gone.contains(&container.id)) {
            prop_assert!(container.last_heartbeat_ms + policy.lost_after_ms / 2 <= NOW);
        }
        let there = snapshot.containers.len() - lost.len() + snapshot.starting.len() - first.give_back.len();
        prop_assert!(first.start == 0 || (there + first.expect.len()) as u64 + first.start <= max_containers);
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
        let expected = first.expect.iter().map(|task| (task.container.clone(), task.started_at_ms + 30_000));
        after.starting.extend(expected);
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
        other.expect.reverse();
        other.give_back.reverse();
        prop_assert_eq!(first, other);
    }
}
