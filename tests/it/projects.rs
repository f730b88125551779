//! Projects: what their keys share, what nobody else sees of it, and how much of it there may be.

use axum::http::StatusCode;
use serde_json::{Value, json};
use wallcrawler::clock::now_ms;

use crate::audit::Contents;
use crate::keys::record;
use crate::round_trips::cost;
use crate::world::{Answer, World, redis_command};

/// Two keys of one project, which are of two users; and keys of the same users that are of another, or of none.
async fn world(project: &Value, vars: &[(&str, &str)]) -> World {
    let with = |key: &str, user: &str, project: Option<&Value>| {
        let mut says = project.cloned().unwrap_or_else(|| json!({}));
        says["userId"] = user.into();
        record(key, &says)
    };
    let mut shop = project.clone();
    shop["projectId"] = "shop".into();
    let keys = json!([
        with("alice-shop", "alice", Some(&shop)),
        with("bob-shop", "bob", Some(&json!({"projectId": "shop"}))),
        with("alice-lab", "alice", Some(&json!({"projectId": "lab"}))),
        with("alice", "alice", None),
        // A user that has the project's name.
        with("shop", "shop", None),
    ]);
    World::new(&[vars, &[("API_KEYS", keys.to_string().as_str())]].concat()).await
}

const STRANGERS: [&str; 3] = ["alice-lab", "alice", "shop"];

async fn create(world: &World, key: &str) -> Answer {
    world.client(key).post("/sessions", &json!({})).await
}

fn ids(answer: &Answer) -> Vec<&str> {
    let list = answer.body.get("sessions").unwrap_or(&answer.body).as_array().expect("a list");
    list.iter().map(|session| session["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn the_keys_of_a_project_share_its_sessions_and_nobody_else_finds_them() {
    let world = world(&json!({}), &[]).await;
    let made = create(&world, "alice-shop").await.body;
    let id = made["id"].as_str().expect("an id");
    assert_eq!(made["userId"], "alice", "who created it");
    let native = format!("/sessions/{id}");
    let v1 = format!("/v1{native}");
    let lists = ["/sessions", "/sessions?status=pending", "/v1/sessions", "/v1/sessions?status=PENDING"];
    let release = json!({"status": "REQUEST_RELEASE"});
    let start = json!({"browserbaseSessionID": id});
    for key in ["alice-shop", "bob-shop"] {
        let client = world.client(key);
        for path in [&native, &v1] {
            assert_eq!(client.get(path).await.body["id"], id, "{key} on {path}");
        }
        assert_eq!(client.post("/v1/sessions/start", &start).await.status, StatusCode::OK);
        assert_eq!(client.get(&v1).await.body["projectId"], "shop");
        for list in lists {
            assert_eq!(ids(&client.get(list).await), [id], "{key} on {list}");
        }
    }
    // Taken out, one by one: the comparison in `lifecycle::find`, the one in `end.lua`, and the one in `list.lua`.
    for key in STRANGERS {
        let client = world.client(key);
        for answer in [
            client.get(&native).await,
            client.delete(&native).await,
            client.get(&v1).await,
            client.post(&v1, &release).await,
            client.post(&format!("{v1}/end"), &json!({})).await,
            client.get(&format!("{v1}/debug")).await,
            client.post("/v1/sessions/start", &start).await,
        ] {
            assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("session_not_found")));
        }
        for list in lists {
            assert!(ids(&client.get(list).await).is_empty(), "{key} on {list}");
        }
    }
    let ended = world.client("bob-shop").delete(&native).await;
    assert_eq!((ended.status, &ended.body["status"]), (StatusCode::OK, &json!("ended")), "a colleague may end it");
    let others = create(&world, "alice").await.body;
    assert_eq!(ids(&world.client("alice").get("/sessions").await), [others["id"].as_str().expect("an id")]);
    Contents::read(&world.redis.client().await).await.check();
}

#[tokio::test]
async fn a_repeated_create_is_known_again_only_to_the_same_user_in_the_same_project() {
    let world = world(&json!({}), &[]).await;
    let keyed = async |key| world.client(key).with("idempotency-key", "order-17").post("/sessions", &json!({})).await;
    let again = async |key: &'static str, count: &'static str| {
        world.client(key).with("x-stainless-retry-count", count).post("/v1/sessions", &json!({})).await
    };
    let mut seen = Vec::new();
    for key in ["alice-shop", "bob-shop", "alice-lab", "alice"] {
        let first = keyed(key).await;
        assert_eq!(first.body["id"], keyed(key).await.body["id"], "{key}");
        seen.push(first.body["id"].clone());
    }
    for key in ["alice-shop", "bob-shop", "alice-lab", "alice"] {
        let first = again(key, "0").await;
        assert_eq!(first.body["id"], again(key, "1").await.body["id"], "{key}");
        seen.push(first.body["id"].clone());
    }
    seen.sort_by_key(Value::to_string);
    seen.dedup();
    // Taken out: the project in `account_of` (shared.lua).
    assert_eq!(seen.len(), 8, "each has its own");
    Contents::read(&world.redis.client().await).await.check();
}

fn refusal(answer: &Answer) -> (&str, [u64; 2]) {
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
    let header = |name: &str| answer.headers[name].to_str().expect("a text").parse::<u64>().expect("a number");
    assert_eq!(header("retry-after"), header("retry-after-ms").div_ceil(1_000));
    assert!(header("retry-after") > 0 && header("x-ratelimit-reset") >= header("retry-after"), "{answer:?}");
    let told = [header("x-ratelimit-limit"), header("x-ratelimit-remaining")];
    (answer.body["code"].as_str().expect("a code"), told)
}

#[tokio::test]
async fn a_project_has_as_many_sessions_as_it_may_whoever_of_it_creates_them() {
    let world = world(&json!({"projectMaxSessions": 3}), &[("MAX_SESSIONS_PER_USER", "4")]).await;
    for key in ["alice-shop", "bob-shop", "bob-shop"] {
        assert_eq!(create(&world, key).await.status, StatusCode::CREATED);
    }
    // Taken out: the line of `project_limit` in create.lua.
    for key in ["alice-shop", "bob-shop"] {
        assert_eq!(refusal(&create(&world, key).await), ("project_session_limit", [3, 0]));
    }
    // What others may is theirs.
    for key in ["alice-lab", "alice", "alice", "shop"] {
        assert_eq!(create(&world, key).await.status, StatusCode::CREATED, "{key}");
    }
    // Of a user all sessions count, whichever project's they are.
    assert_eq!(refusal(&create(&world, "alice-lab").await), ("session_limit", [4, 0]));
    let shop = world.client("bob-shop").get("/v1/projects/shop").await.body;
    assert_eq!((&shop["id"], &shop["concurrency"]), (&json!("shop"), &json!(3)));
    assert_eq!(world.client("alice").get("/v1/projects").await.body[0]["concurrency"], 4);

    // What ends makes room, whoever ends it and however.
    let listed = world.client("alice-shop").get("/sessions").await;
    let [first, second, third] = ids(&listed)[..] else { panic!("three") };
    world.client("alice-shop").delete(&format!("/sessions/{first}")).await;
    assert_eq!(create(&world, "bob-shop").await.status, StatusCode::CREATED);
    assert_eq!(refusal(&create(&world, "bob-shop").await).0, "project_session_limit");
    let redis = world.redis.client().await;
    for id in [second, third] {
        redis_command(&redis, &["HSET", &format!("session:{id}"), "waitUntil", "1"]).await;
        redis_command(&redis, &["ZADD", "session-deadlines", "1", id]).await;
    }
    wallcrawler::lifecycle::expire(&world.app).await.expect("redis answers");
    for key in ["alice-shop", "bob-shop"] {
        assert_eq!(create(&world, key).await.status, StatusCode::CREATED, "{key}");
    }
    assert_eq!(refusal(&create(&world, "bob-shop").await).0, "project_session_limit");
    Contents::read(&redis).await.check();
}

#[tokio::test]
async fn simultaneous_creates_of_a_project_never_get_past_its_limit() {
    let world = world(&json!({"projectMaxSessions": 5}), &[]).await;
    let creates = (0..30).map(async |number| create(&world, ["alice-shop", "bob-shop"][number % 2]).await.status);
    let answers = futures_util::future::join_all(creates).await;
    assert_eq!(answers.iter().filter(|status| **status == StatusCode::CREATED).count(), 5);
    Contents::read(&world.redis.client().await).await.check();
}

#[tokio::test]
async fn a_projects_creates_are_counted_together_and_the_tighter_limit_is_told() {
    let world = world(&json!({"projectCreatesPerMinute": 3, "createsPerMinute": 2}), &[]).await;
    let left = |answer: &Answer| {
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        ["x-ratelimit-limit", "x-ratelimit-remaining"]
            .map(|name| answer.headers[name].to_str().expect("a text").parse::<u64>().expect("a number"))
    };
    assert_eq!(left(&create(&world, "alice-shop").await), [2, 1], "of alice's less is left");
    assert_eq!(left(&create(&world, "bob-shop").await), [3, 1], "bob has none of his own");
    assert_eq!(left(&create(&world, "bob-shop").await), [3, 0]);
    // Taken out: `projects` from the limits that create.lua looks at.
    for key in ["alice-shop", "bob-shop"] {
        assert_eq!(refusal(&create(&world, key).await), ("project_create_rate_limit", [3, 0]));
    }
    // A refusal by one limit takes nothing of the other.
    let redis = world.redis.client().await;
    let over = (now_ms() + 39_900).to_string();
    redis_command(&redis, &["HSET", "project:shop:rate", "over", &over]).await;
    assert_eq!(left(&create(&world, "alice-shop").await), [2, 0]);
    redis_command(&redis, &["HSET", "project:shop:rate", "over", &over]).await;
    assert_eq!(refusal(&create(&world, "alice-shop").await).0, "create_rate_limit");
    let kept = redis_command(&redis, &["HGET", "project:shop:rate", "over"]).await;
    assert_eq!(kept.into_string().as_deref(), Some(over.as_str()));
    let ttl = redis_command(&redis, &["PTTL", "project:shop:rate"]).await.as_i64().expect("a number");
    assert!((1..=60_000).contains(&ttl), "it is forgotten when all is back: {ttl}");
    assert_eq!(create(&world, "alice-lab").await.status, StatusCode::CREATED);
    Contents::read(&redis).await.check();
}

#[tokio::test]
async fn a_create_with_every_limit_costs_one_round_trip() {
    let limits =
        json!({"projectMaxSessions": 50, "projectCreatesPerMinute": 50, "maxSessions": 50, "createsPerMinute": 50});
    let world = world(&limits, &[]).await;
    let redis = world.redis.client().await;
    create(&world, "alice-shop").await;
    let (trips, answer) = cost(&redis, create(&world, "alice-shop")).await;
    assert_eq!((answer.status, trips), (StatusCode::CREATED, 1));
}

#[tokio::test]
async fn what_a_project_has_used_is_the_same_whichever_of_its_keys_asks() {
    let world = world(&json!({}), &[]).await;
    let redis = world.redis.client().await;
    for (key, minutes) in [("alice-shop", 2), ("bob-shop", 3), ("alice", 7)] {
        let made = create(&world, key).await.body;
        world.container("ctr-a").claim("ctr-a", 1, &[]).await;
        let path = format!("/sessions/{}", made["id"].as_str().expect("an id"));
        // A little less than the minutes, for the moment until it ends.
        let claimed_at = (now_ms() - minutes * 60_000 + 20_000).to_string();
        redis_command(&redis, &["HSET", &path[1..].replace("sessions/", "session:"), "claimedAt", &claimed_at]).await;
        assert_eq!(world.client(key).delete(&path).await.status, StatusCode::OK);
    }
    for (key, project, minutes) in
        [("alice-shop", "shop", 5), ("bob-shop", "shop", 5), ("alice-lab", "lab", 0), ("alice", "alice", 7)]
    {
        let usage = world.client(key).get(&format!("/v1/projects/{project}/usage")).await;
        assert_eq!(usage.body["browserMinutes"], minutes, "{key}");
    }
    for key in STRANGERS {
        let asked = if key == "shop" { "lab" } else { "shop" };
        let answer = world.client(key).get(&format!("/v1/projects/{asked}/usage")).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("project_not_found")));
    }
    // A user that is called as the project is asked for itself.
    let own = world.client("shop").get("/v1/projects/shop/usage").await;
    assert_eq!((own.status, &own.body["browserMinutes"]), (StatusCode::OK, &json!(0)));
    Contents::read(&redis).await.check();
}
