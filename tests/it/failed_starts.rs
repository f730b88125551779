//! Containers that do not come, or are gone before they are of any use: the next ones wait a little longer each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use wallcrawler::container::{FleetListing, LaunchSpec};
use wallcrawler::fleet::{FailureKind, Fleet, FleetError};
use wallcrawler::ids::{ContainerId, SessionId};
use wallcrawler::protocol::ReadyRequest;
use wallcrawler::scaling;
use wallcrawler::store::{Created, NotComing, Store};

use crate::audit::Contents;
use crate::model::{FIRST, START, claim_request, limits, new_session, policy};
use crate::world::{Redis, World, config};

const SECOND: u64 = 1_000;

async fn create(store: &Store, container: &ContainerId, now: u64) -> (SessionId, bool) {
    let new = new_session("user_a", false);
    match store.create(&new, None, container, &limits(), &policy(10), now).await.expect("redis answers") {
        Created::New { session, launch, .. } => (session.id, launch.is_some()),
        other => panic!("{other:?}"),
    }
}

/// Seconds from the start at which a container is started, if all fail at once.
async fn attempts(store: &Store, within: u64) -> Vec<u64> {
    let mut attempts = Vec::new();
    for second in 0..within {
        let now = START + second * SECOND;
        for container in store.reserve(&[ContainerId::random()], &policy(10), now).await.expect("redis answers") {
            attempts.push(second);
            assert!(store.give_back(&container, NotComing::Failed("no capacity"), now).await.expect("redis answers"));
        }
    }
    attempts
}

#[tokio::test]
async fn the_pause_after_failed_starts_doubles_up_to_half_a_minute() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let (_, launched) = create(&store, &"ctr-first".parse().expect("an id"), START).await;
    assert!(launched);
    // Given back because it was not wanted: nothing has failed.
    assert!(
        store.give_back(&"ctr-first".parse().expect("an id"), NotComing::Unwanted, START).await.expect("redis answers")
    );
    assert_eq!(attempts(&store, 125).await, [0, 1, 3, 7, 15, 31, 61, 91, 121]);
    let failed = store.snapshot(5_000, START + 125 * SECOND).await.expect("redis answers").failed_starts;
    assert_eq!((failed.attempts, failed.last_why.as_str()), (9, "no capacity"));
    assert_eq!(failed.last_at_ms, START + 121 * SECOND);
    // Nobody who creates starts one in between, and the first failure after a long quiet is a first one again.
    assert!(!create(&store, &ContainerId::random(), START + 150 * SECOND).await.1);
    let later = START + 3_600 * SECOND;
    let container = ContainerId::random();
    assert!(create(&store, &container, later).await.1);
    store.give_back(&container, NotComing::Failed("no capacity"), later).await.expect("redis answers");
    assert_eq!(store.snapshot(5_000, later).await.expect("redis answers").failed_starts.attempts, 1);
}

#[tokio::test]
async fn several_that_fail_together_are_one_attempt() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    for _ in 0..60 {
        create(&store, &ContainerId::random(), START).await;
    }
    let snapshot = store.snapshot(5_000, START).await.expect("redis answers");
    assert_eq!(snapshot.starting.len(), 3);
    for (container, _) in snapshot.starting {
        store.give_back(&container, NotComing::Failed("throttled"), START + 50).await.expect("redis answers");
    }
    let failed = store.snapshot(5_000, START).await.expect("redis answers").failed_starts;
    assert_eq!((failed.attempts, failed.hold_until_ms), (1, START + 50 + SECOND));
}

#[tokio::test]
async fn a_fleet_of_which_too_much_was_asked_is_left_alone_and_what_has_failed_before_stays_noted() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    create(&store, &ContainerId::random(), START).await;
    let reserve = async |second: u64| {
        store
            .reserve(&[ContainerId::random()], &policy(10), START + second * SECOND)
            .await
            .expect("redis answers")
            .pop()
    };
    for container in store.snapshot(5_000, START).await.expect("redis answers").starting {
        store.give_back(&container.0, NotComing::Failed("no capacity"), START).await.expect("redis answers");
    }
    let mut now = 1;
    for _ in 0..5 {
        let container = reserve(now).await.expect("the pause is over");
        store.give_back(&container, NotComing::Throttled, START + now * SECOND).await.expect("redis answers");
        assert_eq!(reserve(now + 1).await, None, "{now}: it is left alone");
        assert!(!create(&store, &ContainerId::random(), START + (now + 1) * SECOND).await.1, "by creates, too");
        now += 2;
    }
    let failed = store.snapshot(5_000, START).await.expect("redis answers").failed_starts;
    assert_eq!((failed.attempts, failed.last_why.as_str()), (1, "no capacity"));
    assert_eq!(failed.throttled_until_ms, START + now * SECOND);
    Contents::read(&redis.client().await).await.check();
}

/// Comes, and takes a session.
async fn come(store: &Store, container: &ContainerId, now: u64) -> Option<SessionId> {
    let mut request = claim_request(container, 20, &[]);
    request.launched = true;
    let claimed = store.claim(&request, FIRST, &limits(), &policy(10), now).await.expect("redis answers");
    claimed.sessions.into_iter().next().map(|(session, _)| session.id)
}

#[tokio::test]
async fn one_that_comes_and_is_gone_without_a_browser_has_failed_and_one_with_a_browser_ends_the_pause() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let ids: Vec<ContainerId> = (0..4).map(|n| format!("ctr-{n}").parse().expect("an id")).collect();
    let failed = async || store.snapshot(5_000, START).await.expect("redis answers").failed_starts;
    let lose = async |index: usize, now| {
        store.lose_container(&ids[index], "its process ended", None, &limits(), now).await.expect("redis answers");
    };

    let (session, launched) = create(&store, &ids[0], START).await;
    assert!(launched);
    assert_eq!(come(&store, &ids[0], START).await.as_ref(), Some(&session));
    lose(0, START + SECOND).await;
    assert_eq!((failed().await.attempts, failed().await.last_why.as_str()), (1, "its process ended"));
    // One that was reserved and never came.
    store.reserve(&ids[1..2], &policy(10), START + 2 * SECOND).await.expect("redis answers");
    lose(1, START + 3 * SECOND).await;
    assert_eq!(failed().await.attempts, 2);

    // It comes: that proves nothing yet. Its browser answers: that does.
    let now = START + 5 * SECOND;
    let reserved = store.reserve(&ids[2..3], &policy(10), now).await.expect("redis answers");
    assert_eq!(reserved, ids[2..3]);
    assert_eq!(come(&store, &ids[2], now).await.as_ref(), Some(&session));
    assert_eq!(failed().await.attempts, 2);
    let report = ReadyRequest { lease: 2, cdp_secret: "secret".to_owned(), version: serde_json::Map::new() };
    assert!(store.ready(&session, &ids[2], &report, &limits(), now).await.expect("redis answers").is_some());
    assert_eq!(failed().await.attempts, 0);
    // And what was of use once has not failed to start when it goes.
    lose(2, now + SECOND).await;
    assert_eq!(failed().await.attempts, 0);
    // Nor has one that stood by for a while.
    come(&store, &ids[3], now).await;
    lose(3, now + 60 * SECOND).await;
    assert_eq!(failed().await.attempts, 0);
    Contents::read(&redis.client().await).await.check();
}

/// Starts nothing, and says why not.
struct Broken(Arc<AtomicU64>);

impl Fleet for Broken {
    fn launch<'a>(&'a self, _: &'a LaunchSpec) -> BoxFuture<'a, Result<(), FleetError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let failed =
            FleetError { action: "starting a task", kind: FailureKind::NoCapacity, cause: "RESOURCE:MEMORY".into() };
        std::future::ready(Err(failed)).boxed()
    }

    fn stop<'a>(&'a self, _: &'a ContainerId, _: Option<&'a str>, _: &'a str) -> BoxFuture<'a, Result<(), FleetError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<FleetListing, FleetError>> {
        std::future::ready(Ok(FleetListing::default())).boxed()
    }
}

#[tokio::test]
async fn a_fleet_that_starts_nothing_is_asked_once_by_a_hundred_creates_and_looks() {
    let redis = Redis::start();
    let config = config(&redis, &[("MAX_CONTAINERS", "1")]);
    let launches = Arc::new(AtomicU64::new(0));
    let world = World::with_fleet(redis, config, Box::new(Broken(launches.clone()))).await;
    let client = world.client("key-one");
    let started = std::time::Instant::now();
    for _ in 0..100 {
        let answer = client.post("/sessions", &serde_json::json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        scaling::tick(&world.app).await.expect("redis answers");
    }
    // One in each pause: a second, two, four.
    let pauses = (started.elapsed().as_secs() + 1).ilog2() as u64;
    assert!(launches.load(Ordering::Relaxed) <= 2 + pauses, "{launches:?} after {:?}", started.elapsed());
    let failed = world.app.store.snapshot(5_000, wallcrawler::clock::now_ms()).await.expect("redis answers");
    assert_eq!(failed.failed_starts.last_why, "starting a task failed: RESOURCE:MEMORY");
    assert_eq!(failed.queue.length, 100, "and nobody's session is lost");
}
