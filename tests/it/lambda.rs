//! The Lambda home: every event AWS sends, through the adapter, with the answer that AWS expects.

pub mod bootstrap;
mod relay;
mod websocket;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use lambda_http::lambda_runtime::{Context, Diagnostic};
use lambda_http::request::LambdaRequest;
use lambda_http::{Adapter, LambdaEvent, Service as _};
use serde_json::{Value, json};
use wallcrawler::clock::now_ms;
use wallcrawler::lambda;

use crate::audit::Contents;
use crate::world::{Redis, config, container_token};

pub const HTTP_API: &str = include_str!("events/http_api.json");
const HTTP_API_STAGE: &str = include_str!("events/http_api_stage.json");
const REST_API: &str = include_str!("events/rest_api.json");
const LOAD_BALANCER: &str = include_str!("events/load_balancer.json");
const FUNCTION_URL: &str = include_str!("events/function_url.json");
pub const SCHEDULE: &str = include_str!("events/schedule.json");
const TASK_STOPPED: &str = include_str!("events/task_stopped.json");
const WEBSOCKET_CONNECT: &str = include_str!("events/websocket_connect.json");
const WEBSOCKET_MESSAGE: &str = include_str!("events/websocket_message.json");
const WEBSOCKET_DISCONNECT: &str = include_str!("events/websocket_disconnect.json");

pub fn event(text: &str) -> Value {
    serde_json::from_str(text).expect("an event")
}

/// A request as an HTTP API sends it.
fn http(method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Value {
    let mut event = event(HTTP_API);
    event["requestContext"]["http"]["method"] = json!(method);
    event["requestContext"]["http"]["path"] = json!(path);
    event["rawPath"] = json!(path);
    let all = event["headers"].as_object_mut().expect("headers");
    all.remove("content-length");
    all.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
    event["body"] = if body.is_null() { Value::Null } else { json!(body.to_string()) };
    event
}

fn claim(container: &str, wait_seconds: u64) -> Value {
    let token = format!("Bearer {}", container_token(container));
    let body = json!({
        "containerId": container, "currentSessions": 0, "maxSessions": 2, "address": "127.0.0.1:9",
        "waitSeconds": wait_seconds,
    });
    http("POST", "/sessions/claim", &[("authorization", &token)], &body)
}

/// The Lambda home in this process, on a Redis of its own.
struct Home {
    app: wallcrawler::app::App,
    redis: Redis,
}

impl Home {
    async fn new(vars: &[(&str, &str)]) -> Self {
        let redis = Redis::start();
        let app = lambda::boot(config(&redis, vars)).await.expect("boots");
        Self { app, redis }
    }

    /// What the function answers: to the service that invoked it, in that service's own form.
    async fn invoke_within(&self, event: &Value, deadline_ms: u64) -> Result<Value, Diagnostic> {
        let request: LambdaRequest = serde_json::from_str(&event.to_string()).expect("anything is taken");
        let mut context = Context::default();
        context.deadline = deadline_ms;
        let answered = Adapter::from(lambda::service(self.app.clone())).call(LambdaEvent::new(request, context)).await;
        Ok(serde_json::to_value(answered.map_err(Diagnostic::from)?).expect("JSON"))
    }

    async fn invoke(&self, event: &Value) -> Result<Value, Diagnostic> {
        self.invoke_within(event, 0).await
    }

    async fn contents(&self) -> Contents {
        Contents::read(&self.redis.client().await).await
    }
}

fn body(answer: &Value) -> Value {
    assert_eq!(answer["isBase64Encoded"], false, "{answer}");
    serde_json::from_str(answer["body"].as_str().expect("a text")).expect("JSON")
}

#[tokio::test]
async fn an_http_api_is_answered_in_its_form() {
    let home = Home::new(&[]).await;
    let answer = home.invoke(&event(HTTP_API)).await.expect("an answer");
    assert_eq!(answer["statusCode"], 201, "{answer}");
    assert_eq!(answer["headers"]["content-type"], "application/json");
    assert_eq!(answer["headers"]["x-request-id"], "UkZ3ThVGliAEJ0g=", "the gateway's id, as the client sent none");
    assert_eq!(answer["cookies"], json!([]));
    let session = body(&answer);
    assert_eq!((&session["timeout"], &session["userMetadata"]["name"]), (&json!(300_000), &json!("Grüße")));
    let url = session["connectUrl"].as_str().expect("a url");
    assert!(url.starts_with("wss://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/cdp?sessionId="), "{url}");
}

#[tokio::test]
async fn the_host_is_taken_from_the_context_if_no_header_names_it() {
    let home = Home::new(&[]).await;
    let mut request = event(HTTP_API);
    request["headers"].as_object_mut().expect("headers").remove("host");
    request["requestContext"]["domainName"] = json!("from-context.example.com");
    let answer = home.invoke(&request).await.expect("an answer");
    let session = body(&answer);
    let url = session["connectUrl"].as_str().expect("a url");
    assert!(url.starts_with("wss://from-context.example.com/cdp?"), "{url}");
}

#[tokio::test]
async fn a_named_stage_is_taken_from_the_path_and_nothing_else_is() {
    let home = Home::new(&[]).await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    let answer = home.invoke(&event(HTTP_API_STAGE)).await.expect("an answer");
    assert_eq!(answer["statusCode"], 200, "{answer}");
    assert_eq!(body(&answer)["sessions"].as_array().map(Vec::len), Some(1), "the query arrived: {answer}");
    for (path, stage, status) in [
        ("/prod/sessions", "prod", 200),
        ("/sessions", "prod", 200),
        ("/prod/prod/sessions", "prod", 404),
        ("/production/sessions", "prod", 404),
        ("/prod/sessions", "$default", 404),
        ("/prod/sessions", "staging", 404),
        ("/sessions/sessions", "sessions", 200),
    ] {
        let mut request = event(HTTP_API_STAGE);
        request["rawPath"] = json!(path);
        request["requestContext"]["http"]["path"] = json!(path);
        request["requestContext"]["stage"] = json!(stage);
        let answer = home.invoke(&request).await.expect("an answer");
        assert_eq!(answer["statusCode"], status, "{path} in {stage}: {answer}");
    }
}

#[tokio::test]
async fn a_rest_api_is_answered_in_its_form_and_its_stage_is_no_part_of_the_path() {
    let home = Home::new(&[]).await;
    let answer = home.invoke(&event(REST_API)).await.expect("an answer");
    assert_eq!(answer["statusCode"], 201, "{answer}");
    assert_eq!(answer["headers"], json!({}), "they would be sent twice");
    assert_eq!(answer["multiValueHeaders"]["content-type"], json!(["application/json"]));
    assert_eq!(answer["multiValueHeaders"]["x-request-id"], json!(["5f0c9d52-7d0e-4f6e-9a55-3f5b7f1f2a11"]));
    let session = body(&answer);
    assert_eq!((&session["timeout"], &session["userMetadata"]["name"]), (&json!(420_000), &json!("Grüße")), "base64");
    let id = session["id"].as_str().expect("an id");
    // The path without its stage, beside which the context has it with its stage; and one that has it itself, as
    // an HTTP API of the older form does.
    for (path, context_path, stage, status) in [
        (format!("/sessions/{id}"), format!("/prod/sessions/{id}"), "prod", 200),
        (format!("/prod/sessions/{id}"), format!("/prod/sessions/{id}"), "prod", 200),
        (format!("/sessions/{id}"), format!("/sessions/sessions/{id}"), "sessions", 200),
        (format!("/prod/sessions/{id}"), format!("/prod/prod/sessions/{id}"), "prod", 404),
    ] {
        let mut request = event(REST_API);
        (request["httpMethod"], request["requestContext"]["httpMethod"]) = (json!("GET"), json!("GET"));
        (request["path"], request["requestContext"]["path"]) = (json!(path), json!(context_path));
        request["requestContext"]["stage"] = json!(stage);
        (request["body"], request["isBase64Encoded"]) = (Value::Null, json!(false));
        let answer = home.invoke(&request).await.expect("an answer");
        assert_eq!(answer["statusCode"], status, "{path} in {stage}: {answer}");
    }
}

#[tokio::test]
async fn a_load_balancer_is_answered_in_its_form() {
    let home = Home::new(&[]).await;
    for _ in 0..3 {
        home.invoke(&event(HTTP_API)).await.expect("an answer");
    }
    let answer = home.invoke(&event(LOAD_BALANCER)).await.expect("an answer");
    assert_eq!((&answer["statusCode"], &answer["statusDescription"]), (&json!(200), &json!("200 OK")), "{answer}");
    assert_eq!(answer["headers"]["content-type"], "application/json");
    assert_eq!(answer["multiValueHeaders"]["content-type"], json!(["application/json"]));
    let sessions = body(&answer)["sessions"].clone();
    assert_eq!(sessions.as_array().map(Vec::len), Some(2), "the query arrived: {answer}");
    let url = sessions[0]["connectUrl"].as_str().expect("a url");
    assert!(url.starts_with("ws://wallcrawler-1234567890.eu-central-1.elb.amazonaws.com/cdp?"), "{url}");
}

#[tokio::test]
async fn a_function_url_is_answered_in_its_form() {
    let home = Home::new(&[]).await;
    let answer = home.invoke(&event(FUNCTION_URL)).await.expect("an answer");
    assert_eq!(answer["statusCode"], 201, "{answer}");
    let url = body(&answer)["connectUrl"].as_str().expect("a url").to_owned();
    assert!(url.starts_with("wss://s1t2u3v4w5x6y7z8a9b0.lambda-url.eu-central-1.on.aws/cdp?"), "{url}");
}

#[tokio::test]
async fn refusals_come_as_they_come_everywhere() {
    let home = Home::new(&[("MAX_PENDING_SESSIONS", "1")]).await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    let full = home.invoke(&event(HTTP_API)).await.expect("an answer");
    assert_eq!((full["statusCode"].clone(), full["headers"]["retry-after"].clone()), (json!(503), json!("5")));
    let too_large = json!({"userMetadata": {"x": "x".repeat(1024 * 1024)}});
    for (method, path, headers, sent, status, code) in [
        ("GET", "/nowhere", &[][..], Value::Null, 404, "route_not_found"),
        ("GET", "/a b/%E4", &[][..], Value::Null, 404, "route_not_found"),
        ("PUT", "/sessions", &[][..], Value::Null, 405, "method_not_allowed"),
        ("GET", "/sessions", &[("x-api-key", "nobody's")][..], Value::Null, 401, "invalid_api_key"),
        ("POST", "/sessions", &[][..], too_large, 413, "body_too_large"),
    ] {
        let answer = home.invoke(&http(method, path, headers, &sent)).await.expect("an answer");
        assert_eq!(answer["statusCode"], status, "{method} {path}: {answer}");
        assert_eq!(body(&answer)["code"], code);
    }
    let named = http("GET", "/sessions", &[("x-request-id", "my-own-id")], &Value::Null);
    let answer = home.invoke(&named).await.expect("an answer");
    assert_eq!(answer["headers"]["x-request-id"], "my-own-id");
}

#[tokio::test]
async fn what_only_aws_may_tell_cannot_be_told_over_http() {
    let home = Home::new(&[]).await;
    home.invoke(&claim("ctr-a", 0)).await.expect("an answer");
    for path in ["/events", "/", "/prod", "/$connect", "/$default", "/$disconnect"] {
        for told in [SCHEDULE, TASK_STOPPED, WEBSOCKET_CONNECT, WEBSOCKET_MESSAGE, WEBSOCKET_DISCONNECT] {
            for method in ["POST", "GET"] {
                let answer = home.invoke(&http(method, path, &[], &event(told))).await.expect("an answer");
                assert_eq!(answer["statusCode"], 404, "{method} {path}: {answer}");
            }
        }
    }
    let contents = home.contents().await;
    assert!(contents.hashes.contains_key("container:ctr-a"), "nobody has lost it");
    assert!(!contents.hashes["fleet"].contains_key("lookedAt"), "nobody has looked");
}

#[tokio::test]
async fn the_schedule_looks_at_the_fleet() {
    let home = Home::new(&[("QUEUE_TIMEOUT_SECONDS", "0.05")]).await;
    let session = body(&home.invoke(&event(HTTP_API)).await.expect("an answer"));
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut by_scheduler = event(SCHEDULE);
    by_scheduler["source"] = json!("aws.scheduler");
    for schedule in [event(SCHEDULE), by_scheduler] {
        assert_eq!(home.invoke(&schedule).await.expect("done"), json!({"ok": true, "looks": 1}));
    }
    let path = format!("/sessions/{}", session["id"].as_str().expect("an id"));
    let session = body(&home.invoke(&http("GET", &path, &[], &Value::Null)).await.expect("an answer"));
    assert_eq!((&session["status"], &session["endReason"]), (&json!("ended"), &json!("queue_timeout")));
}

/// Looks a minute apart see nothing but old heartbeats.
#[tokio::test]
async fn a_silent_container_is_watched_until_it_is_lost_if_the_time_suffices() {
    let home = Home::new(&[("HEARTBEAT_SECONDS", "1")]).await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    let claimed = body(&home.invoke(&claim("ctr-a", 0)).await.expect("an answer"));
    assert_eq!(claimed["claimedCount"], 1);
    // Nobody has looked for a minute, and as long has the container been silent.
    let redis = home.redis.client().await;
    let past = (now_ms() - 60_000).to_string();
    crate::world::redis_command(&redis, &["ZADD", "containers", &past, "ctr-a"]).await;
    crate::world::redis_command(&redis, &["HSET", "container:ctr-a", "lastHeartbeat", &past]).await;

    let hurried = home.invoke(&event(SCHEDULE)).await.expect("done");
    assert_eq!(hurried, json!({"ok": true, "looks": 1, "undecided": true}));
    assert!(home.contents().await.hashes.contains_key("container:ctr-a"));

    let done = home.invoke_within(&event(SCHEDULE), now_ms() + 20_000).await.expect("done");
    assert_eq!(done["ok"], true);
    assert!(
        done["looks"].as_u64().is_some_and(|looks| (2..=6).contains(&looks)) && done.get("undecided").is_none(),
        "{done}"
    );
    let contents = home.contents().await;
    assert!(!contents.hashes.contains_key("container:ctr-a"), "it is lost");
    assert_eq!(contents.queue().len(), 1, "its session waits for another");
    contents.check();
}

#[tokio::test]
async fn a_task_that_stopped_is_a_container_lost_and_its_session_waits_again() {
    let home = Home::new(&[]).await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    home.invoke(&claim("ctr-a", 0)).await.expect("an answer");
    let mut running = event(TASK_STOPPED);
    running["detail"]["lastStatus"] = json!("RUNNING");
    running["detail"]["desiredStatus"] = json!("RUNNING");
    let mut of_others = event(TASK_STOPPED);
    of_others["detail"]["overrides"] = json!({"containerOverrides": [{"name": "proxy"}]});
    for harmless in [running, of_others] {
        let answer = home.invoke(&harmless).await.expect("done");
        assert!(answer["ok"] == true && answer["ignored"].is_string(), "{answer}");
    }
    assert!(home.contents().await.hashes.contains_key("container:ctr-a"));
    // However often it is told.
    for _ in 0..2 {
        let answer = home.invoke(&event(TASK_STOPPED)).await.expect("done");
        assert!(
            answer["ok"] == true && (answer["containerId"] == "ctr-a" || answer["ignored"].is_string()),
            "{answer}"
        );
        let contents = home.contents().await;
        assert!(contents.hashes["fleet"].contains_key("lookedAt"), "and the fleet has been looked at");
        assert!(!contents.hashes.contains_key("container:ctr-a"));
        assert_eq!(contents.queue().len(), 1);
        contents.check();
    }
}

#[tokio::test]
async fn a_task_of_a_service_that_stopped_is_a_container_lost_as_well() {
    let home = Home::new(&[]).await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    let mut stopped = event(TASK_STOPPED);
    stopped["detail"]["overrides"] = json!({"containerOverrides": [{"name": "browser"}]});
    let arn = stopped["detail"]["taskArn"].as_str().expect("an arn");
    let id = format!("task-{}", arn.rsplit('/').next().expect("an id"));
    assert_eq!(body(&home.invoke(&claim(&id, 0)).await.expect("an answer"))["claimedCount"], 1);
    assert_eq!(home.invoke(&stopped).await.expect("done"), json!({"ok": true, "containerId": id}));
    let contents = home.contents().await;
    assert_eq!(contents.queue().len(), 1);
    assert!(!contents.hashes["fleet"].contains_key("failedStarts"), "the service has a pace of its own");
    contents.check();
}

#[tokio::test]
async fn a_task_that_spot_takes_back_gets_no_more_work_and_goes_on_with_what_it_has() {
    let home = Home::new(&[]).await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    let claimed = body(&home.invoke(&claim("ctr-a", 0)).await.expect("an answer"));
    assert_eq!(claimed["claimedCount"], 1);
    let mut warning = event(TASK_STOPPED);
    warning["detail"]["lastStatus"] = json!("RUNNING");
    warning["detail"]["stopCode"] = json!("SpotInterruption");
    for _ in 0..2 {
        let answer = home.invoke(&warning).await.expect("done");
        assert!(
            answer["ok"] == true && (answer["containerId"] == "ctr-a" || answer["ignored"].is_string()),
            "{answer}"
        );
        let contents = home.contents().await;
        assert!(contents.hashes["fleet"].contains_key("lookedAt"), "and the fleet has been looked at");
        assert_eq!(contents.sets["container:ctr-a:sessions"].len(), 1, "its session goes on");
        contents.check();
    }
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    let claimed = body(&home.invoke(&claim("ctr-a", 0)).await.expect("an answer"));
    assert_eq!((&claimed["drain"], &claimed["claimedCount"]), (&json!(true), &json!(0)));
}

#[tokio::test]
async fn an_event_that_is_not_understood_is_not_taken_for_done() {
    let home = Home::new(&[]).await;
    let mut other = event(SCHEDULE);
    other["source"] = json!("aws.s3");
    let mut forged = event(HTTP_API);
    forged["requestContext"] = json!({});
    forged["body"] = json!(SCHEDULE);
    for unknown in [other, forged, json!({}), json!([]), json!("schedule")] {
        let refused = home.invoke(&unknown).await.expect_err("refused");
        assert_eq!(refused.error_type, "UnknownEvent", "{unknown}");
    }
}

#[tokio::test]
async fn a_waiting_claim_ends_when_its_container_asks_anew_or_leaves() {
    let home = Home::new(&[]).await;
    let by = |request: Value| {
        let token = format!("Bearer {}", container_token("ctr-a"));
        http("POST", "/sessions/claim", &[("authorization", &token)], &request)
    };
    let leaving = json!({"containerId": "ctr-a", "currentSessions": 0, "maxSessions": 2, "phase": "leaving"});
    let waits = claim("ctr-a", 20);
    for next in [claim("ctr-a", 0), by(leaving)] {
        let told = async {
            crate::world::eventually(Duration::from_secs(5), async || {
                let known = home.contents().await.hashes.contains_key("container:ctr-a");
                if known { Ok(()) } else { Err("it is not registered".to_owned()) }
            })
            .await;
            home.invoke(&next).await.expect("an answer");
        };
        let waiting = tokio::time::timeout(Duration::from_secs(5), home.invoke(&waits));
        let (ended, ()) = tokio::join!(waiting, told);
        let ended = ended.expect("it does not wait on").expect("an answer");
        assert_eq!(body(&ended)["claimedCount"], 0);
    }
    assert!(!home.contents().await.hashes.contains_key("container:ctr-a"), "it has left");
}

#[tokio::test]
async fn without_redis_a_stopped_task_is_told_again_and_a_look_is_not() {
    let mut home = Home::new(&[]).await;
    home.redis.kill();
    let look = home.invoke(&event(SCHEDULE)).await.expect("no error: the next look is the retry");
    assert_eq!((&look["ok"], &look["looks"]), (&json!(false), &json!(0)));
    let refused = home.invoke(&event(TASK_STOPPED)).await.expect_err("to be told again");
    assert_eq!(refused.error_type, "StoreUnavailable");
    let answer = home.invoke(&event(HTTP_API)).await.expect("an answer");
    assert_eq!((&answer["statusCode"], &answer["headers"]["retry-after"]), (&json!(503), &json!("1")));
}

#[tokio::test]
async fn a_redis_that_hangs_is_refused_in_time_after_a_pause_too() {
    let home = Home::new(&[]).await;
    let mut service = Adapter::from(lambda::service(home.app.clone()));
    let mut invoke = async || {
        let request: LambdaRequest = serde_json::from_str(HTTP_API).expect("a request");
        let answer = service.call(LambdaEvent::new(request, Context::default())).await.expect("an answer");
        serde_json::to_value(answer).expect("JSON")
    };
    assert_eq!(invoke().await["statusCode"], 201);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    home.redis.signal("-STOP");
    let asked = std::time::Instant::now();
    let answer = invoke().await;
    let took = asked.elapsed();
    assert_eq!(answer["statusCode"], 503, "{answer}");
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

#[tokio::test]
async fn a_create_that_was_not_answered_is_undone_by_the_next_invocation() {
    let home = Home::new(&[]).await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    home.redis.signal("-STOP");
    assert_eq!(home.invoke(&event(HTTP_API)).await.expect("an answer")["statusCode"], 503);
    home.redis.signal("-CONT");
    crate::world::eventually(Duration::from_secs(10), async || {
        let answer = home.invoke(&http("GET", "/sessions", &[], &Value::Null)).await.expect("an answer");
        if answer["statusCode"] == 200 { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let contents = home.contents().await;
    let mut statuses: Vec<_> = contents.sessions().values().map(|session| session["status"].clone()).collect();
    statuses.sort();
    assert_eq!(statuses, ["ended", "pending"], "redis had heard of both");
    contents.check();
}

#[tokio::test]
async fn a_waiting_claim_looks_by_itself_as_nobody_tells_it_anything() {
    let home = Home::new(&[]).await;
    let waiting = claim("ctr-a", 10);
    let create = async {
        // After the claim has looked for the first time.
        crate::world::eventually(Duration::from_secs(5), async || {
            let seen = home.contents().await;
            if seen.hashes.contains_key("container:ctr-a") { Ok(()) } else { Err("not registered".to_owned()) }
        })
        .await;
        home.invoke(&event(HTTP_API)).await.expect("an answer");
        std::time::Instant::now()
    };
    let (claimed, created_at) = tokio::join!(home.invoke(&waiting), create);
    let took = created_at.elapsed();
    assert_eq!(body(&claimed.expect("an answer"))["claimedCount"], 1);
    assert!(took < Duration::from_millis(1_000), "it took {took:?}");
}

/// Beside the session nothing is written: no reservation that would have to be given back.
#[tokio::test]
async fn nothing_is_reserved_where_no_fleet_is() {
    let home = Home::new(&[("MAX_CONTAINERS", "10"), ("MIN_CONTAINERS", "2"), ("WARM_SLOTS", "20")]).await;
    let redis = home.redis.client().await;
    let scripts = async || {
        let info = crate::world::redis_command(&redis, &["INFO", "commandstats"]).await.into_string().expect("a text");
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse::<u64>().expect("a number"))
    };
    // The first loads the script.
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    let before = scripts().await;
    home.invoke(&event(HTTP_API)).await.expect("an answer");
    assert_eq!(scripts().await - before, 1);
    home.invoke(&event(SCHEDULE)).await.expect("done");
    let contents = home.contents().await;
    assert!(!contents.sorted.contains_key("containers-starting"), "{contents:?}");
    contents.check();
}

#[tokio::test]
async fn without_a_redis_it_does_not_begin() {
    let config = wallcrawler::config::Config::read(&|_| None).expect("a valid configuration, elsewhere");
    let refused = lambda::boot(config).await.err().expect("refused").to_string();
    assert!(refused.starts_with("REDIS_ENDPOINT must be set on Lambda"), "{refused}");
}

/// The adapter makes a URL of the host, and panics if it cannot. Here to be noticed when that changes: then the
/// test of what the built program does about it can go, too.
#[tokio::test]
async fn an_odd_host_makes_the_adapter_panic() {
    let home = Home::new(&[]).await;
    let odd = http("GET", "/health", &[("host", "a b")], &Value::Null);
    assert!(AssertUnwindSafe(home.invoke(&odd)).catch_unwind().await.is_err());
}
