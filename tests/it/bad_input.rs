//! Whatever is sent: the documented status, a message that names the field and repeats nothing, and no
//! change.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use wallcrawler::clock::now_ms;
use wallcrawler::ids::UserId;
use wallcrawler::tokens::{CLOCK_SKEW_MS, Subject, Tokens};

use crate::audit::Contents;
use crate::world::{SECRET, World};

/// What a wrong answer is checked for, whatever was asked.
fn check_error(answer: &crate::world::Answer, status: StatusCode, what: &str) {
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    assert_eq!(answer.body["statusCode"], status.as_u16(), "{what}");
    assert_eq!(answer.body["error"], status.canonical_reason().expect("a reason"), "{what}");
    assert_eq!(answer.body["requestId"], answer.headers["x-request-id"].to_str().expect("text"), "{what}");
    assert!(answer.body["code"].as_str().is_some_and(|code| !code.is_empty()), "{what}");
    assert!(!answer.body.to_string().contains("hunter2"), "{what}: {}", answer.body);
}

/// Runs `attack` and asserts that Redis holds the same afterwards.
async fn unchanged(world: &World, attack: impl Future<Output = ()>) {
    let redis = world.redis.client().await;
    let before = Contents::read(&redis).await;
    attack.await;
    let after = Contents::read(&redis).await;
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
}

#[tokio::test]
async fn a_create_that_cannot_be_honoured_names_the_field() {
    let world = World::new(&[]).await;
    unchanged(&world, async {
        let client = world.client("key-one");
        for (body, field) in [
            (json!({"timeout": 0}), "timeout"),
            (json!({"timeout": -5}), "timeout"),
            (json!({"timeout": 361}), "timeout"),
            (json!({"timeout": 1e300}), "timeout"),
            (json!({"timeout": 1.5}), "timeout"),
            (json!({"timeout": "hunter2"}), "timeout"),
            (json!({"timeout": [1]}), "timeout"),
            (json!({"keepAlive": "yes"}), "keepAlive"),
            (json!({"keepAlive": 1}), "keepAlive"),
            (json!({"userMetadata": "hunter2"}), "userMetadata"),
            (json!({"userMetadata": {"a": "x".repeat(5_000)}}), "userMetadata"),
            (json!({"browserSettings": []}), "browserSettings"),
            (json!({"browserSettings": {"browser": "hunter2"}}), "browserSettings.browser"),
            (json!({"browserSettings": {"viewport": {"width": -1, "height": 1}}}), "browserSettings.viewport.width"),
            (json!({"browserSettings": {"args": ["--no-sandbox"]}}), "browserSettings.args[0]"),
            (json!({"browserSettings": {"args": ["--lang=de", "hunter2"]}}), "browserSettings.args[1]"),
            (json!({"browserSettings": {"proxy": {"server": "hunter2"}}}), "browserSettings.proxy.server"),
            (json!({"browserSettings": {"logSession": "false"}}), "browserSettings.logSession"),
            (json!({"browserSettings": {"note": "x".repeat(70_000)}}), "browserSettings"),
        ] {
            let answer = client.post("/sessions", &body).await;
            let what = body.to_string().chars().take(80).collect::<String>();
            check_error(&answer, StatusCode::BAD_REQUEST, &what);
            let message = answer.body["message"].as_str().expect("a message");
            assert!(message.starts_with(field), "{what}: {message}");
        }
        for body in ["{", "[]", "null", "7", "\"hunter2\"", "{}{}", "{\"timeout\":}", "\u{0}", "{\"a\":\u{7f}"] {
            check_error(&client.send("POST", "/sessions", body.to_owned()).await, StatusCode::BAD_REQUEST, body);
        }
        let deep = "[".repeat(100_000);
        check_error(&client.send("POST", "/sessions", deep).await, StatusCode::BAD_REQUEST, "deep nesting");
        let invalid_utf8 = client.send("POST", "/sessions", vec![b'{', b'"', 0xff, b'"', b':', b'1', b'}']).await;
        check_error(&invalid_utf8, StatusCode::BAD_REQUEST, "invalid UTF-8");
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_whether_its_length_is_declared_or_not() {
    let world = World::new(&[]).await;
    unchanged(&world, async {
        let large = format!("{{\"userMetadata\":{{\"a\":\"{}\"}}}}", "x".repeat(1024 * 1024));
        let declared = world.client("key-one").with("content-length", large.len().to_string());
        check_error(
            &declared.send("POST", "/sessions", large.clone()).await,
            StatusCode::PAYLOAD_TOO_LARGE,
            "declared",
        );
        let chunks = futures_util::stream::iter(
            large.into_bytes().chunks(64 * 1024).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>(),
        );
        let streamed = world.client("key-one").send("POST", "/sessions", Body::from_stream(chunks)).await;
        check_error(&streamed, StatusCode::PAYLOAD_TOO_LARGE, "streamed");
    })
    .await;
}

#[tokio::test]
async fn a_list_that_cannot_be_made_names_the_parameter() {
    let world = World::new(&[]).await;
    for (query, field) in [
        ("status=hunter2", "status"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=hunter2", "limit"),
        ("cursor=hunter2", "cursor"),
        ("cursor=MTIz", "cursor"),
    ] {
        let answer = world.client("key-one").get(&format!("/sessions?{query}")).await;
        check_error(&answer, StatusCode::BAD_REQUEST, query);
        let message = answer.body["message"].as_str().expect("a message");
        assert!(message.contains(field), "{query}: {message}");
    }
}

#[tokio::test]
async fn unknown_ids_routes_and_methods_are_told_apart() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    for path in
        ["/sessions/ses_00000000000000000000000000", "/sessions/hunter2", "/sessions/%2e%2e%2f", "/sessions/ses_%00"]
    {
        check_error(&client.get(path).await, StatusCode::NOT_FOUND, path);
        let answer = client.delete(path).await;
        check_error(&answer, StatusCode::NOT_FOUND, path);
        assert_eq!(answer.body["code"], "session_not_found");
    }
    for path in ["/nothing", "/sessions/", "/sessions/ses_1/unknown", "/v1/sessions/ses_1/fly", "/events"] {
        let answer = client.get(path).await;
        check_error(&answer, StatusCode::NOT_FOUND, path);
    }
    // Only the adapter of Lambda may bring events; over HTTP there is no such route.
    let forged = client.post("/events", &json!({"source": "aws.ecs", "detail-type": "ECS Task State Change"})).await;
    check_error(&forged, StatusCode::NOT_FOUND, "a forged event");
    for (method, path) in [("PUT", "/sessions"), ("PATCH", "/sessions/ses_1"), ("POST", "/health")] {
        check_error(&client.send(method, path, "").await, StatusCode::METHOD_NOT_ALLOWED, path);
    }
}

#[tokio::test]
async fn every_kind_of_credential_opens_its_own_doors_only() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let session = client.post("/sessions", &json!({})).await.body;
    let id = session["id"].as_str().expect("an id").to_owned();
    let connect = format!("Bearer {}", session["token"].as_str().expect("a token"));
    let container = format!("Bearer {}", crate::world::container_token("ctr-a"));
    let claim = json!({"containerId": "ctr-a", "currentSessions": 0, "maxSessions": 1});
    let ready = json!({"lease": 0, "cdpSecret": "0123456789abcdef"});
    let ended = json!({"lease": 0, "reason": "released"});
    unchanged(&world, async {
        let bearer = |token: &str| world.client("").with("authorization", token.to_owned());
        for path in ["/sessions".to_owned(), format!("/sessions/{id}")] {
            for token in [&connect, &container, &"Bearer hunter2".to_owned(), &"Bearer ".to_owned()] {
                check_error(&bearer(token).get(&path).await, StatusCode::UNAUTHORIZED, &path);
            }
        }
        for (path, body) in [
            ("/sessions/claim".to_owned(), &claim),
            (format!("/sessions/{id}/ready"), &ready),
            (format!("/sessions/{id}/ended"), &ended),
        ] {
            check_error(&bearer(&connect).post(&path, body).await, StatusCode::UNAUTHORIZED, &path);
            check_error(&client.post(&path, body).await, StatusCode::UNAUTHORIZED, &path);
        }
        // A container reaches only what it has claimed itself.
        for path in ["ready", "ended"] {
            let body = if path == "ready" { &ready } else { &ended };
            let answer = bearer(&container).post(&format!("/sessions/{id}/{path}"), body).await;
            check_error(&answer, StatusCode::NOT_FOUND, path);
        }
        let other = json!({"containerId": "ctr-b", "currentSessions": 0, "maxSessions": 1});
        check_error(
            &bearer(&container).post("/sessions/claim", &other).await,
            StatusCode::FORBIDDEN,
            "another's claim",
        );
        // The doors to the browser take connect tokens, of this session.
        for path in
            [format!("/cdp?sessionId={id}"), format!("/sessions/{id}/ws"), format!("/sessions/{id}/json/version")]
        {
            check_error(&bearer(&container).get(&path).await, StatusCode::UNAUTHORIZED, &path);
            check_error(&bearer("Bearer key-one").get(&path).await, StatusCode::UNAUTHORIZED, &path);
            check_error(&world.client("key-one").get(&path).await, StatusCode::UNAUTHORIZED, &path);
        }
        let elsewhere = bearer(&connect).get("/sessions/ses_00000000000000000000000000/ws").await;
        check_error(&elsewhere, StatusCode::NOT_FOUND, "another session's door");
    })
    .await;
}

#[tokio::test]
async fn tokens_that_expired_or_were_touched_open_nothing() {
    let world = World::new(&[]).await;
    let id = world.client("key-one").create().await;
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let user: UserId = "user_1".parse().expect("an id");
    let subject = Subject::Connect { session: id.parse().expect("an id"), user };
    let good = tokens.mint(&subject, now_ms(), now_ms() + 60_000);
    let old = tokens.mint(&subject, now_ms() - 120_000, now_ms() - CLOCK_SKEW_MS - 1_000);
    let view = Subject::View { session: id.parse().expect("an id"), user: "user_1".parse().expect("an id") };
    let view = tokens.mint(&view, now_ms(), now_ms() + 60_000);
    let foreign = Tokens::new(&["another secret of the tests, 32 b"], false).expect("long enough");
    let foreign = foreign.mint(&subject, now_ms(), now_ms() + 60_000);
    let touched = good.replacen("..", "..A", 1);
    for (token, code) in [
        (old.as_str(), "token_expired"),
        (view.as_str(), "invalid_token"),
        (foreign.as_str(), "invalid_token"),
        (touched.as_str(), "invalid_token"),
        (&good[..good.len() - 1], "invalid_token"),
        (&good[1..], "invalid_token"),
        ("", "missing_token"),
    ] {
        for path in [format!("/cdp?sessionId={id}&token={token}"), format!("/sessions/{id}/ws?token={token}")] {
            let answer = world.client("").get(&path).await;
            let expected = if code == "missing_token" { "invalid_token" } else { code };
            check_error(&answer, StatusCode::UNAUTHORIZED, code);
            assert_eq!(answer.body["code"], expected);
        }
    }
    // The good one gets as far as being told that this is no WebSocket.
    let answer = world.client("").get(&format!("/cdp?sessionId={id}&token={good}")).await;
    assert_eq!(answer.body["code"], "not_a_websocket", "{answer:?}");
}

#[tokio::test]
async fn a_claim_or_report_that_makes_no_sense_names_the_field() {
    let world = World::new(&[]).await;
    let id = world.client("key-one").create().await;
    unchanged(&world, async {
        let container = world.container("ctr-a");
        let good = json!({"containerId": "ctr-a", "currentSessions": 0, "maxSessions": 1, "waitSeconds": 0});
        for (field, value) in [
            ("maxSessions", json!(0)),
            ("maxSessions", json!(1_001)),
            ("maxSessions", json!(-1)),
            ("maxSessions", json!("hunter2")),
            ("currentSessions", json!(-1)),
            ("currentSessions", json!(100_000)),
            ("waitSeconds", json!(21)),
            ("waitSeconds", json!(-1)),
            ("containerId", json!("hunter2 ; rm")),
            ("containerId", Value::Null),
            ("address", json!("no-port")),
            ("address", json!("host:0")),
            ("address", json!("evil@host:1")),
            ("address", json!("host/path:1")),
            ("address", json!("169.254.169.254:80")),
            ("address", json!("[::ffff:169.254.169.254]:80")),
            ("address", json!("[fe80::1]:80")),
            ("address", json!("[fd00:ec2::254]:80")),
            ("taskArn", json!("arn:aws:ecs:eu-central-1:111122223333:task/a b")),
            ("taskArn", json!("a".repeat(2_049))),
            ("sessionIds", json!(["hunter2"])),
            ("sessionIds", json!(vec![id.clone(); 1_001])),
            ("phase", json!("hunter2")),
        ] {
            let mut claim = good.clone();
            claim[field] = value;
            let answer = container.post("/sessions/claim", &claim).await;
            check_error(&answer, StatusCode::BAD_REQUEST, &format!("{field} {}", claim[field]));
            let message = answer.body["message"].as_str().expect("a message");
            assert!(message.contains(field), "{field}: {message}");
        }
        for missing in ["containerId", "currentSessions", "maxSessions"] {
            let mut claim = good.clone();
            claim.as_object_mut().expect("an object").remove(missing);
            let answer = container.post("/sessions/claim", &claim).await;
            check_error(&answer, StatusCode::BAD_REQUEST, missing);
        }
        for (path, body, field) in [
            ("ready", json!({"cdpSecret": "0123456789abcdef"}), "lease"),
            ("ready", json!({"lease": 1, "cdpSecret": "short"}), "cdpSecret"),
            ("ready", json!({"lease": 1, "cdpSecret": "with a \n in the middle"}), "cdpSecret"),
            ("ended", json!({"lease": 1, "reason": "hunter2"}), "reason"),
            ("ended", json!({"lease": 1, "reason": "queue_timeout"}), "reason"),
            ("ended", json!({"lease": -1, "reason": "released"}), "lease"),
        ] {
            let answer = container.post(&format!("/sessions/{id}/{path}"), &body).await;
            check_error(&answer, StatusCode::BAD_REQUEST, field);
            assert!(answer.body["message"].as_str().expect("a message").contains(field), "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_claim_for_more_than_the_containers_room_is_given_just_its_room() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    for _ in 0..5 {
        client.create().await;
    }
    let claim = json!({"containerId": "ctr-a", "currentSessions": 3, "maxSessions": 4});
    let answer = world.container("ctr-a").post("/sessions/claim", &claim).await;
    assert_eq!(answer.body["claimedCount"], 1);
    let full = json!({"containerId": "ctr-a", "currentSessions": 9, "maxSessions": 4});
    assert_eq!(world.container("ctr-a").post("/sessions/claim", &full).await.body["claimedCount"], 0);
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_one() {
    let world = World::new(&[]).await;
    let send = async |id: &str| {
        let request = Request::get("/health").header("x-request-id", id).body(Body::empty()).expect("a request");
        world.send(request).await.headers["x-request-id"].to_str().expect("text").to_owned()
    };
    assert_eq!(send("trace-17").await, "trace-17");
    for odd in ["", "with space", &"x".repeat(200)] {
        assert!(send(odd).await.starts_with("req_"), "{odd:?}");
    }
}
