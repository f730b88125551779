//! The logs of sessions, as clients ask for them. What their containers put into them is in `tests/agent/logs.rs`.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use wallcrawler::clock::now_ms;
use wallcrawler::lifecycle;
use wallcrawler::storage::{Kind, ObjectName};

use super::files::{Container, file, led_to};
use crate::world::{RawAnswer, World};

const DAY_MS: u64 = 86_400_000;

async fn session(world: &World) -> (String, ObjectName) {
    let id = super::id(&super::create(world, &json!({})).await).to_owned();
    let name = file(world, &id, Kind::Logs, "json").await;
    (id, name)
}

async fn logs(world: &World, key: &str, id: &str) -> RawAnswer {
    world.client(key).raw("GET", &format!("/v1/sessions/{id}/logs"), Body::empty()).await
}

/// What is answered at once.
fn told(answer: &RawAnswer) -> Value {
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["cache-control"], "no-store");
    serde_json::from_slice(&answer.bytes).expect("JSON")
}

fn entry() -> Value {
    json!([{"method": "Page.enable", "pageId": 1, "sessionId": "ses_x", "request": {"params": {}, "rawBody": "{}"}}])
}

/// Taken out: the owner, in `at`; the type of what is kept.
#[tokio::test]
async fn logs_are_their_owners_before_during_and_after_the_session() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, name) = session(&world).await;
    assert_eq!(told(&logs(&world, "key-one", &id).await), json!([]), "it waits for a browser");
    container.serve(&world, &id).await;
    container.now(|script| script.log = Some(entry()));
    assert_eq!(told(&logs(&world, "key-one", &id).await), entry());
    container.now(|script| script.log = None);
    let answer = world.client("key-one").get(&format!("/v1/sessions/{id}/logs")).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("logs_unavailable")));
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    container.now(|script| script.log = Some(entry()));

    for ended in [false, true] {
        if ended {
            world.client("key-one").delete(&format!("/sessions/{id}")).await;
            world.app.storage.put(&name, "[\"what it left\"]".into()).await.expect("put");
        }
        for (key, id) in
            [("key-two", id.as_str()), ("key-one", "ses_00000000000000000000000000"), ("key-one", "%2e%2e")]
        {
            let answer = world.client(key).get(&format!("/v1/sessions/{id}/logs")).await;
            assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("session_not_found")));
        }
    }
    let left = logs(&world, "key-one", &id).await;
    assert_eq!(led_to(&world, &left, "application/json").await, b"[\"what it left\"]");
}

/// Taken out: the wait.
#[tokio::test]
async fn whoever_asks_right_after_the_end_gets_the_log_that_is_stored_a_moment_later() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, name) = session(&world).await;
    container.serve(&world, &id).await;
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    let asked = logs(&world, "key-one", &id);
    tokio::pin!(asked);
    assert!(timeout(Duration::from_millis(500), &mut asked).await.is_err(), "it is not there yet");
    world.app.storage.put(&name, "[]".into()).await.expect("put");
    let answer = timeout(Duration::from_secs(3), asked).await.expect("it is there now");
    assert_eq!(led_to(&world, &answer, "application/json").await, b"[]");
}

#[tokio::test]
async fn logs_outlive_what_is_known_of_their_session_by_some_days() {
    let (world, container) = (World::new(&[("SESSION_RETENTION_SECONDS", "0")]).await, Container::start().await);
    let (id, name) = session(&world).await;
    container.serve(&world, &id).await;
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    world.app.storage.put(&name, "[]".into()).await.expect("put");
    let left = logs(&world, "key-one", &id).await;
    assert_eq!(led_to(&world, &left, "application/json").await, b"[]");
    assert_eq!(logs(&world, "key-two", &id).await.status, StatusCode::NOT_FOUND);
    lifecycle::forget_files(&world.app, now_ms() + 8 * DAY_MS).await.expect("swept");
    assert_eq!(logs(&world, "key-one", &id).await.status, StatusCode::NOT_FOUND);
}

/// Taken out: that where files are kept is asked only when it has ended.
#[tokio::test]
async fn without_a_place_for_files_there_is_a_log_while_the_session_runs() {
    let (world, container) = (World::new(&[("STORAGE_DIR", "")]).await, Container::start().await);
    let (id, _) = session(&world).await;
    assert_eq!(told(&logs(&world, "key-one", &id).await), json!([]));
    container.serve(&world, &id).await;
    container.now(|script| script.log = Some(entry()));
    assert_eq!(told(&logs(&world, "key-one", &id).await), entry());
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    let answer = world.client("key-one").get(&format!("/v1/sessions/{id}/logs")).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_IMPLEMENTED, &json!("not_available")));
    assert_eq!(answer.headers["x-should-retry"], "false");
    // Of one that never had a browser it is known that nothing was said.
    let (unserved, _) = session(&world).await;
    world.client("key-one").delete(&format!("/sessions/{unserved}")).await;
    let asked = Instant::now();
    assert_eq!(told(&logs(&world, "key-one", &unserved).await), json!([]));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}
