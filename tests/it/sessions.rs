//! Sessions over HTTP: what is answered, to whom, and what does not happen twice.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::audit::Contents;
use crate::world::{Answer, World, claimed, eventually};

#[tokio::test]
async fn a_session_is_answered_with_everything_its_client_needs() {
    let world = World::new(&[]).await;
    let body = json!({
        "timeout": 5, "keepAlive": true, "userMetadata": {"job": {"id": 7}},
        "browserSettings": {"viewport": {"width": 800, "height": 600}, "blockAds": true},
    });
    let answer = world.client("key-one").post("/sessions", &body).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let session = &answer.body;
    assert_eq!(session["id"], session["sessionId"]);
    assert_eq!(session["status"], "pending");
    assert_eq!(session["timeout"], 300_000);
    assert_eq!(session["keepAlive"], true);
    assert_eq!(session["queuePosition"], 1);
    assert_eq!(session["activeConnections"], 0);
    assert_eq!(session["userMetadata"], json!({"job": {"id": 7}}));
    let token = session["token"].as_str().expect("a token");
    let id = session["id"].as_str().expect("an id");
    assert_eq!(session["connectUrl"], format!("ws://localhost/cdp?sessionId={id}&token={token}"));
    assert_eq!(session["browserSettings"]["cdpUrl"], session["connectUrl"]);
    assert_eq!(session["browserSettings"]["token"], token);
    assert_eq!(session["browserSettings"]["blockAds"], true);
    for time in ["createdAt", "lastActivity", "expiresAt"] {
        assert!(session[time].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
    }
    for absent in ["containerId", "taskArn", "endedAt", "endReason"] {
        assert!(session.get(absent).is_none(), "{absent}");
    }
    assert!(answer.headers.contains_key("x-request-id"));
    let again = world.client("key-one").get(&format!("/sessions/{id}")).await;
    assert_eq!(again.body["userMetadata"], session["userMetadata"]);
}

#[tokio::test]
async fn an_empty_body_is_a_session_with_the_defaults() {
    let world = World::new(&[]).await;
    for body in ["", "{}", " \n"] {
        let answer =
            world.client("key-one").with("content-type", "application/json").send("POST", "/sessions", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{body:?}");
        assert_eq!(answer.body["timeout"], 3_600_000);
        assert_eq!(answer.body["keepAlive"], false);
    }
}

#[tokio::test]
async fn a_key_is_taken_from_any_of_its_places() {
    let world = World::new(&[]).await;
    let nobody = |name, value: &str| world.client("").with(name, value.to_owned());
    assert_eq!(nobody("x-bb-api-key", "key-one").get("/sessions").await.status, StatusCode::OK);
    assert_eq!(nobody("authorization", "Bearer key-one").get("/sessions").await.status, StatusCode::OK);
    assert_eq!(nobody("authorization", "bearer key-one").get("/sessions").await.status, StatusCode::OK);
    assert_eq!(nobody("authorization", "Basic key-one").get("/sessions").await.body["code"], "missing_api_key");
    assert_eq!(nobody("x-bb-api-key", "key-three").get("/sessions").await.body["code"], "invalid_api_key");
}

#[tokio::test]
async fn sessions_are_claimed_in_the_order_in_which_they_were_created() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let mut created = Vec::new();
    for _ in 0..5 {
        created.push(client.create().await);
    }
    assert_eq!(client.get(&format!("/sessions/{}", created[4])).await.body["queuePosition"], 5);
    client.delete(&format!("/sessions/{}", created[1])).await;
    assert_eq!(client.get(&format!("/sessions/{}", created[4])).await.body["queuePosition"], 4);
    let container = world.container("ctr-a");
    let first = container.claim("ctr-a", 2, &[]).await;
    assert_eq!(claimed(&first), [created[0].clone(), created[2].clone()]);
    assert_eq!(
        (first["success"].clone(), first["claimedCount"].clone(), first["drain"].clone()),
        (json!(true), json!(2), json!(false))
    );
    let session = client.get(&format!("/sessions/{}", created[0])).await.body;
    assert_eq!((session["status"].clone(), session["containerId"].clone()), (json!("active"), json!("ctr-a")));
    assert!(session.get("queuePosition").is_none());
    assert_eq!(
        claimed(&world.container("ctr-b").claim("ctr-b", 20, &[]).await),
        [created[3].clone(), created[4].clone()]
    );
}

#[tokio::test]
async fn a_waiting_claim_is_answered_when_a_session_comes_and_when_one_is_to_end() {
    let world = World::new(&[]).await;
    let (client, container) = (world.client("key-one"), world.container("ctr-a"));
    let request = |held: &[&str]| {
        json!({
            "containerId": "ctr-a", "currentSessions": held.len(), "maxSessions": 2, "sessionIds": held,
            "address": "127.0.0.1:9", "waitSeconds": 20,
        })
    };
    let empty = request(&[]);
    let (answer, id) = tokio::join!(container.post("/sessions/claim", &empty), async {
        // It waits once it is registered.
        let look = || async {
            let redis = world.redis.client().await;
            let seen = Contents::read(&redis).await;
            if seen.hashes.contains_key("container:ctr-a") { Ok(()) } else { Err("not registered".to_owned()) }
        };
        eventually(Duration::from_secs(5), look).await;
        client.create().await
    });
    assert_eq!(claimed(&answer.body), [id.as_str()]);
    let holding = request(&[&id]);
    let (started, path) = (std::time::Instant::now(), format!("/sessions/{id}"));
    let (answer, _) = tokio::join!(container.post("/sessions/claim", &holding), client.delete(&path));
    assert_eq!(answer.body["end"], json!([id]));
    assert!(started.elapsed() < Duration::from_secs(10), "it did not wait for its time to pass");
}

#[tokio::test]
async fn what_a_container_never_got_is_handed_out_to_it_again() {
    let world = World::new(&[]).await;
    let id = world.client("key-one").create().await;
    let container = world.container("ctr-a");
    let first = container.claim("ctr-a", 2, &[]).await;
    let second = container.claim("ctr-a", 2, &[]).await;
    assert_eq!((claimed(&first), claimed(&second)), (vec![id.clone()], vec![id.clone()]));
    assert_eq!(second["sessions"][0]["lease"], first["sessions"][0]["lease"]);
    assert_eq!(claimed(&container.claim("ctr-a", 2, &[&id]).await), Vec::<String>::new());
}

#[tokio::test]
async fn deleting_is_idempotent_and_frees_the_slot() {
    let world = World::new(&[]).await;
    let (client, container) = (world.client("key-one"), world.container("ctr-a"));
    let (first, second) = (client.create().await, client.create().await);
    assert_eq!(claimed(&container.claim("ctr-a", 1, &[]).await), [first.as_str()]);
    let path = format!("/sessions/{first}");
    let once = client.delete(&path).await;
    let twice = client.delete(&path).await;
    for answer in [&once, &twice] {
        assert_eq!(
            (answer.status, &answer.body["status"], &answer.body["endReason"]),
            (StatusCode::OK, &json!("ended"), &json!("released"))
        );
        assert!(answer.body.get("connectUrl").is_none() && answer.body.get("token").is_none());
    }
    assert_eq!(once.body["endedAt"], twice.body["endedAt"]);
    let answer = container.claim("ctr-a", 1, &[&first]).await;
    assert_eq!(answer["end"], json!([first]));
    assert_eq!(claimed(&answer), Vec::<String>::new(), "its slot is taken until its browser is gone");
    assert_eq!(claimed(&container.claim("ctr-a", 1, &[]).await), [second.as_str()]);
}

#[tokio::test]
async fn with_no_retention_an_ended_session_is_gone_at_once_with_everything_about_it() {
    let world = World::new(&[("SESSION_RETENTION_SECONDS", "0")]).await;
    let client = world.client("key-one");
    let id = client.create().await;
    assert_eq!(client.delete(&format!("/sessions/{id}")).await.body["endReason"], "released");
    assert_eq!(client.get(&format!("/sessions/{id}")).await.status, StatusCode::NOT_FOUND);
    let contents = Contents::read(&world.redis.client().await).await;
    contents.check();
    assert!(contents.sessions().is_empty() && contents.sorted.is_empty(), "{contents:?}");
}

#[tokio::test]
async fn nobody_sees_or_ends_the_session_of_another() {
    let world = World::new(&[]).await;
    let id = world.client("key-one").create().await;
    let other = world.client("key-two");
    let unknown = other.get("/sessions/ses_00000000000000000000000000").await;
    for answer in [other.get(&format!("/sessions/{id}")).await, other.delete(&format!("/sessions/{id}")).await] {
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        // Nothing tells it from one that does not exist.
        assert_eq!((&answer.body["code"], &answer.body["message"]), (&unknown.body["code"], &unknown.body["message"]));
    }
    assert_eq!(other.get("/sessions").await.body["sessions"], json!([]));
    assert_eq!(world.client("key-one").get(&format!("/sessions/{id}")).await.body["status"], "pending");
}

#[tokio::test]
async fn lists_are_paged_newest_first_and_filtered_without_gaps_or_repeats() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let mut created = Vec::new();
    for _ in 0..23 {
        created.push(client.create().await);
    }
    for id in created.iter().step_by(2) {
        client.delete(&format!("/sessions/{id}")).await;
    }
    world.client("key-two").create().await;
    for (filter, expected) in [
        ("", created.clone()),
        ("&status=ended", created.iter().step_by(2).cloned().collect()),
        ("&status=pending", created.iter().skip(1).step_by(2).cloned().collect()),
        ("&status=active", Vec::new()),
    ] {
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = client.get(&format!("/sessions?limit=5{filter}{cursor}")).await.body;
            let ids = page["sessions"].as_array().expect("sessions").iter().map(|session| session["id"].clone());
            seen.extend(ids);
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        // Of the same millisecond the order is not that of creation, so compare what is seen, once each.
        assert_eq!(seen.len(), expected.len(), "{filter}");
        let mut expected: Vec<Value> = expected.into_iter().map(Value::from).collect();
        let mut seen = seen;
        expected.sort_by_key(ToString::to_string);
        seen.sort_by_key(ToString::to_string);
        assert_eq!(seen, expected, "{filter}");
    }
}

#[tokio::test]
async fn the_same_idempotency_key_and_body_make_one_session() {
    let world = World::new(&[]).await;
    let client = || world.client("key-one").with("idempotency-key", "order-17");
    let body = json!({"userMetadata": {"order": 17}});
    let (first, second) = {
        let (one, two) = (client(), client());
        tokio::join!(one.post("/sessions", &body), two.post("/sessions", &body))
    };
    assert_eq!((first.status, second.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!(first.body["id"], second.body["id"]);
    let conflict = client().post("/sessions", &json!({"userMetadata": {"order": 18}})).await;
    assert_eq!((conflict.status, conflict.body["code"].clone()), (StatusCode::CONFLICT, json!("idempotency_conflict")));
    let of_another = world.client("key-two").with("idempotency-key", "order-17").post("/sessions", &body).await;
    assert_eq!(of_another.status, StatusCode::CREATED);
    assert_ne!(of_another.body["id"], first.body["id"]);
    assert_eq!(world.client("key-one").get("/sessions").await.body["sessions"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_full_queue_is_503_and_a_full_account_429_and_both_say_when_to_come_back() {
    let world = World::new(&[("MAX_PENDING_SESSIONS", "3"), ("MAX_SESSIONS_PER_USER", "2")]).await;
    let (one, two) = (world.client("key-one"), world.client("key-two"));
    let first = one.create().await;
    one.create().await;
    let limited = one.post("/sessions", &json!({})).await;
    assert_eq!((limited.status, limited.body["code"].clone()), (StatusCode::TOO_MANY_REQUESTS, json!("session_limit")));
    two.create().await;
    let full = two.post("/sessions", &json!({})).await;
    assert_eq!((full.status, full.body["code"].clone()), (StatusCode::SERVICE_UNAVAILABLE, json!("queue_full")));
    assert_eq!(
        (&limited.headers["x-ratelimit-limit"], &limited.headers["x-ratelimit-remaining"]),
        (&"2".parse().expect("a header"), &"0".parse().expect("a header"))
    );
    for answer in [&limited, &full] {
        let header = |name: &str| answer.headers[name].to_str().expect("text").parse::<u64>().expect("a number");
        assert_eq!(header("retry-after") * 1_000, header("retry-after-ms"));
    }
    // What ends counts no more.
    one.delete(&format!("/sessions/{first}")).await;
    one.create().await;
    Contents::read(&world.redis.client().await).await.check();
}

#[tokio::test]
async fn simultaneous_creates_reserve_just_the_containers_they_need() {
    for (creates, per_container, max, expected) in
        [(200, 20, 100, 10), (200, 20, 5, 5), (1, 20, 10, 1), (41, 20, 10, 3)]
    {
        let (per, max_text) = (per_container.to_string(), max.to_string());
        // No server runs beside it: nothing gives a reservation back while it is counted.
        let world = World::new(&[("MAX_SESSIONS_PER_CONTAINER", &per), ("MAX_CONTAINERS", &max_text)]).await;
        let client = world.client("key-one");
        futures_util::future::join_all((0..creates).map(|_| client.create())).await;
        let contents = Contents::read(&world.redis.client().await).await;
        contents.check();
        assert_eq!(
            contents.sorted["containers-starting"].len(),
            expected,
            "{creates} creates, {per_container} a container"
        );
    }
}

#[tokio::test]
async fn who_waits_is_told_for_about_how_long_and_who_is_refused_when_to_come_back() {
    let world = World::new(&[("MAX_PENDING_SESSIONS", "40")]).await;
    let client = world.client("key-one");
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(client.create().await);
    }
    let last = async || client.get(&format!("/sessions/{}", ids[39])).await.body;
    assert_eq!(last().await.get("estimatedWaitMs"), None, "nobody has been served yet: nothing is known");
    let full = client.post("/sessions", &json!({})).await;
    assert_eq!(full.headers["retry-after"], "5");

    // Ten were served just now, which is ten a minute: one in six seconds.
    world.container("ctr-a").claim("ctr-a", 10, &[]).await;
    let session = last().await;
    assert_eq!(session["queuePosition"], 30);
    let wait = session["estimatedWaitMs"].as_u64().expect("an estimate");
    assert!((180_000..190_000).contains(&wait), "{wait}");
    for _ in 0..10 {
        client.create().await;
    }
    let full = client.post("/sessions", &json!({})).await;
    assert_eq!(full.body["code"], "queue_full");
    let retry: u64 = full.headers["retry-after-ms"].to_str().expect("a text").parse().expect("a number");
    assert!((6_000..7_000).contains(&retry), "{retry}");
    assert!(client.get(&format!("/sessions/{}", ids[0])).await.body.get("estimatedWaitMs").is_none(), "it is served");

    // Where slots are free, nobody has to wait, however seldom somebody has come.
    world.container("ctr-b").claim("ctr-b", 100, &[]).await;
    let session = client.post("/sessions", &json!({})).await.body;
    assert_eq!((&session["queuePosition"], &session["estimatedWaitMs"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn a_user_creates_as_many_in_a_minute_as_may_be_and_is_told_what_is_left() {
    let world = World::new(&[("CREATES_PER_MINUTE", "3"), ("MAX_SESSIONS_PER_USER", "4")]).await;
    let client = world.client("key-one");
    let rate = |answer: &Answer| {
        let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"];
        names.map(|name| {
            answer.headers.get(name).map(|value| value.to_str().expect("a text").parse().expect("a number"))
        })
    };
    // Some of the time may already be over.
    let nearly = |seconds: Option<u64>, expected: u64| seconds.is_some_and(|s| (expected - 5..=expected).contains(&s));
    for (left, reset) in [(2, 20), (1, 40), (0, 60)] {
        let answer = client.post("/sessions", &json!({})).await;
        let seen = rate(&answer);
        assert_eq!((answer.status, seen[0], seen[1], seen[3]), (StatusCode::CREATED, Some(3), Some(left), None));
        assert!(nearly(seen[2], reset), "{seen:?}");
    }
    for _ in 0..2 {
        let answer = client.post("/sessions", &json!({})).await;
        let seen = rate(&answer);
        assert_eq!((answer.status, seen[0], seen[1]), (StatusCode::TOO_MANY_REQUESTS, Some(3), Some(0)));
        assert_eq!(answer.body["code"], "create_rate_limit");
        assert!(nearly(seen[2], 60) && nearly(seen[3], 20), "a refusal costs nothing: {seen:?}");
    }
    assert_eq!(world.client("key-two").post("/sessions", &json!({})).await.status, StatusCode::CREATED, "others may");

    // As if the clock had gone on until one of them is a minute old.
    let redis = world.redis.client().await;
    let user = client.get("/sessions").await.body["sessions"][0]["userId"].as_str().expect("a user").to_owned();
    let over = (wallcrawler::clock::now_ms() + 39_900).to_string();
    crate::world::redis_command(&redis, &["HSET", &format!("user:{user}:rate"), "over", &over]).await;
    let answer = client.post("/sessions", &json!({})).await;
    assert_eq!((answer.status, rate(&answer)[1]), (StatusCode::CREATED, Some(0)));
    // What is refused for another reason does not count as created.
    let over = (wallcrawler::clock::now_ms() + 39_900).to_string();
    crate::world::redis_command(&redis, &["HSET", &format!("user:{user}:rate"), "over", &over]).await;
    let answer = client.post("/sessions", &json!({})).await;
    assert_eq!(answer.body["code"], "session_limit");
    let kept = crate::world::redis_command(&redis, &["HGET", &format!("user:{user}:rate"), "over"]).await;
    assert_eq!(kept.into_string().as_deref(), Some(over.as_str()));
    Contents::read(&redis).await.check();
}
