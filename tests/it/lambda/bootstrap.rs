//! The built program, driven by a Runtime API that this test plays.

use std::ffi::OsString;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    FUNCTION_URL, HTTP_API, HTTP_API_STAGE, LOAD_BALANCER, REST_API, SCHEDULE, TASK_STOPPED, WEBSOCKET_CONNECT,
    WEBSOCKET_DISCONNECT, WEBSOCKET_MESSAGE, body, claim, event, http,
};
use crate::audit::Contents;
use crate::runtime_api::{self, PATIENCE, RuntimeApi};
use crate::world::described::DOCUMENT;
use crate::world::{Redis, SECRET, redis_command};

/// The program, as Lambda starts it: the debug build, or the one that was packed.
pub fn bootstrap(runtime_api: &str, vars: &[(&str, &str)]) -> Command {
    let packed = wallcrawler::config::env("WALLCRAWLER_BOOTSTRAP").map(OsString::from);
    let program = packed.unwrap_or_else(|| env!("CARGO_BIN_EXE_wallcrawler").into());
    runtime_api::bootstrap(program, runtime_api, vars)
}

struct Function {
    child: Child,
    api: RuntimeApi,
    redis: Redis,
}

impl Function {
    async fn start() -> Self {
        let redis = Redis::start();
        let url = redis.url();
        Self::on(redis, &url).await
    }

    /// With a way of its own to Redis.
    async fn on(redis: Redis, url: &str) -> Self {
        let (api, address) = RuntimeApi::start().await;
        let vars = [
            ("ENVIRONMENT", "prod"),
            ("REDIS_ENDPOINT", url),
            ("API_KEYS", "key-one,key-two"),
            ("JWE_SECRET", SECRET),
            ("CDP_ENDPOINT", "cdp.example.com"),
        ];
        let child = bootstrap(&address, &vars).spawn().expect("the program is built");
        Self { child, api, redis }
    }

    async fn ok(&self, event: &Value) -> Value {
        self.api.invoke(event).await.expect("an answer")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).expect("a pid"), signal).expect("it runs");
    }

    /// Resolves when the kernel has stopped it: the signal alone is only a wish.
    async fn freeze(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.child.id());
        crate::world::eventually(PATIENCE, async || {
            let stat = std::fs::read_to_string(&stat).expect("it runs");
            if stat.contains(") T ") { Ok(()) } else { Err(stat) }
        })
        .await;
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_program_serves_a_session_from_create_to_delete() {
    let function = Function::start().await;
    let created = function.ok(&event(HTTP_API)).await;
    assert_eq!(created["statusCode"], 201, "{created}");
    let session = body(&created);
    let (path, id) = (format!("/sessions/{}", session["id"].as_str().expect("an id")), session["id"].clone());
    assert!(session["connectUrl"].as_str().is_some_and(|url| url.starts_with("wss://cdp.example.com/cdp?")));
    let got = body(&function.ok(&http("GET", &path, &[], &Value::Null)).await);
    assert_eq!((&got["status"], &got["queuePosition"]), (&json!("pending"), &json!(1)));
    let claimed = body(&function.ok(&claim("ctr-a", 5)).await);
    assert_eq!((&claimed["claimedCount"], &claimed["sessions"][0]["sessionId"]), (&json!(1), &id));
    let deleted = body(&function.ok(&http("DELETE", &path, &[], &Value::Null)).await);
    assert_eq!((&deleted["status"], &deleted["endReason"]), (&json!("ended"), &json!("released")));
    for forged in [http("GET", "/nowhere", &[], &Value::Null), http("POST", "/events", &[], &event(SCHEDULE))] {
        assert_eq!(function.ok(&forged).await["statusCode"], 404);
    }
    let contents = async || Contents::read(&function.redis.client().await).await;
    assert!(!contents().await.hashes["fleet"].contains_key("lookedAt"), "nobody has looked, as there is no timer");
    assert_eq!(function.ok(&event(SCHEDULE)).await, json!({"ok": true, "looks": 1}));
    let contents = contents().await;
    assert!(contents.hashes["fleet"].contains_key("lookedAt"));
    contents.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_built_program_says_of_the_api_is_what_a_server_says() {
    let function = Function::start().await;
    let told = function.ok(&http("GET", "/openapi.json", &[], &Value::Null)).await;
    assert_eq!((&told["statusCode"], &body(&told)), (&json!(200), &*DOCUMENT));
}

/// What each answer must hold for the service that invoked the function; the rest of it stands in the tests of the
/// router, which is the same.
#[tokio::test(flavor = "multi_thread")]
async fn every_source_is_answered_in_its_own_form() {
    let function = Function::start().await;
    for (source, told, expected) in [
        ("an HTTP API", HTTP_API, json!({ "statusCode": 201, "cookies": [] })),
        ("an HTTP API with a stage", HTTP_API_STAGE, json!({ "statusCode": 200, "cookies": [] })),
        ("a REST API", REST_API, json!({ "statusCode": 201, "headers": {}, "isBase64Encoded": false })),
        ("a load balancer", LOAD_BALANCER, json!({ "statusCode": 200, "statusDescription": "200 OK" })),
        ("a function URL", FUNCTION_URL, json!({ "statusCode": 201, "isBase64Encoded": false })),
        ("a WebSocket API, $connect", WEBSOCKET_CONNECT, json!({ "statusCode": 401, "headers": {} })),
        ("a WebSocket API, $default", WEBSOCKET_MESSAGE, json!({ "statusCode": 200, "headers": {} })),
        ("a WebSocket API, $disconnect", WEBSOCKET_DISCONNECT, json!({ "statusCode": 200, "headers": {} })),
        ("a schedule", SCHEDULE, json!({ "ok": true, "looks": 1 })),
        ("a task that stopped", TASK_STOPPED, json!({ "ok": true })),
    ] {
        let answer = function.ok(&event(told)).await;
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&answer[name], value, "{source}: {answer}");
        }
    }
    let contents = Contents::read(&function.redis.client().await).await;
    assert_eq!(contents.sessions().len(), 3, "those of three creates");
    contents.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_makes_the_adapter_panic_fails_alone() {
    let function = Function::start().await;
    for _ in 0..3 {
        let odd = http("GET", "/health", &[("host", "a b")], &Value::Null);
        let failed = function.api.invoke(&odd).await.expect_err("the adapter panics");
        assert!(failed["errorMessage"].as_str().is_some_and(|message| message.contains("panicked")), "{failed}");
        assert_eq!(function.ok(&event(HTTP_API)).await["statusCode"], 201);
    }
    let unknown = function.api.invoke(&json!({})).await.expect_err("refused");
    assert_eq!(unknown["errorType"], "UnknownEvent");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_while_it_was_frozen_cost_no_request() {
    let function = Function::start().await;
    let id = body(&function.ok(&event(HTTP_API)).await)["id"].as_str().expect("an id").to_owned();
    let get = http("GET", &format!("/sessions/{id}"), &[], &Value::Null);
    let other = function.redis.client().await;
    let (mut took, mut cut) = (Vec::new(), 0);
    let rounds = wallcrawler::config::env("WALLCRAWLER_FREEZES").map_or(50, |rounds| rounds.parse().expect("a number"));
    for round in 0..rounds {
        function.freeze().await;
        cut += redis_command(&other, &["CLIENT", "KILL", "TYPE", "normal"]).await.as_u64().expect("a number");
        // As there: the event is the first thing it sees again.
        let asked = Instant::now();
        let thaw = async { function.signal(Signal::CONT) };
        let (answer, ()) = tokio::join!(function.api.invoke(&get), thaw);
        took.push(asked.elapsed());
        let answer = answer.expect("an answer");
        assert_eq!(answer["statusCode"], 200, "in round {round}: {answer}");
    }
    assert!(cut >= rounds, "a connection was cut each time: {cut}");
    took.sort();
    println!(
        "{cut} connections cut; the median answer took {:?}, the slowest {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
}

/// A way to Redis on which connections can be forgotten: what is sent over them from then on goes nowhere, and
/// nobody is told. New ones are led through.
async fn forgetful_path(redis: &Redis) -> (String, watch::Sender<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("bound"));
    let (forget, socket) = (watch::Sender::new(()), redis.dir.join("redis.sock"));
    let forgets = forget.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = tokio::net::UnixStream::connect(&socket).await.expect("redis listens");
            let mut forgotten = forgets.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    // Both stay open.
                    _ = forgotten.changed() => std::future::pending().await,
                }
            });
        }
    });
    (url, forget)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_forgotten_while_it_was_frozen_cost_no_request() {
    let redis = Redis::start();
    let (url, forget) = forgetful_path(&redis).await;
    let function = Function::on(redis, &url).await;
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        let answer = function.ok(&event(HTTP_API)).await;
        assert_eq!(answer["statusCode"], 201, "in round {round}, before: {answer}");
        function.freeze().await;
        forget.send_replace(());
        // A path forgets after minutes, and the program suspects it after seconds.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let asked = Instant::now();
        function.signal(Signal::CONT);
        let answer = function.ok(&event(HTTP_API)).await;
        assert_eq!(answer["statusCode"], 201, "in round {round}, after: {answer}");
        slowest = slowest.max(asked.elapsed());
    }
    println!("the slowest answer took {slowest:?}");
}

#[tokio::test]
async fn a_faulty_configuration_is_told_and_the_program_ends() {
    let told = |vars: &[(&str, &str)]| {
        let output = bootstrap("127.0.0.1:9", vars).output().expect("the program is built");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("a text")
    };
    let no_redis = told(&[]);
    assert!(no_redis.contains("REDIS_ENDPOINT must be set on Lambda"), "{no_redis}");
    let no_keys = told(&[("REDIS_ENDPOINT", "127.0.0.1:9")]);
    assert!(no_keys.contains("API_KEYS or API_KEYS_SECRET_ARN must be set on Lambda"), "{no_keys}");
    let faults = told(&[("ENVIRONMENT", "prod")]);
    for name in ["REDIS_ENDPOINT", "API_KEYS", "JWE_SECRET", "CDP_ENDPOINT"] {
        assert!(faults.contains(&format!("\n  {name}")), "{name} in {faults}");
    }
}
