//! What a client of the Browserbase API gets that repeats a create.

use axum::http::StatusCode;
use serde_json::{Value, json};
use wallcrawler::clock::now_ms;

use super::{SECRET, id};
use crate::audit::Contents;
use crate::world::{Answer, World, redis_command};

/// A create as the SDKs send it.
pub async fn attempt(world: &World, key: &'static str, count: u32, body: &Value) -> Answer {
    let count = count.to_string();
    world.client(key).with("x-stainless-retry-count", count).post("/v1/sessions", body).await
}

#[tokio::test]
async fn an_sdk_that_repeats_a_create_gets_what_the_lost_attempt_made() {
    let world = World::new(&[]).await;
    let body = json!({"userMetadata": {"job": 1}});
    let new = async |key, count, body: &Value| {
        let answer = attempt(&world, key, count, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        id(&answer.body).to_owned()
    };
    let first = new("key-one", 0, &body).await;
    assert_eq!(new("key-one", 1, &body).await, first);
    assert_eq!(new("key-one", 2, &body).await, first);
    assert_ne!(new("key-one", 1, &json!({"userMetadata": {"job": 2}})).await, first, "another body");
    assert_ne!(new("key-two", 1, &body).await, first, "another key");
    let second = new("key-one", 0, &body).await;
    assert_ne!(second, first, "who has not tried before wants one of its own");
    let third = new("key-one", 1, &body).await;
    assert_eq!(third, second, "the first was given to somebody who has repeated as often");
    assert!(![&first, &second].contains(&&new("key-one", 1, &body).await), "and so was the second");
    // As if 90 seconds had gone by.
    let redis = world.redis.client().await;
    let fresh = json!({"userMetadata": {"job": 3}});
    let old = new("key-one", 0, &fresh).await;
    let keys = Contents::read(&redis).await.sorted;
    let key = keys.iter().find(|(key, ids)| key.starts_with("repeats:") && ids.iter().any(|(id, _)| *id == old));
    let key = key.expect("it is noted").0;
    redis_command(&redis, &["ZADD", key, &(now_ms() - 90_001).to_string(), &old]).await;
    assert_ne!(new("key-one", 1, &fresh).await, old);
    let ttl = redis_command(&redis, &["PTTL", key]).await.as_i64().expect("a number");
    assert!((1..=90_000).contains(&ttl), "{ttl}");
    Contents::read(&redis).await.check();
}

#[tokio::test]
async fn a_repeated_create_is_never_given_a_session_that_somebody_uses_or_that_has_ended() {
    let world = World::new(&[("MAX_SESSIONS_PER_USER", "2")]).await;
    let client = world.client("key-one");
    let used = attempt(&world, "key-one", 0, &json!({})).await.body;
    world.container("ctr-a").claim("ctr-a", 2, &[]).await;
    world
        .container("ctr-a")
        .post(&format!("/sessions/{}/ready", id(&used)), &json!({"lease": 1, "cdpSecret": SECRET}))
        .await;
    let (session, connection) = (id(&used).parse().expect("an id"), "c1".parse().expect("an id"));
    let server = wallcrawler::ids::ServerId::random();
    world.app.store.connect(&session, &connection, &server, now_ms()).await.expect("redis answers");
    assert!(world.app.store.reach(&session, &connection, now_ms()).await.expect("redis answers"));
    let own = attempt(&world, "key-one", 1, &json!({})).await.body;
    assert_ne!(id(&own), id(&used));
    client.delete(&format!("/sessions/{}", id(&own))).await;
    let other = attempt(&world, "key-one", 0, &json!({})).await.body;
    // Who was refused has lost no answer: what it gets later is its own, and not that of the one before.
    let refused = attempt(&world, "key-one", 0, &json!({})).await;
    assert_eq!((refused.status, &refused.body["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("session_limit")));
    assert!(refused.headers.contains_key("retry-after-ms"));
    client.delete(&format!("/sessions/{}", id(&used))).await;
    let later = attempt(&world, "key-one", 1, &json!({})).await.body;
    assert_ne!(id(&later), id(&other));
    for session in [&other, &later] {
        client.delete(&format!("/sessions/{}", id(session))).await;
    }
    let last = attempt(&world, "key-one", 2, &json!({})).await.body;
    assert!(![id(&other), id(&later), id(&used)].contains(&id(&last)), "those have ended");
    Contents::read(&world.redis.client().await).await.check();
}

#[tokio::test]
async fn an_idempotency_key_counts_here_too_and_a_conflict_is_not_worth_repeating() {
    let world = World::new(&[]).await;
    let client = || world.client("key-one").with("idempotency-key", "order-17").with("x-stainless-retry-count", "0");
    let first = client().post("/v1/sessions", &json!({"keepAlive": true})).await.body;
    let second = client().post("/v1/sessions", &json!({"keepAlive": true})).await.body;
    assert_eq!(id(&first), id(&second));
    let conflict = client().post("/v1/sessions", &json!({})).await;
    assert_eq!((conflict.status, &conflict.body["code"]), (StatusCode::CONFLICT, &json!("idempotency_conflict")));
    assert_eq!(conflict.headers["x-should-retry"], "false");
}
