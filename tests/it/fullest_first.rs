//! Sessions go to the fullest container that has room, so that the others become idle when there is less to do.

use std::time::{Duration, Instant};

use serde_json::json;
use wallcrawler::ids::ContainerId;
use wallcrawler::store::{Claimed, Look, Store, Turn};

use crate::audit::Contents;
use crate::model::{START, claim_request, limits, new_session, policy};
use crate::world::{Redis, World, claimed};

const YIELD: Duration = Duration::from_millis(250);

async fn create(store: &Store, now: u64) {
    let container = ContainerId::random();
    store.create(&new_session("user_a", false), None, &container, &limits(), &policy(0), now).await.expect("created");
}

async fn claim(store: &Store, container: &ContainerId, held: &Claimed, now: u64) -> Claimed {
    let ids: Vec<_> = held.sessions.iter().map(|(session, _)| session.id.clone()).collect();
    let look = Look { claim: "a claim", again: false, yield_for: YIELD };
    store.claim(&claim_request(container, 3, &ids), look, &limits(), &policy(0), now).await.expect("redis answers")
}

#[tokio::test]
async fn a_session_is_left_to_a_fuller_container_for_a_moment_and_not_for_longer() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let (fuller, other): (ContainerId, ContainerId) =
        ("ctr-a".parse().expect("an id"), "ctr-b".parse().expect("an id"));
    let nothing = Claimed::default();
    create(&store, START).await;
    // Nobody is fuller than somebody else: whoever asks gets it.
    assert_eq!(claim(&store, &other, &nothing, START).await.sessions.len(), 1);
    let held = claim(&store, &other, &nothing, START).await;
    assert_eq!(claim(&store, &fuller, &nothing, START).await.turn, Turn::Waits, "the other one holds more");
    assert_eq!(claim(&store, &other, &held, START).await.turn, Turn::Next);

    create(&store, START + 1_000).await;
    let yielded = claim(&store, &fuller, &nothing, START + 1_249).await;
    assert_eq!((yielded.sessions.len(), yielded.turn), (0, Turn::Yields));
    // The fuller one does not come for it.
    assert_eq!(claim(&store, &fuller, &nothing, START + 1_250).await.sessions.len(), 1);
    Contents::read(&redis.client().await).await.check();
}

#[tokio::test]
async fn nobody_yields_to_a_container_that_is_full_or_drains() {
    let redis = Redis::start();
    let store = Store::open(&redis.url(), "").expect("a store");
    let ids: Vec<ContainerId> = (0..3).map(|n| format!("ctr-{n}").parse().expect("an id")).collect();
    let nothing = Claimed::default();
    for _ in 0..3 {
        create(&store, START).await;
    }
    assert_eq!(claim(&store, &ids[0], &nothing, START).await.sessions.len(), 3, "it is full");
    create(&store, START).await;
    assert_eq!(claim(&store, &ids[1], &nothing, START).await.sessions.len(), 1);
    create(&store, START).await;
    assert_eq!(claim(&store, &ids[2], &nothing, START).await.turn, Turn::Yields);
    assert!(store.drain(&ids[1], None, &policy(0), START).await.expect("redis answers"));
    assert_eq!(claim(&store, &ids[2], &nothing, START).await.sessions.len(), 1);
    Contents::read(&redis.client().await).await.check();
}

#[tokio::test]
async fn of_the_claims_that_wait_the_fullest_one_is_answered_and_at_once() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let names = ["ctr-a", "ctr-b", "ctr-c"];
    // One, two and no sessions.
    let mut held: Vec<Vec<String>> = Vec::new();
    for (name, count) in names.into_iter().zip([1, 2, 0]) {
        for _ in 0..count {
            client.create().await;
        }
        held.push(claimed(&world.container(name).claim(name, 10, &[]).await));
    }
    let wait = async |index: usize| {
        let request = json!({
            "containerId": names[index], "currentSessions": held[index].len(), "maxSessions": 10,
            "sessionIds": held[index], "address": "127.0.0.1:9", "waitSeconds": 2,
        });
        claimed(&world.container(names[index]).post("/sessions/claim", &request).await.body)
    };
    let create = async {
        // Until all three wait; should one come late, it finds nothing, or yields.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        let id = client.create().await;
        let path = format!("/sessions/{id}");
        let holder = crate::world::eventually(Duration::from_secs(2), async || {
            let session = client.get(&path).await.body;
            session["containerId"].as_str().map(str::to_owned).ok_or_else(|| session.to_string())
        })
        .await;
        (id, holder, started.elapsed())
    };
    let (first, second, third, (id, holder, took)) = tokio::join!(wait(0), wait(1), wait(2), create);
    assert_eq!((first.len(), second, third.len()), (0, vec![id], 0));
    assert_eq!(holder, "ctr-b");
    assert!(took < Duration::from_millis(1_000), "it took {took:?}");
}

#[tokio::test]
async fn who_does_not_wait_does_not_yield() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    client.create().await;
    assert_eq!(claimed(&world.container("ctr-a").claim("ctr-a", 10, &[]).await).len(), 1);
    client.create().await;
    assert_eq!(claimed(&world.container("ctr-b").claim("ctr-b", 10, &[]).await).len(), 1);
}
