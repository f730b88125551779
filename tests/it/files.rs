//! Where a container puts what a session leaves.

use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};
use wallcrawler::clock::{now_ms, parse_rfc3339};
use wallcrawler::ids::Owner;
use wallcrawler::storage::{Kind, ObjectName};
use wallcrawler::tokens::{Subject, Tokens};

use crate::world::{Answer, SECRET, World, container_token};

/// A session that was claimed, as its container was told of it.
async fn claimed(world: &World) -> Value {
    let id = world.client("key-one").create().await;
    let answer = world.container("ctr-a").claim("ctr-a", 9, &[]).await;
    let mut sessions = answer["sessions"].as_array().expect("sessions").iter();
    sessions.find(|session| session["sessionId"] == id).expect("it was handed out").clone()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().expect("a text")
}

async fn ask(world: &World, session: &str, token: &str, body: &Value) -> Answer {
    let caller = world.client("").with("authorization", format!("Bearer {token}"));
    caller.post(&format!("/sessions/{session}/files"), body).await
}

/// Taken out: that the token's session is the one in the path.
#[tokio::test]
async fn a_container_stores_what_its_session_leaves_and_nothing_of_another() {
    let world = World::new(&[("API_ENDPOINT", "http://localhost")]).await;
    let (one, other) = (claimed(&world).await, claimed(&world).await);
    let (id, token, user) = (text(&one, "sessionId"), text(&one, "filesToken"), text(&one, "userId"));
    // Ended, and still to be stored.
    assert_eq!(world.client("key-one").delete(&format!("/sessions/{id}")).await.status, StatusCode::OK);
    for (kind, of, ending) in [("downloads", Kind::Downloads, "zip"), ("logs", Kind::Logs, "json")] {
        let answer = ask(&world, id, token, &json!({ "kind": kind })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert!(answer.body["expiresInSeconds"].as_u64().is_some_and(|seconds| seconds >= 60), "{answer:?}");
        let path =
            text(&answer.body, "url").strip_prefix("http://localhost").expect("this service, as containers know it");
        assert_eq!(world.client("").send("PUT", path, kind).await.status, StatusCode::OK);
        let name = ObjectName::new(of, &format!("user:{user}").parse().expect("an owner"), &format!("{id}.{ending}"));
        let stored = world.app.storage.get(&name).await.expect("asked");
        assert_eq!(stored.as_deref(), Some(kind.as_bytes()));
    }
    let answer = ask(&world, text(&other, "sessionId"), token, &json!({"kind": "downloads"})).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("session_not_found")));
    for body in [json!({"kind": "other"}), json!({})] {
        let answer = ask(&world, id, token, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(text(&answer.body, "message").contains("kind"), "{answer:?}");
    }
}

#[tokio::test]
async fn only_the_token_of_a_sessions_files_is_taken_and_it_opens_nothing_else() {
    let world = World::new(&[]).await;
    let claimed = claimed(&world).await;
    let (id, token) = (text(&claimed, "sessionId"), text(&claimed, "filesToken"));
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let session = || id.parse().expect("an id");
    let user = || text(&claimed, "userId").parse().expect("a user");
    let mint = |subject: &Subject, until_ms: u64| tokens.mint(subject, now_ms(), until_ms);
    let soon = now_ms() + 60_000;
    let files = Subject::Files { session: session(), owner: Owner::User(user()), context: None };
    let late = mint(&files, now_ms() - 60_000);
    for (token, code) in [
        (container_token("ctr-a"), "invalid_token"),
        (mint(&Subject::Connect { session: session(), user: user() }, soon), "invalid_token"),
        (mint(&Subject::View { session: session(), user: user() }, soon), "invalid_token"),
        (late, "token_expired"),
        ("key-one".to_owned(), "invalid_token"),
    ] {
        let answer = ask(&world, id, &token, &json!({"kind": "downloads"})).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::UNAUTHORIZED, &json!(code)), "{answer:?}");
    }
    let holder = world.client("").with("authorization", format!("Bearer {token}"));
    for (method, path, body) in [
        ("GET", "/sessions".to_owned(), json!({})),
        ("POST", "/sessions/claim".to_owned(), json!({"containerId": id, "currentSessions": 0, "maxSessions": 1})),
        ("POST", format!("/sessions/{id}/ended"), json!({"lease": 1, "reason": "released"})),
        ("GET", format!("/cdp?token={token}"), json!({})),
        ("GET", format!("/sessions/{id}/live?token={token}"), json!({})),
        ("GET", format!("/objects/{token}"), json!({})),
    ] {
        let answer = holder.raw(method, &path, Body::from(body.to_string())).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
}

/// Taken out: what it is good for beyond the session.
#[tokio::test]
async fn the_token_outlives_its_session_by_some_minutes() {
    let world = World::new(&[]).await;
    let claimed = claimed(&world).await;
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let ends_ms = parse_rfc3339(text(&claimed, "expiresAt")).expect("a time");
    let (subject, until_ms) = tokens.verify_until(text(&claimed, "filesToken"), ends_ms + 300_000).expect("still good");
    assert!(matches!(subject, Subject::Files { .. }));
    assert!(until_ms < ends_ms + 3_600_000, "not for ever");
}

#[tokio::test]
async fn without_a_place_for_files_a_container_is_told_so() {
    let world = World::new(&[("STORAGE_DIR", "")]).await;
    let claimed = claimed(&world).await;
    let answer = ask(&world, text(&claimed, "sessionId"), text(&claimed, "filesToken"), &json!({"kind": "logs"})).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_IMPLEMENTED, &json!("not_available")));
}
