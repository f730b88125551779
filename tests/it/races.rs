//! The store's moves against each other, all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Map;
use tokio::sync::Mutex;
use wallcrawler::container::FleetPolicy;
use wallcrawler::ids::{ConnectionId, ContainerId, Owner, ServerId, SessionId};
use wallcrawler::protocol::{ClaimRequest, ContainerPhase, ReadyRequest};
use wallcrawler::session::{EndReason, MAX_CONNECTIONS, NewSession, SessionStatus};
use wallcrawler::store::{Connect, Created, EndedBy, Entered, Idempotency, Limits, Look, Store};

use crate::audit::Contents;
use crate::model::{FIRST, START, claim_request, limits, new_session, policy};
use crate::world::{Redis, redis_command};

async fn create(store: &Store, user: &str) -> SessionId {
    let new = new_session(user, false);
    match store.create(&new, None, &ContainerId::random(), &limits(), &policy(0), START).await.expect("redis answers") {
        Created::New { session, .. } => session.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sessions_are_claimed_by_fifty_containers_each_once_and_in_order() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let mut order = Vec::new();
    for _ in 0..10_000 {
        order.push(create(&store, "user_1").await);
    }
    let place: BTreeMap<SessionId, usize> = order.iter().cloned().enumerate().map(|(place, id)| (id, place)).collect();
    let place = Arc::new(place);

    let claims = (0..50u32).map(|number| {
        let (store, place) = (store.clone(), place.clone());
        tokio::spawn(async move {
            let container: ContainerId = format!("ctr-{number}").parse().expect("an id");
            let mut held = Vec::new();
            loop {
                // Each asks for a few at a time, so that all of them meet at the queue's head again and again.
                let room = u32::try_from(held.len()).expect("few") + 1 + number % 7;
                let request = claim_request(&container, room, &held);
                let claimed = store.claim(&request, FIRST, &limits(), &policy(0), START).await.expect("redis answers");
                let places: Vec<usize> = claimed.sessions.iter().map(|(session, _)| place[&session.id]).collect();
                assert!(places.windows(2).all(|pair| pair[0] + 1 == pair[1]), "what one claim gets stood side by side");
                if places.is_empty() {
                    return held;
                }
                held.extend(claimed.sessions.into_iter().map(|(session, _)| session.id));
                assert!(
                    held.windows(2).all(|pair| place[&pair[0]] < place[&pair[1]]),
                    "a later claim gets later sessions"
                );
            }
        })
    });
    let mut all = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        all.extend(claim.await.expect("no panic"));
    }
    assert_eq!(all.len(), 10_000);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), order.into_iter().collect());
}

/// Containers claim, are lost, and come back, all at once. Afterwards every session is held by exactly one
/// container that lives, or waits, or has ended because it was lost too often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_lost_or_doubled_while_containers_are_killed_at_random() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let mut limits = limits();
    limits.max_leases = 1_000;
    let limits = Arc::new(limits);
    let mut created = BTreeSet::new();
    for _ in 0..1_000 {
        created.insert(create(&store, "user_1").await);
    }
    // What each container believes to hold. A killed one forgets.
    let beliefs: Arc<Vec<Mutex<Vec<SessionId>>>> = Arc::new((0..50).map(|_| Mutex::default()).collect());
    let id = |number: usize| -> ContainerId { format!("ctr-{number}").parse().expect("an id") };
    let mut tasks = Vec::new();
    for number in 0..50 {
        let (store, limits, beliefs) = (store.clone(), limits.clone(), beliefs.clone());
        tasks.push(tokio::spawn(async move {
            for round in 0..40u32 {
                let mut held = beliefs[number].lock().await;
                let request = claim_request(&id(number), 30, &held);
                let claimed = store.claim(&request, FIRST, &limits, &policy(0), START).await.expect("redis answers");
                held.retain(|session| !claimed.end.contains(session));
                held.extend(claimed.sessions.into_iter().map(|(session, _)| session.id));
                // Every third container dies every fourth round, in the middle of everything; half of the
                // time it also loses the answer to its last claim.
                if number % 3 == 0 && round % 4 == 3 {
                    if round % 8 == 3 {
                        held.clear();
                    }
                    store.lose_container(&id(number), "lost", None, &limits, START).await.expect("redis answers");
                }
                drop(held);
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    // One last heartbeat of each settles who holds what.
    let mut held_by_any = BTreeSet::new();
    for number in 0..50 {
        let mut held = beliefs[number].lock().await;
        let request = claim_request(&id(number), 30, &held);
        let claimed = store.claim(&request, FIRST, &limits, &policy(0), START).await.expect("redis answers");
        held.retain(|session| !claimed.end.contains(session));
        held.extend(claimed.sessions.into_iter().map(|(session, _)| session.id));
        for session in held.iter() {
            assert!(held_by_any.insert(session.clone()), "{session} is held twice");
        }
    }
    let client = redis.client().await;
    let contents = Contents::read(&client).await;
    contents.check();
    let waiting: BTreeSet<SessionId> = contents.queue().iter().map(|id| id.parse().expect("an id")).collect();
    assert!(held_by_any.is_disjoint(&waiting));
    assert_eq!(held_by_any.union(&waiting).cloned().collect::<BTreeSet<_>>(), created, "none is lost");
}

/// Taken out: the look at `process` in claim.lua, and both run the session.
#[tokio::test]
async fn of_two_processes_that_were_given_one_id_the_last_to_come_serves_and_the_other_is_refused() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let container: ContainerId = "ctr-a".parse().expect("an id");
    let claim = async |process: &str, first: bool, held: &[SessionId], phase| {
        let process = Some(process.to_owned());
        let request = ClaimRequest { process, first, phase, ..claim_request(&container, 2, held) };
        store.claim(&request, FIRST, &limits(), &policy(0), START).await.expect("redis answers")
    };
    let serving = ContainerPhase::Serving;
    let ids = [create(&store, "user_1").await, create(&store, "user_1").await];
    let one = claim("one", true, &[], serving).await;
    assert_eq!(
        one.sessions.iter().map(|(session, details)| (&session.id, details.lease)).collect::<Vec<_>>(),
        [(&ids[0], 1), (&ids[1], 1)]
    );
    let report = || ReadyRequest { lease: 1, cdp_secret: "0123456789abcdef".to_owned(), version: Map::new() };
    // The first browser of the first process answers, and somebody gets through to it.
    assert!(store.ready(&ids[0], &container, &report(), &limits(), START).await.expect("redis answers").is_some());
    let (connection, server) = (ConnectionId::random(), ServerId::random());
    store.connect(&ids[0], &connection, &server, START).await.expect("redis answers");
    store.reach(&ids[0], &connection, START).await.expect("redis answers");

    // The answer to a first claim may have been lost: repeated, it takes nobody's place.
    assert!(!claim("one", true, &ids, serving).await.replaced);
    let two = claim("two", true, &[], serving).await;
    assert!(!two.replaced);
    assert_eq!(
        two.sessions.iter().map(|(session, details)| (&session.id, details.lease)).collect::<Vec<_>>(),
        [(&ids[1], 2)]
    );
    let lost = store.get(&ids[0]).await.expect("redis answers").expect("it is kept").0;
    assert_eq!((lost.status, lost.end_reason), (SessionStatus::Ended, Some(EndReason::ContainerLost)));
    for phase in [serving, ContainerPhase::Draining, ContainerPhase::Leaving] {
        assert!(claim("one", false, &ids, phase).await.replaced, "{phase:?}");
    }
    let stale = store.ready(&ids[1], &container, &report(), &limits(), START).await.expect("redis answers");
    assert!(stale.is_none(), "the first process's browser is not the one");
    assert!(!claim("two", false, &ids[1..], serving).await.replaced, "the second goes on");
    Contents::read(&redis.client().await).await.check();
}

/// A home behind a gateway is not told that a container has hung up. Such a claim waits on, and must do nothing.
#[tokio::test]
async fn a_claim_that_its_container_has_given_up_takes_nothing_and_registers_nobody() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let container: ContainerId = "ctr-a".parse().expect("an id");
    let request = claim_request(&container, 5, &[]);
    let claim = async |claim: &str, again: bool| {
        let look = Look { claim, again, yield_for: Duration::ZERO };
        store.claim(&request, look, &limits(), &policy(0), START).await.expect("redis answers")
    };
    assert!(!claim("one", false).await.superseded);
    assert!(!claim("one", true).await.superseded, "it may wait");
    assert!(!claim("two", false).await.superseded);
    let id = create(&store, "user_1").await;
    let old = claim("one", true).await;
    assert!(old.superseded && old.sessions.is_empty());
    let new = claim("two", true).await;
    assert_eq!(new.sessions.iter().map(|(session, _)| &session.id).collect::<Vec<_>>(), [&id]);

    let leaving = ClaimRequest { phase: ContainerPhase::Leaving, ..request.clone() };
    store.claim(&leaving, FIRST, &limits(), &policy(0), START).await.expect("redis answers");
    assert!(claim("two", true).await.superseded);
    let contents = Contents::read(&redis.client().await).await;
    assert!(!contents.hashes.contains_key("container:ctr-a"), "it has left");
    assert_eq!(contents.queue(), [id.to_string()]);
    contents.check();
}

#[tokio::test]
async fn one_users_burst_keeps_another_waiting_for_one_turn_only() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let mut burst = Vec::new();
    for _ in 0..1_000 {
        burst.push(create(&store, "user_burst").await);
    }
    let container: ContainerId = "ctr-a".parse().expect("an id");
    let mut held = Vec::new();
    let mut serve = async |count: usize| {
        let room = u32::try_from(held.len() + count).expect("few");
        let request = claim_request(&container, room, &held);
        let claimed = store.claim(&request, FIRST, &limits(), &policy(0), START).await.expect("redis answers");
        let served: Vec<SessionId> = claimed.sessions.into_iter().map(|(session, _)| session.id).collect();
        held.extend(served.iter().cloned());
        served
    };
    let late = create(&store, "user_late").await;
    assert_eq!(serve(2).await, [burst[0].clone(), late], "both have their first turn");
    assert_eq!(serve(5).await, burst[1..6]);
    // However many turns are over, nobody who comes now is behind in the next.
    let (first, second) = (create(&store, "user_late").await, create(&store, "user_late").await);
    let other = create(&store, "user_other").await;
    assert_eq!(
        serve(6).await,
        [first, other, burst[6].clone(), second, burst[7].clone(), burst[8].clone()],
        "in turns, and each user's in the order in which they came"
    );
    let contents = Contents::read(&redis.client().await).await;
    contents.check();
    assert_eq!(contents.queue(), burst[9..].iter().map(ToString::to_string).collect::<Vec<_>>());
    let list = &contents.lists["pending-sessions"];
    assert!(list.len() < 1_000, "what has been served goes from its head: {}", list.len());
}

/// Taken out: `thin_queue`; that who stands in the list twice is kept once.
#[tokio::test]
async fn who_waits_for_long_does_not_keep_in_the_list_what_came_and_went_behind_it() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let user = Owner::User("user_brief".parse().expect("an id"));
    let [first, third] = [create(&store, "user_patient").await, create(&store, "user_patient").await];
    let second = create(&store, "user_other").await;
    // Two are handed out, one of them out of the middle of the list, and put back to its head.
    let container: ContainerId = "ctr-a".parse().expect("an id");
    store.claim(&claim_request(&container, 2, &[]), FIRST, &limits(), &policy(0), START).await.expect("redis answers");
    store.lose_container(&container, "it died", None, &limits(), START).await.expect("redis answers");
    let mut staying = vec![first, second, third];
    for at in 0..1_100 {
        let id = create(&store, "user_brief").await;
        if at % 500 == 0 {
            staying.push(id);
        } else {
            store.end(&id, EndedBy::Owner(&user), EndReason::Released, &limits(), START).await.expect("redis answers");
        }
    }
    let client = redis.client().await;
    let listed = async || Contents::read(&client).await.lists["pending-sessions"].clone();
    let before = listed().await;
    assert!(before.len() > 1_000);
    assert_eq!(before.iter().filter(|id| **id == staying[1].to_string()).count(), 2);
    store.show_fleet(START).await.expect("redis answers");
    assert!(listed().await.len() > 1_000, "who only shows it changes nothing");
    store.snapshot(5_000, START).await.expect("redis answers");
    assert_eq!(listed().await, staying.iter().map(ToString::to_string).collect::<Vec<_>>(), "in the order of arrival");
    Contents::read(&client).await.check();
}

#[tokio::test]
async fn waiting_once_gives_nobody_a_place_further_back_later() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let user = Owner::User("user_one".parse().expect("an id"));
    // Ninety-nine of a hundred are given up again: they have had no turn.
    let mut last = None;
    for _ in 0..100 {
        if let Some(id) = last.replace(create(&store, "user_one").await) {
            store.end(&id, EndedBy::Owner(&user), EndReason::Released, &limits(), START).await.expect("redis answers");
        }
    }
    let other = create(&store, "user_two").await;
    let queue = Contents::read(&redis.client().await).await.queue();
    assert_eq!(queue, [other.to_string(), last.expect("created").to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_connections_as_a_session_may_have_get_in_however_many_come_at_once() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let id = create(&store, "user_1").await;
    let (container, server): (ContainerId, ServerId) = (ContainerId::random(), ServerId::random());
    store.claim(&claim_request(&container, 1, &[]), FIRST, &limits(), &policy(0), START).await.expect("redis answers");
    let report = ReadyRequest { lease: 1, cdp_secret: "0123456789abcdef".to_owned(), version: Map::new() };
    store.ready(&id, &container, &report, &limits(), START).await.expect("redis answers").expect("ready");

    let tries = (0..MAX_CONNECTIONS + 30).map(|number| {
        let (store, id, server) = (store.clone(), id.clone(), server.clone());
        tokio::spawn(async move {
            let connection = ConnectionId::random();
            let entered = if number % 2 == 0 {
                let connect = store.connect(&id, &connection, &server, START).await.expect("redis answers");
                matches!(connect, Connect::Ready { .. })
            } else {
                matches!(store.enter(&id, &connection, START).await.expect("redis answers"), Entered::Now(_))
            };
            (connection, entered)
        })
    });
    let (mut inside, mut outside) = (Vec::new(), 0);
    for tried in tries.collect::<Vec<_>>() {
        match tried.await.expect("no panic") {
            (connection, true) => inside.push(connection),
            (_, false) => outside += 1,
        }
    }
    assert_eq!((inside.len() as u64, outside), (MAX_CONNECTIONS, 30));
    // Who is in may come again, as after an outage; and who leaves makes room.
    let connect =
        async |connection: &ConnectionId| store.connect(&id, connection, &server, START).await.expect("redis answers");
    assert!(matches!(connect(&inside[0]).await, Connect::Ready { .. }));
    let next = ConnectionId::random();
    assert!(matches!(connect(&next).await, Connect::Crowded));
    store.disconnect(&inside[0], Some(&id), &limits(), START).await.expect("redis answers");
    assert!(matches!(connect(&next).await, Connect::Ready { .. }));
}

/// The answer to `reach` can be lost: then the client is refused, though it was noted that it got through.
#[tokio::test]
async fn a_client_that_was_noted_and_refused_all_the_same_has_not_come() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let (container, server) = (ContainerId::random(), ServerId::random());
    let report = ReadyRequest { lease: 1, cdp_secret: "0123456789abcdef".to_owned(), version: Map::new() };
    let mut held = Vec::new();
    let waits_for = async |id: &SessionId| {
        let session =
            Contents::read(&redis.client().await).await.hashes.remove(&format!("session:{id}")).expect("kept");
        session.get("waitReason").cloned()
    };
    for others in [false, true] {
        let id = create(&store, "user_1").await;
        held.push(id.clone());
        let request = claim_request(&container, 5, &held[..held.len() - 1]);
        store.claim(&request, FIRST, &limits(), &policy(0), START).await.expect("redis answers");
        store.ready(&id, &container, &report, &limits(), START).await.expect("redis answers").expect("its container");
        let (first, second) = (ConnectionId::random(), ConnectionId::random());
        store.connect(&id, &first, &server, START).await.expect("redis answers");
        assert!(store.reach(&id, &first, START).await.expect("redis answers"));
        if others {
            store.connect(&id, &second, &server, START).await.expect("redis answers");
        }
        store.back_out(&first, &id, &limits(), START).await.expect("redis answers");
        if others {
            assert_eq!(waits_for(&id).await, None, "the other one is still there");
            store.disconnect(&second, Some(&id), &limits(), START).await.expect("redis answers");
            assert_eq!(waits_for(&id).await.as_deref(), Some("disconnected"));
        } else {
            assert_eq!(waits_for(&id).await.as_deref(), Some("never_connected"));
        }
    }
    store.lose_container(&container, "lost", None, &limits(), START).await.expect("redis answers");
    let contents = Contents::read(&redis.client().await).await;
    assert_eq!(contents.queue(), [held[0].to_string()], "only whom nobody has reached is served by another");
    contents.check();
}

/// Two servers look at the same moment, and neither knows what the other is about to drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drains_that_race_leave_the_minimum() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let least = FleetPolicy { min_containers: 2, ..policy(10) };
    let containers: Vec<ContainerId> = (0..5).map(|_| ContainerId::random()).collect();
    for container in &containers {
        store.claim(&claim_request(container, 3, &[]), FIRST, &limits(), &least, START).await.expect("redis answers");
    }
    let later = START + least.idle_ms;
    let drains = containers.iter().chain(&containers).cloned().map(|container| {
        let (store, least) = (store.clone(), least.clone());
        tokio::spawn(async move {
            store.drain(&container, Some(least.idle_ms), &least, later).await.expect("redis answers")
        })
    });
    let mut drained = 0;
    for drain in drains.collect::<Vec<_>>() {
        drained += u64::from(drain.await.expect("no panic"));
    }
    assert_eq!(drained, 3);
    // What drains is no use: one that serves and is lost is replaced, though five are there.
    let contents = Contents::read(&redis.client().await).await;
    let serves = |id: &&ContainerId| contents.hashes[&format!("container:{id}")]["draining"] == "0";
    let serving = containers.iter().find(serves).expect("two of them");
    assert!(store.drain(serving, None, &least, later).await.expect("redis answers"));
    let candidates = [ContainerId::random(), ContainerId::random()];
    assert_eq!(store.reserve(&candidates, &least, later).await.expect("redis answers").len(), 1);
    Contents::read(&redis.client().await).await.check();
}

/// Taken out: that it is counted among those that are on their way; the look whether one of its name is there.
#[tokio::test]
async fn a_container_of_a_service_that_was_let_come_is_one_on_its_way_until_it_is_there() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let least = FleetPolicy { min_containers: 1, ..policy(10) };
    let (container, candidates) = (ContainerId::random(), [ContainerId::random()]);
    for _ in 0..2 {
        assert!(store.join(&container, &least, START).await.expect("redis answers"), "it may have missed the answer");
        let reserved = store.reserve(&candidates, &least, START).await.expect("redis answers");
        assert_eq!(reserved, [] as [ContainerId; 0], "another is started in its place");
    }
    store.claim(&claim_request(&container, 3, &[]), FIRST, &limits(), &least, START).await.expect("redis answers");
    assert!(!store.join(&container, &least, START).await.expect("redis answers"));
    Contents::read(&redis.client().await).await.check();
}

#[tokio::test]
async fn a_reservation_that_is_repeated_is_answered_again_and_makes_no_more() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    for _ in 0..50 {
        create(&store, "user_1").await;
    }
    let candidates: Vec<ContainerId> = (0..5).map(|_| ContainerId::random()).collect();
    let reserved = store.reserve(&candidates, &policy(10), START).await.expect("redis answers");
    assert_eq!(reserved, candidates[..3]);
    // As the client library does when the connection broke before the answer.
    assert_eq!(store.reserve(&candidates, &policy(10), START).await.expect("redis answers"), reserved);
    assert_eq!(store.snapshot(5_000, START).await.expect("redis answers").starting.len(), 3);
}

#[tokio::test]
async fn a_session_that_somebody_deleted_from_redis_keeps_nobody_waiting() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let (deleted, next) = (create(&store, "user_1").await, create(&store, "user_2").await);
    redis_command(&redis.client().await, &["DEL", &format!("session:{deleted}")]).await;
    let claim = claim_request(&ContainerId::random(), 3, &[]);
    let claimed = store.claim(&claim, FIRST, &limits(), &policy(0), START).await.expect("redis answers");
    assert_eq!(claimed.sessions.into_iter().map(|(session, _)| session.id).collect::<Vec<_>>(), [next]);
    let snapshot = store.snapshot(5_000, START).await.expect("redis answers");
    assert_eq!((snapshot.queue.length, snapshot.used), (0, 1));
}

/// Whoever was refused gets a session of its own; and that again, when the client library repeats the command.
#[tokio::test]
async fn a_create_that_is_carried_out_twice_is_not_given_somebody_elses_session() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let attempt = |attempt| Idempotency::Attempt { body: "body".to_owned(), attempt };
    let create = async |new: &NewSession, again: u64, limits: &Limits| {
        let (again, container) = (attempt(again), ContainerId::random());
        store.create(new, Some(&again), &container, limits, &policy(0), START).await.expect("redis answers")
    };
    let (others, own) = (new_session("user_1", false), new_session("user_1", false));
    assert!(matches!(create(&others, 0, &limits()).await, Created::New { .. }));
    let full = Limits { max_pending: 1, ..limits() };
    assert!(matches!(create(&own, 0, &full).await, Created::QueueFull(_)));
    for _ in 0..2 {
        let created = create(&own, 1, &limits()).await;
        assert!(matches!(&created, Created::New { session, .. } if session.id == own.id), "{created:?}");
    }
}
