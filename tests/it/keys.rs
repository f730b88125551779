//! API keys: what each of them opens, for how long, and how much.

use aws_lc_rs::digest;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Router, middleware};
use serde_json::{Value, json};
use wallcrawler::auth::Operator;
use wallcrawler::clock::{now_ms, rfc3339};
use wallcrawler::hex;
use wallcrawler::telemetry::observe;

use crate::world::World;

fn record(key: &str, says: &Value) -> Value {
    let mut record = says.clone();
    record["sha256"] = hex::encode(digest::digest(&digest::SHA256, key.as_bytes()).as_ref()).into();
    record
}

/// A control plane with these keys, and with a route for operators.
async fn world(keys: &[Value], vars: &[(&str, &str)]) -> World {
    let keys = json!({"API_KEYS": keys}).to_string();
    let mut world = World::new(&[vars, &[("API_KEYS", keys.as_str())]].concat()).await;
    let name = async |operator: Operator| format!("\"{} {}\"", operator.user, operator.name.unwrap_or_default());
    let route = Router::new().route("/operators-only", get(name)).layer(middleware::from_fn(observe));
    world.router = world.router.clone().merge(route.with_state(world.app.clone()));
    world
}

#[tokio::test]
async fn a_key_opens_what_its_roles_say_and_nothing_else() {
    let keys = [
        record("of-a-client", &json!({"userId": "alice"})),
        record("of-an-operator", &json!({"userId": "olga", "name": "on call", "roles": ["operator"]})),
        record("of-both", &json!({"userId": "bob", "roles": ["client", "operator"]})),
    ];
    let world = world(&keys, &[]).await;
    for (key, sessions, operators) in [
        ("of-a-client", Ok(()), Err((StatusCode::FORBIDDEN, "operator_required"))),
        ("of-an-operator", Err((StatusCode::FORBIDDEN, "client_required")), Ok("olga on call")),
        ("of-both", Ok(()), Ok("bob ")),
        (
            "of-nobody",
            Err((StatusCode::UNAUTHORIZED, "invalid_api_key")),
            Err((StatusCode::UNAUTHORIZED, "invalid_api_key")),
        ),
    ] {
        for (path, expected) in [("/sessions", sessions.map(|()| None)), ("/operators-only", operators.map(Some))] {
            let answer = world.client(key).get(path).await;
            match expected {
                Ok(body) => {
                    assert_eq!(answer.status, StatusCode::OK, "{key} on {path}");
                    assert!(body.is_none_or(|body| answer.body == body), "{key} on {path}: {answer:?}");
                }
                Err((status, code)) => {
                    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{key} on {path}");
                }
            }
        }
    }
    let answer = world.client("").get("/operators-only").await;
    assert_eq!(answer.body["code"], "missing_api_key");
}

#[tokio::test]
async fn the_key_of_a_development_server_is_an_operators_too() {
    let world = World::new(&[("API_KEYS", "")]).await;
    let keys = world.app.api_keys.get(now_ms()).await.expect("keys");
    assert_eq!(keys.find("wc_dev").expect("the default").roles.len(), 2);
    assert_eq!(world.client("wc_dev").get("/sessions").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_key_is_good_until_it_expires() {
    let soon = rfc3339(now_ms() + 3_600_000);
    let world = world(
        &[
            record("lasts", &json!({"expiresAt": soon, "roles": ["client", "operator"]})),
            record("is-over", &json!({"expiresAt": "2026-01-01T00:00:00+01:00", "roles": ["client", "operator"]})),
        ],
        &[],
    )
    .await;
    for path in ["/sessions", "/operators-only"] {
        assert_eq!(world.client("lasts").get(path).await.status, StatusCode::OK);
        let over = world.client("is-over").get(path).await;
        assert_eq!((over.status, &over.body["code"]), (StatusCode::UNAUTHORIZED, &json!("api_key_expired")));
    }
}

#[tokio::test]
async fn keys_of_one_user_share_sessions_and_a_keys_own_limit_takes_the_place_of_the_general_one() {
    let keys = [
        json!("plain"),
        record("old", &json!({"userId": "alice", "maxSessions": 2})),
        record("new", &json!({"userId": "alice", "maxSessions": 3})),
    ];
    let world = world(&keys, &[("MAX_SESSIONS_PER_USER", "1")]).await;
    let create = async |key: &'static str| {
        let answer = world.client(key).post("/sessions", &json!({})).await;
        match answer.status {
            StatusCode::CREATED => Ok(answer.body["id"].as_str().expect("an id").to_owned()),
            StatusCode::TOO_MANY_REQUESTS => Err(answer.body["message"].as_str().expect("a message").to_owned()),
            _ => panic!("{answer:?}"),
        }
    };
    assert!(create("plain").await.is_ok());
    assert!(create("plain").await.is_err_and(|message| message.contains("you have 1 sessions")));
    let first = create("old").await.expect("one of two");
    assert!(create("old").await.is_ok());
    assert!(create("old").await.is_err_and(|message| message.contains("you have 2 sessions")));
    assert!(create("new").await.is_ok(), "which has more");
    assert!(create("new").await.is_err_and(|message| message.contains("you have 3 sessions")));
    let seen = world.client("new").get(&format!("/sessions/{first}")).await;
    assert_eq!((seen.status, &seen.body["userId"]), (StatusCode::OK, &json!("alice")));
    assert_eq!(world.client("plain").get(&format!("/sessions/{first}")).await.status, StatusCode::NOT_FOUND);
}
