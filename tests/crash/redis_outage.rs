//! Redis goes away under a server, its containers and its clients, and comes back.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::cdp::Cdp;
use crate::scene::{Answer, PATIENCE, Scene};
use crate::world::eventually;

/// Redis unreachable or slow: the refusal comes within two seconds.
const PROMISED: Duration = Duration::from_secs(2);
/// How long after its return everything must work again.
const RECOVERY: Duration = Duration::from_secs(15);
/// Longer than containers may be silent.
const OUTAGE: Duration = Duration::from_secs(7);

enum Outage {
    Killed,
    Silent,
}

/// Every request that needs Redis, on the session `id`, in no order.
async fn ask_everything(scene: &Scene, id: &str) -> Vec<(String, Answer, Duration)> {
    let session = format!("/sessions/{id}");
    let claim = json!({
        "containerId": "ctr-none", "currentSessions": 0, "maxSessions": 1, "waitSeconds": 20, "phase": "leaving",
    });
    let ready = json!({"lease": 1, "cdpSecret": "0123456789abcdef"});
    let ended = json!({"lease": 1, "reason": "browser_crashed"});
    let none = Value::Null;
    let client = [
        ("POST", "/sessions".to_owned(), json!({})),
        ("GET", "/sessions".to_owned(), none.clone()),
        ("GET", session.clone(), none.clone()),
        ("DELETE", session.clone(), none.clone()),
        ("GET", "/ready".to_owned(), none),
    ];
    let container = [
        ("/sessions/claim".to_owned(), claim),
        (format!("{session}/ready"), ready),
        (format!("{session}/ended"), ended),
    ];
    let asked = Instant::now();
    let by_client = client.iter().map(async |(method, path, body)| {
        (format!("{method} {path}"), scene.api(method, path, body).await, asked.elapsed())
    });
    let by_container = container.iter().map(async |(path, body)| {
        (format!("POST {path}"), scene.as_container("ctr-none", path, body).await, asked.elapsed())
    });
    let (mut answers, more) = tokio::join!(join_all(by_client), join_all(by_container));
    answers.extend(more);
    answers
}

/// What a client is told that wants to connect.
async fn ask_to_connect(url: &str) -> (u16, Duration) {
    let asked = Instant::now();
    match Cdp::try_connect(url).await {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            assert!(response.headers().contains_key("retry-after"));
            (response.status().as_u16(), asked.elapsed())
        }
        other => panic!("{:?}", other.map(|_| "connected")),
    }
}

async fn refuses_everything_in_time(scene: &Scene, id: &str, url: &str) -> Duration {
    let (answers, (status, connect_took)) = tokio::join!(ask_everything(scene, id), ask_to_connect(url));
    assert_eq!(status, 503);
    let mut slowest = connect_took;
    for (request, answer, took) in answers {
        assert_eq!(answer.status, 503, "{request}: {answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{request}: {answer:?}");
        slowest = slowest.max(took);
    }
    assert!(slowest < PROMISED, "the slowest answer took {slowest:?}");
    assert_eq!(scene.api("GET", "/health", &Value::Null).await.status, 200);
    slowest
}

async fn outage(kind: Outage) {
    let mut scene = Scene::alone(&[("HEARTBEAT_SECONDS", "2")]).await;
    let (stays, leaves, victim) = (scene.create().await, scene.create().await, scene.create().await);
    let (mut cdp, mut leaving) = (scene.connect(&stays).await, scene.connect(&leaves).await);
    assert_eq!(leaving.evaluate("1 + 1").await, json!(2));
    cdp.evaluate("window.marker = 'kept'").await;
    scene.ready(&victim).await;

    let began = Instant::now();
    match kind {
        Outage::Killed => scene.redis.kill(),
        Outage::Silent => scene.redis.signal("-STOP"),
    }
    let mut slowest = refuses_everything_in_time(&scene, &victim.id, &victim.url).await;
    drop(leaving);
    while began.elapsed() < OUTAGE {
        assert_eq!(cdp.evaluate("window.marker").await, json!("kept"));
        slowest = slowest.max(refuses_everything_in_time(&scene, &victim.id, &victim.url).await);
    }
    match kind {
        Outage::Killed => scene.redis.restart(),
        Outage::Silent => scene.redis.signal("-CONT"),
    }

    let back = Instant::now();
    eventually(RECOVERY, async || {
        let answer = scene.api("GET", "/ready", &Value::Null).await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let ready_after = back.elapsed();
    // Claims.
    let new = scene.create().await;
    let mut new_cdp = scene.connect(&new).await;
    assert_eq!(new_cdp.evaluate("1 + 1").await, json!(2));
    let served_after = back.elapsed();
    assert!(served_after < RECOVERY, "a new session was served after {served_after:?}");
    // Who left while nobody could write it down is missed all the same.
    assert_eq!(scene.end_reason(&leaves.id, RECOVERY).await, "disconnected");
    let missed_after = back.elapsed();
    // Nobody was given up, and the socket is what it was.
    assert!(scene.logged("container lost").is_empty(), "containers were only unable to say anything");
    assert_eq!(cdp.evaluate("window.marker").await, json!("kept"));
    // Events arrive.
    for (session, cdp) in [(&stays, &mut cdp), (&new, &mut new_cdp)] {
        let released = Instant::now();
        scene.release(&session.id).await;
        let (code, reason) = cdp.closed(PATIENCE).await;
        assert!(code == 4002 && reason.starts_with("released"), "{code} {reason}");
        assert!(released.elapsed() < Duration::from_secs(1), "it was told after {:?}", released.elapsed());
    }
    println!(
        "the slowest refusal took {slowest:?}; after Redis was back: ready after {ready_after:?}, a new session \
         after {served_after:?}, a missed client after {missed_after:?}"
    );
    // What was refused may have been carried out late. Nobody holds on to it.
    scene.release(&victim.id).await;
    scene.kill_server();
    let contents = scene.contents().await;
    contents.check();
    let held: Vec<_> = contents.hashes.keys().filter(|key| key.starts_with("connection:")).collect();
    assert!(held.is_empty(), "nobody is connected: {held:?}");
    scene.start_server().await;
    scene.end_containers().await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_killed_is_missed_in_time_and_found_again() {
    outage(Outage::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_accepts_and_never_answers_is_missed_in_time_and_found_again() {
    outage(Outage::Silent).await;
}

/// A client that asks while Redis hears and does not answer is refused; what Redis carries out afterwards must
/// not count it as connected for as long as the session lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_refused_does_not_keep_its_session_alive() {
    let scene = Scene::new(&[("NEVER_CONNECTED_SECONDS", "4")]).await;
    let session = scene.create().await;
    scene.ready(&session).await;
    scene.redis.signal("-STOP");
    assert_eq!(ask_to_connect(&session.url).await.0, 503);
    scene.redis.signal("-CONT");
    assert_eq!(scene.end_reason(&session.id, PATIENCE).await, "never_connected");
    scene.finish().await;
}
