//! The Browserbase API, as its clients see it: what is answered, and what is refused.

mod contexts;
mod extensions;
mod files;
mod logs;
mod repeats;

use axum::http::StatusCode;
use serde_json::{Value, json};
use wallcrawler::clock::{now_ms, parse_rfc3339};

use crate::audit::Contents;
use crate::round_trips::cost;
use crate::world::{World, claimed, redis_command};

const SECRET: &str = "0123456789abcdef";

async fn create(world: &World, body: &Value) -> Value {
    let answer = world.client("key-one").post("/v1/sessions", body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.body
}

fn id(session: &Value) -> &str {
    session["id"].as_str().expect("an id")
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(id).collect()
}

/// Fields that strict clients insist on, of the types they insist on; and nowhere `null`.
fn check_session(session: &Value) {
    for field in ["id", "projectId"] {
        assert!(session[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {session}");
    }
    for field in ["createdAt", "updatedAt", "startedAt", "expiresAt"] {
        assert!(session[field].as_str().and_then(parse_rfc3339).is_some(), "{field}: {session}");
    }
    assert!(session["keepAlive"].is_boolean() && session["proxyBytes"].is_u64(), "{session}");
    let known = ["us-west-2", "us-east-1", "eu-central-1", "ap-southeast-1"];
    assert!(known.contains(&session["region"].as_str().expect("a region")), "{session}");
    let fields = session.as_object().expect("an object");
    assert!(!fields.values().any(Value::is_null), "{session}");
    // What is ours alone would be one more thing that clients come to rely on.
    for ours in ["userId", "token", "containerId", "timeout", "endReason", "browserSettings"] {
        assert!(!fields.contains_key(ours), "{ours}: {session}");
    }
}

#[tokio::test]
async fn a_session_is_answered_as_strict_clients_want_it_from_its_first_moment_to_its_end() {
    let world = World::new(&[("AWS_REGION", "eu-west-1")]).await;
    let body = json!({
        "projectId": "one of another service", "timeout": 300.0, "keepAlive": true, "region": "us-east-1",
        "userMetadata": {"stagehand": "true"}, "extensionId": "", "proxies": false, "somethingNew": {"a": 1},
        "browserSettings": {
            "viewport": {"width": 1920.0, "height": 1080}, "blockAds": true, "solveCaptchas": false,
            "recordSession": true, "logSession": null, "os": "linux", "verified": false, "allowedDomains": [],
            "fingerprint": {"browsers": ["chrome"], "screen": {"maxWidth": 1}}, "context": null,
        },
    });
    let client = world.client("key-one");
    let created = create(&world, &body).await;
    check_session(&created);
    assert_eq!((&created["status"], &created["keepAlive"]), (&json!("PENDING"), &json!(true)));
    assert_eq!(created["region"], "eu-central-1", "where the service runs, as near as clients know it");
    assert_eq!(created["userMetadata"], json!({"stagehand": "true"}));
    let at = |session: &Value, field: &str| {
        session[field].as_str().and_then(parse_rfc3339).unwrap_or_else(|| panic!("{field}: {session}"))
    };
    assert_eq!(at(&created, "expiresAt") - at(&created, "createdAt"), 300_000);
    assert_eq!(at(&created, "startedAt"), at(&created, "createdAt"));
    let (key, url) = (created["signingKey"].as_str().expect("a key"), created["connectUrl"].as_str().expect("a URL"));
    assert_eq!(url, format!("ws://localhost/cdp?sessionId={}&token={key}", id(&created)));
    let selenium = created["seleniumRemoteUrl"].as_str().expect("a URL");
    let path = selenium.strip_prefix("http://localhost").expect("this service");
    assert_eq!(client.post(&format!("{path}/session"), &json!({})).await.body["code"], "not_available");

    assert_eq!(claimed(&world.container("ctr-a").claim("ctr-a", 1, &[]).await), [id(&created)]);
    let path = format!("/v1/sessions/{}", id(&created));
    let running = client.get(&path).await.body;
    check_session(&running);
    assert_eq!(running["status"], "RUNNING");
    assert!(running["connectUrl"].is_string() && running["signingKey"].is_string());
    assert!(at(&running, "startedAt") >= at(&running, "createdAt"));

    let release = json!({"status": "REQUEST_RELEASE", "projectId": "any"});
    let mut ended = Vec::new();
    for _ in 0..2 {
        let answer = client.post(&path, &release).await;
        assert_eq!(answer.status, StatusCode::OK, "however often it is said");
        ended.push(answer.body);
    }
    ended.push(client.get(&path).await.body);
    for session in &ended {
        check_session(session);
        assert_eq!((&session["status"], &session["endedAt"]), (&json!("COMPLETED"), &ended[0]["endedAt"]));
        assert_eq!((&session["startedAt"], session.get("connectUrl")), (&running["startedAt"], None));
        assert_eq!((session.get("signingKey"), session.get("seleniumRemoteUrl")), (None, None));
        assert_eq!(session["updatedAt"], session["endedAt"]);
    }
    Contents::read(&world.redis.client().await).await.check();
}

#[tokio::test]
async fn an_empty_body_is_a_session_with_the_defaults_and_one_of_either_api_is_one_of_the_other() {
    let world = World::new(&[]).await;
    let client = world.client("").with("x-bb-api-key", "key-one").with("content-type", "application/json");
    for body in ["", "{}", "{\n  \n}"] {
        let answer = client.send("POST", "/v1/sessions", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        check_session(&answer.body);
        let native = client.get(&format!("/sessions/{}", id(&answer.body))).await.body;
        assert_eq!((&native["timeout"], &native["keepAlive"]), (&json!(3_600_000), &json!(false)));
    }
    let native = client.create().await;
    assert_eq!(client.get(&format!("/v1/sessions/{native}")).await.body["status"], "PENDING");
    assert_eq!(client.get("/v1/sessions").await.body.as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn what_can_be_honoured_reaches_the_browser() {
    let world = World::new(&[]).await;
    let external = json!([{"type": "external", "server": "http://10.0.0.1:8080"}]);
    for (body, expected) in [
        (json!({"proxies": external}), json!({"proxy": {"server": "http://10.0.0.1:8080"}})),
        (json!({"proxies": [{"type": "none"}]}), json!({})),
        (json!({"proxies": []}), json!({})),
        (
            json!({"browserSettings": {"ignoreCertificateErrors": true, "args": ["--lang=de"]}}),
            json!({"ignoreCertificateErrors": true, "args": ["--lang=de", "--ignore-certificate-errors"]}),
        ),
    ] {
        let session = create(&world, &body).await;
        let answer = world.container("ctr-a").claim("ctr-a", 1, &[]).await;
        assert_eq!(answer["sessions"][0]["browserSettings"], expected, "{body}");
        world.client("key-one").delete(&format!("/sessions/{}", id(&session))).await;
        world.container("ctr-a").claim("ctr-a", 1, &[]).await;
    }
}

/// Taken out: `remove_secrets` in `create::browser_settings`, what `end_session` deletes.
#[tokio::test]
async fn credentials_of_a_proxy_get_to_the_container_and_nowhere_else() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let redis = world.redis.client().await;
    let server = "http://10.0.0.1:8080";
    let (name, word) = ("name-of-somebody", "word-of-somebody");
    let proxy = json!({"server": server, "username": name, "password": word});
    let external = json!({"type": "external", "server": server, "username": name, "password": word});
    for (path, body) in [
        ("/sessions", json!({"browserSettings": {"proxy": proxy}})),
        ("/v1/sessions", json!({"browserSettings": {"proxy": proxy}})),
        ("/v1/sessions", json!({"proxies": [external]})),
    ] {
        let created = client.post(path, &body).await;
        assert_eq!(created.status, StatusCode::CREATED, "{created:?}");
        let id = id(&created.body).to_owned();
        // To one container, and, as that is lost, to another.
        for container in ["ctr-a", "ctr-b"] {
            let claim = world.container(container).claim(container, 1, &[]).await;
            let claimed = &claim["sessions"][0];
            assert_eq!(claimed["browserSettings"], json!({"proxy": {"server": server}}), "{body}");
            assert_eq!(claimed["proxyCredentials"], json!({"username": name, "password": word}), "{body}");
            if container == "ctr-a" {
                let leaving = json!({
                    "containerId": container, "currentSessions": 0, "maxSessions": 1, "phase": "leaving", "waitSeconds": 0,
                });
                assert_eq!(world.container(container).post("/sessions/claim", &leaving).await.status, StatusCode::OK);
            }
        }
        let mut told = vec![created];
        for path in [&format!("/sessions/{id}"), &format!("/v1/sessions/{id}"), "/sessions", "/v1/sessions"] {
            told.push(client.get(path).await);
        }
        told.push(client.delete(&format!("/sessions/{id}")).await);
        told.push(client.get(&format!("/sessions/{id}")).await);
        let told = format!("{told:?}");
        assert!(told.contains(server) && !told.contains(name) && !told.contains(word), "{told}");
        let contents = Contents::read(&redis).await;
        contents.check();
        let kept = format!("{contents:?}");
        assert!(kept.contains(server) && !kept.contains(name) && !kept.contains(word), "{kept}");
        world.container("ctr-b").claim("ctr-b", 1, &[]).await;
    }
    // With another password it is another request.
    let keyed = world.client("key-one").with("idempotency-key", "same").with("content-type", "application/json");
    let mut statuses = vec![];
    for word in [word, word, "another word"] {
        let body = json!({"browserSettings": {"proxy": {"server": server, "username": name, "password": word}}});
        statuses.push(keyed.send("POST", "/sessions", body.to_string()).await.status);
    }
    assert_eq!(statuses, [StatusCode::CREATED, StatusCode::CREATED, StatusCode::CONFLICT]);
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_the_fields_name_and_changes_nothing() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let external = |more: Value| {
        let mut proxy = json!({"type": "external", "server": "http://h:1"});
        proxy.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"proxies": [proxy]})
    };
    for (body, field, code) in [
        (json!({"timeout": 59}), "timeout", "invalid_request"),
        (json!({"timeout": 21_601}), "timeout", "invalid_request"),
        (json!({"timeout": 60.5}), "timeout", "invalid_request"),
        (json!({"timeout": "hunter2"}), "timeout", "invalid_request"),
        (json!({"keepAlive": "hunter2"}), "keepAlive", "invalid_request"),
        (json!({"projectId": 7}), "projectId", "invalid_request"),
        (json!({"region": "hunter2"}), "region", "invalid_request"),
        (json!({"userMetadata": ["hunter2"]}), "userMetadata", "invalid_request"),
        (json!({"userMetadata": {"a": "x".repeat(5_000)}}), "userMetadata", "invalid_request"),
        (json!({"browserSettings": 1}), "browserSettings", "invalid_request"),
        (
            json!({"browserSettings": {"viewport": {"width": 1.5, "height": 1}}}),
            "browserSettings.viewport.width",
            "invalid_request",
        ),
        (json!({"browserSettings": {"args": ["--no-sandbox"]}}), "browserSettings.args[0]", "invalid_request"),
        (
            json!({"browserSettings": {"ignoreCertificateErrors": "hunter2"}}),
            "browserSettings.ignoreCertificateErrors",
            "invalid_request",
        ),
        (
            json!({"browserSettings": {"context": {"id": "c", "persist": true}}}),
            "browserSettings.context.id",
            "invalid_request",
        ),
        (
            json!({"browserSettings": {"allowedDomains": ["example.com"]}}),
            "browserSettings.allowedDomains",
            "not_available",
        ),
        (json!({"extensionId": "e"}), "extensionId", "extension_not_found"),
        (json!({"proxySettings": {"caCertificates": ["c"]}}), "proxySettings.caCertificates", "not_available"),
        (json!({"proxies": true}), "proxies", "not_available"),
        (json!({"proxies": "hunter2"}), "proxies", "invalid_request"),
        (json!({"proxies": [{"type": "browserbase"}]}), "proxies[0].type", "not_available"),
        (json!({"proxies": [{"type": "hunter2"}]}), "proxies[0].type", "invalid_request"),
        (json!({"proxies": [{"type": "none"}, {"type": "none"}]}), "proxies[1]", "not_available"),
        (json!({"proxies": [{"type": "external"}]}), "proxies[0].server", "invalid_request"),
        (external(json!({"server": "hunter2"})), "proxies[0].server", "invalid_request"),
        (external(json!({"server": "http://hunter2:hunter2@h:1"})), "proxies[0].server", "invalid_request"),
        (external(json!({"password": "hunter2"})), "proxies[0].password", "invalid_request"),
        (external(json!({"username": "hunter2\n"})), "proxies[0].username", "invalid_request"),
        (external(json!({"server": "socks4://h:1", "username": "hunter2"})), "proxies[0].username", "invalid_request"),
        (external(json!({"domainPattern": "a"})), "proxies[0].domainPattern", "not_available"),
    ] {
        let start = json!({"browserbaseSessionCreateParams": body});
        for (path, body, prefix) in
            [("/v1/sessions", &body, ""), ("/v1/sessions/start", &start, "browserbaseSessionCreateParams.")]
        {
            let answer = client.post(path, body).await;
            let what = body.to_string().chars().take(90).collect::<String>();
            assert_eq!((answer.status, &answer.body["code"]), (StatusCode::BAD_REQUEST, &json!(code)), "{what}");
            let message = answer.body["message"].as_str().expect("a message");
            let message = message.strip_prefix(prefix).unwrap_or(message);
            assert!(message.starts_with(field) && !message.contains("hunter2"), "{what}: {message}");
        }
    }
    assert_eq!(client.get("/v1/sessions").await.body, json!([]));
    let kept = id(&create(&world, &json!({})).await).to_owned();
    for (body, field) in [("", "status"), ("{}", "status"), (r#"{"status": "hunter2"}"#, "status")] {
        let answer = client.send("POST", &format!("/v1/sessions/{kept}"), body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.body["message"].as_str().is_some_and(|m| m.contains(field) && !m.contains("hunter2")), "{body}");
    }
    for query in ["status=hunter2", "status=running", "q=", "q=hunter2", "q=user_metadata%5B%27a%27%5D"] {
        let answer = client.get(&format!("/v1/sessions?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        let field = query.split('=').next().expect("a name");
        let message = answer.body["message"].as_str().expect("a message");
        assert!(message.starts_with(field) && !message.contains("hunter2"), "{query}: {message}");
    }
    assert_eq!(client.get(&format!("/v1/sessions/{kept}")).await.body["status"], "PENDING");
}

#[tokio::test]
async fn lists_are_whole_newest_first_and_found_by_status_and_metadata() {
    let world = World::new(&[("NEVER_CONNECTED_SECONDS", "300")]).await;
    let client = world.client("key-one");
    let mut made = Vec::new();
    for number in 0..6 {
        let metadata = json!({"team": {"name": if number % 2 == 0 { "even" } else { "odd" }}, "number": number});
        made.push(id(&create(&world, &json!({"userMetadata": metadata, "timeout": 60 + number})).await).to_owned());
    }
    let container = world.container("ctr-a");
    container.claim("ctr-a", 5, &[]).await;
    client.post(&format!("/v1/sessions/{}", made[0]), &json!({"status": "REQUEST_RELEASE"})).await;
    container.post(&format!("/sessions/{}/ended", made[1]), &json!({"lease": 1, "reason": "browser_crashed"})).await;
    for id in &made[2..5] {
        container.post(&format!("/sessions/{id}/ready"), &json!({"lease": 1, "cdpSecret": SECRET})).await;
    }
    // As if it had been a minute later: that one's time is up.
    let expired = world.app.store.expire(&world.app.limits, 1, now_ms() + 63_000).await.expect("redis answers");
    assert_eq!(expired.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), [&made[2]]);
    for (query, expected) in [
        ("", made.iter().rev().map(String::as_str).collect::<Vec<_>>()),
        ("?status=COMPLETED", vec![&made[0]]),
        ("?status=ERROR", vec![&made[1]]),
        ("?status=TIMED_OUT", vec![&made[2]]),
        ("?status=PENDING", vec![&made[5]]),
        ("?status=RUNNING", vec![&made[4], &made[3]]),
        ("?q=user_metadata%5B%27team%27%5D%5B%27name%27%5D%3A%27odd%27", vec![&made[5], &made[3], &made[1]]),
        ("?status=COMPLETED&q=user_metadata%5B%27team%27%5D%5B%27name%27%5D%3A%27even%27", vec![&made[0]]),
        ("?status=COMPLETED&q=user_metadata%5B%27team%27%5D%5B%27name%27%5D%3A%27odd%27", vec![]),
        ("?q=user_metadata%5B%27team%27%5D%3A%27odd%27", vec![]),
        ("?q=user_metadata%5B%27number%27%5D%3A%271%27", vec![]),
        ("?q=user_metadata%5B%27number%27%5D%5B%27deeper%27%5D%3A%271%27", vec![]),
    ] {
        let answer = client.get(&format!("/v1/sessions{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}: {answer:?}");
        // Of the same millisecond any order is right.
        let (mut seen, mut expected) = (ids(&answer.body), expected);
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected, "{query}");
        for session in answer.body.as_array().expect("a list") {
            check_session(session);
            assert!(session.get("connectUrl").is_none(), "a list opens nothing");
        }
    }
    // More than one page of them.
    let native = world.client("key-two");
    futures_util::future::join_all((0..230).map(|_| native.create())).await;
    assert_eq!(native.get("/v1/sessions").await.body.as_array().map(Vec::len), Some(230));
}

#[tokio::test]
async fn nobody_sees_ends_or_repeats_the_session_of_another() {
    let world = World::new(&[]).await;
    let session = create(&world, &json!({})).await;
    let (path, other) = (format!("/v1/sessions/{}", id(&session)), world.client("key-two"));
    let release = json!({"status": "REQUEST_RELEASE"});
    for answer in [
        other.get(&path).await,
        other.post(&path, &release).await,
        other.post(&format!("{path}/end"), &json!({})).await,
        other.post("/v1/sessions/start", &json!({"browserbaseSessionID": id(&session)})).await,
        other.get("/v1/sessions/ses_00000000000000000000000000").await,
        other.get("/v1/sessions/%2e%2e").await,
    ] {
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("session_not_found")));
    }
    assert_eq!(other.get("/v1/sessions").await.body, json!([]));
    let project = format!("/v1/projects/{}", session["projectId"].as_str().expect("a project"));
    for path in [project.clone(), format!("{project}/usage"), "/v1/projects/any".to_owned()] {
        let answer = other.get(&path).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("project_not_found")));
    }
    assert_eq!(world.client("key-one").get(&path).await.body["status"], "PENDING");
    for path in ["/v1/sessions", "/v1/projects", "/v1/contexts/ctx_1", "/v1/sessions/x/logs"] {
        assert_eq!(world.client("no-key").get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn stagehand_is_given_a_session_and_told_that_the_hosted_api_is_not_there() {
    let world = World::new(&[]).await;
    let client = world.client("").with("x-bb-api-key", "key-one").with("x-bb-session-id", "undefined");
    let body = json!({
        "modelName": "openai/gpt-5", "verbose": 1, "selfHeal": true,
        "browserbaseSessionCreateParams": {
            "projectId": "p", "timeout": 120, "browserSettings": {"viewport": {"width": 1288, "height": 711}},
            "userMetadata": {"stagehand": "true"},
        },
    });
    let started = client.post("/v1/sessions/start", &body).await;
    assert_eq!(started.status, StatusCode::OK);
    let session = started.body["data"]["sessionId"].as_str().expect("an id").to_owned();
    assert_eq!(started.body, json!({"success": true, "data": {"sessionId": session, "available": false}}));
    let found = client.get(&format!("/v1/sessions/{session}")).await.body;
    check_session(&found);
    assert_eq!((&found["status"], &found["userMetadata"]["stagehand"]), (&json!("PENDING"), &json!("true")));
    assert_eq!(client.get(&format!("/sessions/{session}")).await.body["timeout"], 120_000);

    let resume = json!({"modelName": "m", "browserbaseSessionID": session});
    let resumed = client.post("/v1/sessions/start", &resume).await;
    assert_eq!((resumed.status, &resumed.body["data"]["sessionId"]), (StatusCode::OK, &json!(session)));
    assert_eq!(client.get("/v1/sessions").await.body.as_array().map(Vec::len), Some(1), "none was made for that");
    for _ in 0..2 {
        let ended = client.send("POST", &format!("/v1/sessions/{session}/end"), "").await;
        assert_eq!((ended.status, ended.body), (StatusCode::OK, json!({"success": true})));
    }
    assert_eq!(client.get(&format!("/v1/sessions/{session}")).await.body["status"], "COMPLETED");
    assert_eq!(client.post("/v1/sessions/start", &resume).await.status, StatusCode::NOT_FOUND, "it has ended");
}

#[tokio::test]
async fn a_project_says_what_its_sessions_used() {
    let record = |key: &str, project: &str| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
        json!({"sha256": wallcrawler::hex::encode(hash.as_ref()), "userId": "alice", "projectId": project, "maxSessions": 7})
    };
    let keys = json!([record("key-one", "shop"), record("key-two", "lab")]).to_string();
    let world = World::new(&[("API_KEYS", &keys)]).await;
    let client = world.client("key-one");
    let projects = client.get("/v1/projects").await.body;
    let project = client.get("/v1/projects/shop").await.body;
    assert_eq!(projects, json!([project]));
    assert_eq!((&project["id"], &project["ownerId"]), (&json!("shop"), &json!("alice")));
    assert_eq!((&project["defaultTimeout"], &project["concurrency"]), (&json!(3_600), &json!(7)));
    assert!(["createdAt", "updatedAt"].iter().all(|at| project[*at].as_str().and_then(parse_rfc3339).is_some()));
    assert!(project["name"].is_string());

    let usage = async |key: &'static str, project: &str| {
        world.client(key).get(&format!("/v1/projects/{project}/usage")).await.body
    };
    assert_eq!(usage("key-one", "shop").await, json!({"browserMinutes": 0, "proxyBytes": 0}));
    let session = create(&world, &json!({"timeout": 600})).await;
    assert_eq!(session["projectId"], "shop");
    let unserved = create(&world, &json!({"timeout": 60})).await;
    world.container("ctr-a").claim("ctr-a", 1, &[]).await;
    assert_eq!(usage("key-one", "shop").await["browserMinutes"], 0, "it counts when it has ended");
    let redis = world.redis.client().await;
    let key = format!("session:{}", id(&session));
    redis_command(&redis, &["HSET", &key, "claimedAt", &(now_ms() - 150_000).to_string()]).await;
    for session in [&session, &unserved] {
        client.delete(&format!("/sessions/{}", id(session))).await;
    }
    assert_eq!(usage("key-one", "shop").await["browserMinutes"], 3, "each minute that was begun");
    client.delete(&format!("/sessions/{}", id(&session))).await;
    assert_eq!(usage("key-one", "shop").await["browserMinutes"], 3, "once");
    assert_eq!(usage("key-two", "lab").await["browserMinutes"], 0, "not another project's");
    Contents::read(&redis).await.check();
}

/// Taken out: that what is said twice counts once, and whose session it must be.
#[tokio::test]
async fn what_goes_through_proxies_is_counted_as_containers_tell_it() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let project = client.get("/v1/projects").await.body[0]["id"].as_str().expect("an id").to_owned();
    let session = create(&world, &json!({})).await;
    let id = id(&session);
    let claim = async |container: &str, held: &[&str], bytes: Value| {
        let request = json!({
            "containerId": container, "currentSessions": held.len(), "maxSessions": 1, "waitSeconds": 0,
            "sessionIds": held, "proxyBytes": bytes,
        });
        world.container(container).post("/sessions/claim", &request).await
    };
    let told = async || {
        let used = client.get(&format!("/v1/projects/{project}/usage")).await.body["proxyBytes"].clone();
        let one = client.get(&format!("/v1/sessions/{id}")).await.body["proxyBytes"].clone();
        assert_eq!(client.get("/v1/sessions").await.body[0]["proxyBytes"], one);
        [one, used]
    };
    claim("ctr-a", &[], json!({})).await;
    assert_eq!(told().await, [json!(0), json!(0)]);
    for bytes in [7_000_000_000_000_000u64, 7_000_000_000_000_001, 7_000_000_000_000_001, 5] {
        assert_eq!(claim("ctr-a", &[id], json!({id: bytes})).await.status, StatusCode::OK);
    }
    let bytes = json!(7_000_000_000_000_001u64);
    assert_eq!(told().await, [bytes.clone(), bytes.clone()]);
    let elsewhere = json!({id: 7_000_000_000_000_009u64, "ses_of_nobody": 5});
    assert_eq!(claim("ctr-b", &[], elsewhere).await.status, StatusCode::OK);
    assert_eq!(told().await, [bytes.clone(), bytes]);
    client.delete(&format!("/sessions/{id}")).await;
    let (cost, answer) =
        cost(&world.redis.client().await, claim("ctr-a", &[], json!({id: 7_000_000_000_000_003u64}))).await;
    assert_eq!((cost, answer.status), (1, StatusCode::OK));
    let last = json!(7_000_000_000_000_003u64);
    assert_eq!(told().await, [last.clone(), last]);
    for wrong in [json!({id: -1}), json!({id: 1.5}), json!({id: u64::MAX}), json!({"a b": 1}), json!([])] {
        assert_eq!(claim("ctr-a", &[], wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    Contents::read(&world.redis.client().await).await.check();
}

#[tokio::test]
async fn what_is_not_there_says_so_once_and_what_never_was_is_404() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let session = create(&world, &json!({})).await;
    let mut paths: Vec<String> = ["recording", "recording/downloads", "replays", "replays/0"]
        .map(|what| format!("/v1/sessions/{}/{what}", id(&session)))
        .into();
    paths.extend(["fetch", "search", "agents/runs"].map(|what| format!("/v1/{what}")));
    for path in &paths {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let answer = client.send(method, path, "").await;
            assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{method} {path}");
            assert_eq!((&answer.body["code"], &answer.body["statusCode"]), (&json!("not_available"), &json!(501)));
            assert_eq!(answer.headers["x-should-retry"], "false", "{path}");
        }
    }
    for path in ["/v1", "/v1/", "/v1/nothing", "/v1/sessions/ses_1/fly", "/v1/sessions/"] {
        assert_eq!(client.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(client.send("PATCH", "/v1/sessions", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn every_move_costs_one_round_trip() {
    let world = World::new(&[]).await;
    let redis = world.redis.client().await;
    for counted in [false, true] {
        let (create, first) = cost(&redis, repeats::attempt(&world, "key-one", 0, &json!({}))).await;
        let (again, second) = cost(&redis, repeats::attempt(&world, "key-one", 1, &json!({}))).await;
        assert_eq!(id(&first.body), id(&second.body));
        let (client, path) = (world.client("key-one"), format!("/v1/sessions/{}", id(&first.body)));
        let (get, _) = cost(&redis, client.get(&path)).await;
        let (list, _) = cost(&redis, client.get("/v1/sessions?status=PENDING")).await;
        let (release, answer) = cost(&redis, client.post(&path, &json!({"status": "REQUEST_RELEASE"}))).await;
        assert_eq!(answer.body["status"], "COMPLETED");
        let project = first.body["projectId"].as_str().expect("a project");
        let (usage, _) = cost(&redis, client.get(&format!("/v1/projects/{project}/usage"))).await;
        if counted {
            assert_eq!([create, again, get, list, release, usage], [1; 6], "create, again, get, list, release, usage");
        }
    }
}
