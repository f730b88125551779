//! API keys: what each of them opens, for how long, and how much.

use std::io::Write as _;
use std::process::{Command, Stdio};

use aws_lc_rs::digest;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use axum::{Router, middleware};
use serde_json::{Value, json};
use wallcrawler::auth::Operator;
use wallcrawler::clock::{now_ms, rfc3339};
use wallcrawler::hex;
use wallcrawler::telemetry::observe;

use crate::world::World;

pub fn record(key: &str, says: &Value) -> Value {
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

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// `wallcrawler keys` and `words`, as it is typed.
fn keys_command(words: &[&str], input: &[u8]) -> Said {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wallcrawler"))
        .arg("keys")
        .args(words)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built");
    // It need not read it.
    let _ = child.stdin.take().expect("piped").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("a text");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test]
async fn a_key_that_was_made_is_the_one_of_its_record() {
    let made = keys_command(&["new", "--name", "Alice's laptop", "--user=alice"], b"");
    assert_eq!(made.code, Some(0), "{}", made.err);
    let (key, record) = made.out.trim_end().split_once('\n').expect("a key and a record");
    assert!(key.len() == 67 && key.strip_prefix("wc_").is_some_and(|rest| hex::decode(rest).is_some()), "{key}");
    assert!(!made.err.contains(key) && !record.contains(&key[3..]) && made.err.contains("once"), "{}", made.err);
    let operator = keys_command(&["new", "--operator"], b"");
    let (operator_key, operator_record) = operator.out.trim_end().split_once('\n').expect("a key and a record");
    assert_ne!(key, operator_key);
    let hashed = keys_command(&["hash", "--user", "alice", "--name=Alice's laptop"], format!("{key}\n").as_bytes());
    assert_eq!((hashed.code, hashed.out.trim_end()), (Some(0), record), "{}", hashed.err);

    let records: [Value; 2] = [record, operator_record].map(|record| serde_json::from_str(record).expect("JSON"));
    assert_eq!((&records[0]["name"], &records[1].get("userId")), (&json!("Alice's laptop"), &None));
    let world = world(&records, &[]).await;
    let created = world.client(key).post("/sessions", &json!({})).await;
    assert_eq!((created.status, &created.body["userId"]), (StatusCode::CREATED, &json!("alice")));
    assert_eq!(world.client(operator_key).get("/operators-only").await.status, StatusCode::OK);
    assert_eq!(world.client(operator_key).get("/sessions").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn whatever_is_said_of_a_key_stands_in_its_record() {
    let soon = rfc3339(now_ms() + 3_600_000);
    let words = [
        "new",
        "--name",
        "ci",
        "--user",
        "alice",
        "--project",
        "shop",
        "--role",
        "client",
        "--role=operator",
        "--max-sessions",
        "2",
        "--creates-per-minute=3",
        "--project-max-sessions",
        "4",
        "--project-creates-per-minute",
        "5",
        "--expires",
        &soon,
    ];
    let made = keys_command(&words, b"");
    assert_eq!(made.code, Some(0), "{}", made.err);
    let (key, text) = made.out.trim_end().split_once('\n').expect("a key and a record");
    let said: Value = serde_json::from_str(text).expect("JSON");
    let expected = record(
        key,
        &json!({
            "name": "ci", "userId": "alice", "projectId": "shop", "roles": ["client", "operator"], "maxSessions": 2,
            "createsPerMinute": 3, "projectMaxSessions": 4, "projectCreatesPerMinute": 5, "expiresAt": soon,
        }),
    );
    assert_eq!(said, expected);
    let hashed = keys_command(&[&["hash"], &words[1..]].concat(), key.as_bytes());
    assert_eq!((hashed.code, hashed.out.trim_end()), (Some(0), text), "{}", hashed.err);
    let world = world(&[said], &[]).await;
    for expected in [StatusCode::CREATED, StatusCode::CREATED, StatusCode::TOO_MANY_REQUESTS] {
        assert_eq!(world.client(key).post("/sessions", &json!({})).await.status, expected);
    }
    assert_eq!(world.client(key).get("/v1/projects/shop").await.body["concurrency"], 2);
    assert_eq!(world.client(key).get("/operators-only").await.status, StatusCode::OK);
}

#[test]
fn what_keys_cannot_be_made_of_is_said_and_never_repeated() {
    for (words, complaint) in [
        (&[][..], "keys must be followed by new or hash"),
        (&["hunter2"], "keys must be followed by new or hash"),
        (&["new", "hunter2"], "a key only from standard input"),
        (&["hash", "hunter2"], "a key only from standard input"),
        (&["new", "--hunter2"], "keys takes --name, --user, --project"),
        (&["new", "--operator=hunter2"], "keys takes --name, --user, --project"),
        (&["new", "--name"], "--name must be followed by its value"),
        (&["new", "--name", ""], "--name must be a text of 1 to 128 characters"),
        (&["new", "--name", "hunter2\n"], "--name must be a text of 1 to 128 characters"),
        (&["new", "--user", "hunter2/.."], "--user must be at most 64"),
        (&["new", "--user="], "--user must be at most 64"),
        (&["new", "--project", "hunter2:"], "--project must be at most 64"),
        (&["new", "--user", "a", "--user", "b"], "--user must be given once"),
        (&["new", "--role", "hunter2"], "--role must be client or operator"),
        (&["new", "--role"], "--role must be followed by its value"),
        (&["new", "--max-sessions", "hunter2"], "--max-sessions must be a whole number from 1 to 10000000"),
        (&["new", "--max-sessions", "0"], "--max-sessions must be a whole number"),
        (&["new", "--max-sessions", "-1"], "--max-sessions must be a whole number"),
        (&["new", "--max-sessions=1.5"], "--max-sessions must be a whole number"),
        (&["new", "--max-sessions", "10000001"], "--max-sessions must be a whole number"),
        (&["new", "--creates-per-minute", "1000001"], "--creates-per-minute must be a whole number from 1 to 1000000"),
        (&["new", "--creates-per-minute", ""], "--creates-per-minute must be a whole number"),
        (&["hash", "--project-max-sessions", "3"], "--project-max-sessions is given without a project"),
        (
            &["hash", "--project", "p", "--project-creates-per-minute", "0"],
            "--project-creates-per-minute must be a whole",
        ),
        (&["new", "--expires", "hunter2"], "--expires must be a time as in 2026-12-31T23:59:59Z"),
        (&["new", "--expires", "2020-01-01T00:00:00Z"], "--expires must be in the future"),
        (&["new", "--max-sessions", "0", "--expires", "hunter2"], "; --expires must be a time"),
    ] {
        let said = keys_command(words, b"");
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{words:?}");
        assert!(said.err.contains(complaint) && said.err.contains("wallcrawler keys new"), "{words:?}: {}", said.err);
        assert!(!said.err.contains("hunter2"), "{words:?}: {}", said.err);
    }
    for (input, complaint) in [
        (&b""[..], "is empty"),
        (b" \n", "is empty"),
        (b"hunter2 hunter2", "must be one line"),
        (b"hunter2\nhunter2\n", "must be one line"),
        (b"hunter2,hunter2", "must be one line"),
        (b"hunter2\xff", "must be one line"),
        (&[b'x'; 5_000], "is longer than 1024 bytes"),
    ] {
        let said = keys_command(&["hash"], input);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{complaint}");
        assert!(said.err.contains(complaint) && !said.err.contains("hunter2"), "{}", said.err);
    }
}

/// Whoever knows it: everybody.
#[tokio::test]
async fn the_development_key_serves_only_those_who_mean_this_machine() {
    let world = World::new(&[("API_KEYS", "")]).await;
    let ask = async |host: Option<&str>| {
        let mut request = Request::get("/sessions").header("x-api-key", "wc_dev");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        world.send(request.body(Body::empty()).expect("a request")).await
    };
    for host in ["localhost", "LOCALHOST:8080", "app.localhost:8080", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080"] {
        assert_eq!(ask(Some(host)).await.status, StatusCode::OK, "{host}");
    }
    let strange = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "10.0.0.1", "a b", ""];
    for host in strange.into_iter().map(Some).chain([None]) {
        let answer = ask(host).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::MISDIRECTED_REQUEST, &json!("host_not_served")));
    }
    // A page elsewhere must not use it through a browser of this machine's, under its real name either. What Stagehand
    // installs in a session's browser does.
    let from = async |origin: &str| {
        let request = Request::get("/sessions").header("x-api-key", "wc_dev").header("host", "127.0.0.1:8080");
        world.send(request.header("origin", origin).body(Body::empty()).expect("a request")).await
    };
    for origin in ["http://localhost:3000", "https://app.localhost", "http://[::1]:8080", "chrome-extension://abc"] {
        assert_eq!(from(origin).await.status, StatusCode::OK, "{origin}");
    }
    for origin in ["https://evil.example", "http://localhost.evil.example", "null", "", "file://"] {
        let answer = from(origin).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::FORBIDDEN, &json!("origin_not_served")));
    }
    // With keys of one's own any name will do.
    let world = World::new(&[]).await;
    let request = Request::get("/sessions").header("x-api-key", "key-one").header("host", "api.example.com");
    let request = request.header("origin", "https://app.example.com");
    let answer = world.send(request.body(Body::empty()).expect("a request")).await;
    assert_eq!(answer.status, StatusCode::OK);
    // Which the page does not get to read.
    assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")), "{:?}", answer.headers);
}
