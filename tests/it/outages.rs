//! Redis goes away, hangs, and comes back.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::json;

use crate::world::{World, claimed, eventually};

const RECOVERY: Duration = Duration::from_secs(15);

async fn everything_is_refused_in_time(world: &World, id: &str) {
    let client = world.client("key-one");
    let (path, body) = (format!("/sessions/{id}"), json!({}));
    let container = world.container("ctr-a");
    let claim = json!({"containerId": "ctr-a", "currentSessions": 0, "maxSessions": 1, "waitSeconds": 10});
    let started = Instant::now();
    let (create, get, list, delete, claim, ready) = tokio::join!(
        client.post("/sessions", &body),
        client.get(&path),
        client.get("/sessions"),
        client.delete(&path),
        container.post("/sessions/claim", &claim),
        client.get("/ready"),
    );
    let took = started.elapsed();
    for answer in [create, get, list, delete, claim, ready] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert_eq!(answer.body["code"], "store_unavailable");
        assert!(answer.headers.contains_key("retry-after") && answer.headers.contains_key("retry-after-ms"));
    }
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert_eq!(client.get("/health").await.status, StatusCode::OK);
}

async fn works_again(world: &World, id: &str) {
    let client = world.client("key-one");
    eventually(RECOVERY, async || {
        let ready = client.get("/ready").await;
        if ready.status == StatusCode::OK { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    let session = client.get(&format!("/sessions/{id}")).await;
    assert_eq!(session.body["status"], "pending", "it is still there, and nothing was done to it: {session:?}");
    // Events arrive again: a waiting claim hears of a new session before it looks by itself.
    let container = world.container("ctr-a");
    let first = container.claim("ctr-a", 100, &[]).await;
    let held = claimed(&first);
    assert!(held.contains(&id.to_owned()));
    eventually(RECOVERY, async || {
        let held = claimed(&container.claim("ctr-a", 100, &[]).await);
        let wait = json!({
            "containerId": "ctr-a", "currentSessions": held.len(), "maxSessions": 100, "sessionIds": held, "waitSeconds": 10,
        });
        let started = Instant::now();
        let create = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.create().await
        };
        let (answer, new) = tokio::join!(container.post("/sessions/claim", &wait), create);
        assert_eq!(claimed(&answer.body), [new.as_str()]);
        let took = started.elapsed();
        if took < Duration::from_millis(1_000) { Ok(()) } else { Err(format!("woken after {took:?}")) }
    })
    .await;
}

#[tokio::test]
async fn while_redis_is_gone_everything_is_503_and_afterwards_everything_works() {
    let mut world = World::new(&[]).await;
    let id = world.client("key-one").create().await;
    for _ in 0..2 {
        world.redis.kill();
        everything_is_refused_in_time(&world, &id).await;
        world.redis.restart();
        eventually(RECOVERY, async || {
            let answer = world.client("key-one").get(&format!("/sessions/{id}")).await;
            if answer.status == StatusCode::OK { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }
    works_again(&world, &id).await;
}

#[tokio::test]
async fn while_redis_hangs_everything_is_503_and_afterwards_everything_works() {
    let world = World::new(&[]).await;
    let id = world.client("key-one").create().await;
    world.redis.signal("-STOP");
    everything_is_refused_in_time(&world, &id).await;
    everything_is_refused_in_time(&world, &id).await;
    world.redis.signal("-CONT");
    works_again(&world, &id).await;
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_loaded_again() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    client.create().await;
    let redis = world.redis.client().await;
    crate::world::redis_command(&redis, &["SCRIPT", "FLUSH"]).await;
    client.create().await;
    assert_eq!(client.get("/sessions").await.body["sessions"].as_array().map(Vec::len), Some(2));
}
