//! What operators see, and only they.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use wallcrawler::scaling;

use crate::audit::Contents;
use crate::world::{World, claimed, redis_command};

/// The SHA-256 of `key-operator`.
const KEYS: &str = r#"["key-one", "key-two",
    {"sha256": "HASH", "name": "ops", "roles": ["operator"]}]"#;

async fn world(vars: &[(&str, &str)]) -> World {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"key-operator");
    let keys = KEYS.replace("HASH", &wallcrawler::hex::encode(hash.as_ref()));
    World::new(&[&[("API_KEYS", keys.as_str())], vars].concat()).await
}

async fn metrics(world: &World) -> String {
    let request = Request::get("/metrics").header("x-api-key", "key-operator").body(Body::empty()).expect("a request");
    let response = world.router.clone().oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
    let content_type = response.headers()["content-type"].to_str().expect("a text").to_owned();
    assert!(content_type.starts_with("application/openmetrics-text"), "{content_type}");
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("a text")
}

fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

#[tokio::test]
async fn only_operators_see_the_fleet_and_the_metrics() {
    let world = world(&[]).await;
    for path in ["/fleet", "/metrics"] {
        let nobody = world.client("").get(path).await;
        assert_eq!((nobody.status, &nobody.body["code"]), (StatusCode::UNAUTHORIZED, &json!("missing_api_key")));
        let client = world.client("key-one").get(path).await;
        assert_eq!((client.status, &client.body["code"]), (StatusCode::FORBIDDEN, &json!("operator_required")));
        let container = world.container("ctr-a").get(path).await;
        assert_eq!(container.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn the_fleet_is_shown_with_what_a_look_would_do_and_what_looks_have_done() {
    let world = world(&[("MAX_SESSIONS_PER_CONTAINER", "2")]).await;
    let operator = world.client("key-operator");
    let empty = operator.get("/fleet").await;
    assert_eq!(empty.status, StatusCode::OK, "{empty:?}");
    assert_eq!(empty.body["queue"], json!({"length": 0, "users": 0}));
    assert_eq!((&empty.body["containers"], &empty.body["decisions"]), (&json!([]), &json!([])));
    assert_eq!(empty.body["policy"]["maxSessionsPerContainer"], 2);

    for key in ["key-one", "key-one", "key-two", "key-two", "key-two"] {
        world.client(key).create().await;
    }
    let taken = claimed(&world.container("ctr-a").claim("ctr-a", 2, &[]).await);
    assert_eq!(taken.len(), 2);
    let shown = operator.get("/fleet").await.body;
    assert_eq!((&shown["queue"]["length"], &shown["queue"]["users"]), (&json!(3), &json!(2)));
    assert!(shown["queue"]["since"].is_string() && shown["queue"]["estimatedWaitMs"].is_u64(), "{shown}");
    assert_eq!(shown["slots"], json!({"total": 2, "used": 2}));
    assert_eq!(shown.get("lookedAt"), None, "nobody has looked");
    let container = &shown["containers"][0];
    assert_eq!(
        (&container["containerId"], &container["status"], &container["activeSessions"], &container["launched"]),
        (&json!("ctr-a"), &json!("serving"), &json!(2), &json!(false))
    );
    assert_eq!(shown["plan"]["start"], 0);
    assert_eq!(shown["plan"]["waitingFor"], json!([{"for": "maximum", "wanted": 2, "allowed": 0}]));
    assert!(!shown.to_string().contains("key-"), "no keys");

    // Being shown is no look: nobody is judged by it.
    let contents = Contents::read(&world.redis.client().await).await;
    assert!(!contents.hashes["fleet"].contains_key("lookedAt"));
    contents.check();
}

#[tokio::test]
async fn looks_that_did_something_are_remembered_and_idle_ones_are_not() {
    let world = world(&[("MAX_CONTAINERS", "3"), ("WARM_SLOTS", "1"), ("MAX_SESSIONS_PER_CONTAINER", "2")]).await;
    let operator = world.client("key-operator");
    assert_eq!(scaling::tick(&world.app).await.expect("redis answers").start, 1);
    assert!(scaling::tick(&world.app).await.expect("redis answers").is_idle());
    let shown = operator.get("/fleet").await.body;
    assert!(shown["lookedAt"].is_string() && shown["watchedSince"].is_string(), "{shown}");
    let decisions = shown["decisions"].clone();
    let decisions = decisions.as_array().expect("a list");
    assert_eq!(decisions.len(), 1, "{decisions:?}");
    assert_eq!(decisions[0]["plan"]["start"], 1);
    assert_eq!((&decisions[0]["pending"], &decisions[0]["containers"]), (&json!(0), &json!(0)));
    assert!(decisions[0]["at"].is_string());
}

#[tokio::test]
async fn what_happens_is_counted() {
    let world = world(&[]).await;
    let client = world.client("key-one");
    let (first, _) = (client.create().await, client.create().await);
    let container = world.container("ctr-a");
    let claimed = container.claim("ctr-a", 1, &[]).await;
    let lease = claimed["sessions"][0]["lease"].clone();
    let report = json!({"lease": lease, "cdpSecret": "s".repeat(32), "version": {}});
    assert_eq!(container.post(&format!("/sessions/{first}/ready"), &report).await.status, StatusCode::OK);
    assert_eq!(client.delete(&format!("/sessions/{first}")).await.status, StatusCode::OK);
    assert_eq!(client.get("/sessions/ses_unknown").await.status, StatusCode::NOT_FOUND);
    world.client("key-one").send("BREW", "/sessions", Body::empty()).await;

    let text = metrics(&world).await;
    for (name, expected) in [
        ("wallcrawler_sessions_created_total", 2.0),
        ("wallcrawler_sessions_ended_total{reason=\"released\"}", 1.0),
        ("wallcrawler_session_queue_seconds_count", 1.0),
        ("wallcrawler_session_ready_seconds_count", 1.0),
        ("wallcrawler_http_requests_total{method=\"POST\",route=\"/sessions\",status=\"201\",code=\"\"}", 2.0),
        (
            "wallcrawler_http_requests_total{method=\"GET\",route=\"/sessions/{id}\",status=\"404\",code=\"session_not_found\"}",
            1.0,
        ),
        (
            "wallcrawler_http_requests_total{method=\"other\",route=\"/sessions\",status=\"405\",code=\"method_not_allowed\"}",
            1.0,
        ),
        ("wallcrawler_sessions_pending", 1.0),
        ("wallcrawler_slots", 1.0),
        ("wallcrawler_slots_used", 0.0),
        ("wallcrawler_containers{state=\"serving\"}", 1.0),
        ("wallcrawler_redis_up", 1.0),
    ] {
        assert_eq!(value(&text, name), Some(expected), "{name} in\n{text}");
    }
}

#[tokio::test]
async fn without_redis_there_are_still_metrics() {
    let mut world = world(&[]).await;
    world.client("key-one").create().await;
    world.redis.kill();
    let text = metrics(&world).await;
    assert_eq!(value(&text, "wallcrawler_redis_up"), Some(0.0));
    assert_eq!(value(&text, "wallcrawler_sessions_created_total"), Some(1.0));
    let fleet = world.client("key-operator").get("/fleet").await;
    assert_eq!(
        (fleet.status, &fleet.body["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &Value::from("store_unavailable"))
    );
}

/// Taken out: each of the three that is put right.
#[tokio::test]
async fn what_somebody_has_changed_in_redis_by_hand_is_put_right_by_the_next_look() {
    let world = world(&[]).await;
    let client = world.client("key-one");
    for _ in 0..3 {
        client.create().await;
    }
    let container = world.container("ctr-a");
    let held = claimed(&container.claim("ctr-a", 2, &[]).await);
    world.container("ctr-b").claim("ctr-b", 4, &[]).await;
    let redis = world.redis.client().await;
    for command in [
        &["HSET", "fleet", "slots", "99", "used", "17"][..],
        &["HSET", "container:ctr-a", "activeSessions", "0"],
        &["ZREM", "containers-open", "ctr-a"],
        &["DEL", "container:ctr-b"],
    ] {
        redis_command(&redis, command).await;
    }
    scaling::tick(&world.app).await.expect("redis answers");
    let held: Vec<&str> = held.iter().map(String::as_str).collect();
    container.claim("ctr-a", 2, &held).await;
    world.container("ctr-b").claim("ctr-b", 4, &[]).await;
    Contents::read(&redis).await.check();
    let fleet = world.client("key-operator").get("/fleet").await.body;
    assert_eq!(fleet["slots"], json!({"total": 6, "used": 3}), "{fleet}");
    // And nothing is put right that is right.
    let snapshot = world.app.store.snapshot(60_000, wallcrawler::clock::now_ms()).await.expect("redis answers");
    assert!(!snapshot.mended, "{snapshot:?}");
}
