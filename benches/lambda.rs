//! What a cold start costs, and a request after it: the program that `make lambda` packed, run as Lambda runs it,
//! beside a hello-world of the same kind, in turns, so that whatever else the machine does happens to both.
//!
//!     make bench-lambda

#[path = "../tests/common/runtime_api.rs"]
mod runtime_api;

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use runtime_api::RuntimeApi;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use wallcrawler::clock::now_ms;
use wallcrawler::tokens::{Subject, Tokens};

const ROUNDS: usize = 25;
/// In each round, after the first create.
const REQUESTS: usize = 40;
/// The first of them are not counted: a process that has just started is still growing.
const WARM_UP: usize = 10;

const SECRET: &str = "a secret of the bench, 32 bytes!";
const CONTAINER: &str = "ctr-bench";
const HTTP_API: &str = include_str!("../tests/it/events/http_api.json");

const CONNECT: &str = include_str!("../tests/it/events/websocket_connect.json");
const MESSAGE: &str = include_str!("../tests/it/events/websocket_message.json");

/// What is asked of a function that is already running. `$default` is a client's message, brought to its container;
/// `deliver` one of the browser's, posted to `@connections`.
const STEADY: [&str; 6] = ["create", "get", "claim", "$default", "deliver", "delete"];

/// A request as an HTTP API sends it. As it stands in the file, it is a create.
fn http(method: &str, path: &str, authorization: Option<&str>, body: &Value) -> Value {
    let mut event: Value = serde_json::from_str(HTTP_API).expect("an event");
    event["requestContext"]["http"]["method"] = json!(method);
    event["requestContext"]["http"]["path"] = json!(path);
    event["rawPath"] = json!(path);
    if let Some(authorization) = authorization {
        event["headers"]["authorization"] = json!(authorization);
    }
    event["headers"].as_object_mut().expect("headers").remove("content-length");
    event["body"] = if body.is_null() { Value::Null } else { json!(body.to_string()) };
    event
}

/// An event of the WebSocket API about the session's one connection, which is named like it.
fn on_socket(event: &str, session: &Value) -> Value {
    let mut event: Value = serde_json::from_str(event).expect("an event");
    event["requestContext"]["connectionId"] = session["id"].clone();
    if event.get("queryStringParameters").is_some() {
        for name in ["sessionId", "token"] {
            event["queryStringParameters"][name] = session[name].clone();
            event["multiValueQueryStringParameters"][name] = json!([session[name]]);
        }
    }
    event
}

/// Plays the container and `@connections`: takes whatever it is brought.
async fn taker() -> String {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let router = axum::Router::new().fallback(async || ());
    let serve = wallcrawler::native::serve(listener, router, Default::default(), std::future::pending());
    tokio::spawn(async move { serve.await.expect("serves") });
    address
}

fn create() -> Value {
    http("POST", "/sessions", None, &json!({ "timeout": 5 }))
}

/// Nothing, if it is none of ours: the hello-world's is not JSON.
fn body(answer: &Value) -> Value {
    answer["body"].as_str().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default()
}

/// A `redis-server` on loopback, which keeps nothing.
struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Self { child, url: format!("redis://{address}") };
        let deadline = Instant::now() + runtime_api::PATIENCE;
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "redis-server did not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A function that has just been started, and what it took until its first answer.
struct Cold {
    child: Child,
    api: RuntimeApi,
    init: Duration,
    first: Duration,
}

impl Cold {
    async fn start(program: &Path, redis: &str, taker: &str) -> Self {
        let (api, address) = RuntimeApi::start().await;
        let connections = format!("http://{taker}");
        let vars = [
            ("ENVIRONMENT", "prod"),
            ("REDIS_ENDPOINT", redis),
            ("API_KEYS", "key-one"),
            ("JWE_SECRET", SECRET),
            ("WEBSOCKET_API_ID", "q1w2e3r4t5"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", &connections),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            // As it is without a setting: the access lines are part of what a request costs.
            ("RUST_LOG", "info"),
        ];
        let mut command = runtime_api::bootstrap(program, &address, &vars);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let event = create();
        let started = Instant::now();
        let child = command.spawn().expect("the program starts");
        // It waits at the door, as the request does for which Lambda starts an environment.
        let answer = api.invoke(&event).await;
        let answered = Instant::now();
        let answer = answer.expect("an answer");
        assert!(matches!(answer["statusCode"].as_u64(), Some(200..300)), "{answer}");
        let asked = api.first_next().await;
        let cold = Self { child, api, init: asked - started, first: answered - asked };
        // Or the next claim would be handed it.
        if let Some(id) = body(&answer)["id"].as_str() {
            cold.timed(&http("DELETE", &format!("/sessions/{id}"), None, &Value::Null)).await;
        }
        cold
    }

    async fn timed(&self, event: &Value) -> (Duration, Value) {
        let asked = Instant::now();
        let answer = self.api.invoke(event).await.expect("an answer");
        let took = asked.elapsed();
        assert!(matches!(answer["statusCode"].as_u64(), Some(200..300)), "{answer}");
        (took, body(&answer))
    }

    /// A session from its creation to its end, in the order of [`STEADY`].
    async fn steady(&self, token: &str, taker: &str) -> [Duration; STEADY.len()] {
        let (created, session) = self.timed(&create()).await;
        let path = format!("/sessions/{}", session["id"].as_str().expect("an id"));
        let (got, _) = self.timed(&http("GET", &path, None, &Value::Null)).await;
        let ask = json!({
            "containerId": CONTAINER, "currentSessions": 0, "maxSessions": 2, "address": taker,
            "waitSeconds": 0,
        });
        let (claimed, work) = self.timed(&http("POST", "/sessions/claim", Some(token), &ask)).await;
        assert_eq!(work["claimedCount"], 1, "{work}");

        let by_container = |path: &str, body: &Value| http("POST", path, Some(token), body);
        let report = json!({ "lease": 1, "cdpSecret": "secret-of-the-session" });
        self.timed(&by_container(&format!("{path}/ready"), &report)).await;
        self.timed(&on_socket(CONNECT, &session)).await;
        let message = on_socket(MESSAGE, &session);
        let connection = session["id"].as_str().expect("an id");
        let deliver = |first: u64, messages: Value| {
            let request = json!({ "first": first, "messages": messages });
            by_container(&format!("/connections/{connection}/messages"), &request)
        };
        // The browser has answered, and where the session is has been learned.
        self.timed(&deliver(0, json!([]))).await;
        self.timed(&message).await;
        let (brought, _) = self.timed(&message).await;
        let (delivered, _) = self.timed(&deliver(0, json!([{ "id": 1, "result": {} }]))).await;

        let (deleted, _) = self.timed(&http("DELETE", &path, None, &Value::Null)).await;
        [created, got, claimed, brought, delivered, deleted]
    }

    /// The most memory it has held at once, in MB.
    fn peak_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let kb = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        kb.expect("Linux tells it").parse::<f64>().expect("a number") / 1_024.0
    }
}

impl Drop for Cold {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Half of the figures are below the first, and 19 of 20 below the second.
fn percentiles(figures: &mut [f64]) -> (f64, f64) {
    figures.sort_unstable_by(f64::total_cmp);
    (figures[figures.len() / 2], figures[figures.len() * 95 / 100])
}

fn report(name: &str, figures: &mut [f64], decimals: usize) -> f64 {
    let (p50, p95) = percentiles(figures);
    println!("| {name:<46} | {p50:>7.decimals$} | {p95:>7.decimals$} |");
    p50
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

#[derive(Default)]
struct Figures {
    init: Vec<f64>,
    first: Vec<f64>,
    peak_mb: Vec<f64>,
    steady: [Vec<f64>; STEADY.len()],
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> ExitCode {
    // Where `make lambda` puts them, wherever cargo builds.
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    let packed = PathBuf::from(format!("{}/target/lambda/{arch}", env!("CARGO_MANIFEST_DIR")));
    let (bootstrap, hello) = (packed.join("bootstrap"), packed.join("hello-world"));
    if !bootstrap.exists() {
        eprintln!("There is no target/lambda/{arch}/bootstrap to measure. First: make lambda ARCH={arch}");
        return ExitCode::FAILURE;
    }
    let redis = Redis::start().await;
    let taker = taker().await;
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let subject = Subject::Container(CONTAINER.parse().expect("an id"));
    let token = format!("Bearer {}", tokens.mint(&subject, now_ms(), now_ms() + 3_600_000));

    let (mut ours, mut least) = (Figures::default(), Figures::default());
    // The first round fills the page cache and gives Redis the scripts.
    for round in 0..=ROUNDS {
        let figures = |figures: &mut Figures, cold: &Cold| {
            if round > 0 {
                figures.init.push(ms(cold.init));
                figures.first.push(ms(cold.first));
                figures.peak_mb.push(cold.peak_mb());
            }
        };
        if hello.exists() {
            let cold = Cold::start(&hello, &redis.url, &taker).await;
            for _ in 0..REQUESTS {
                cold.timed(&create()).await;
            }
            figures(&mut least, &cold);
        }
        let cold = Cold::start(&bootstrap, &redis.url, &taker).await;
        for request in 0..REQUESTS {
            let took = cold.steady(&token, &taker).await;
            if round > 0 && request >= WARM_UP {
                ours.steady.iter_mut().zip(took).for_each(|(all, took)| all.push(ms(took)));
            }
        }
        figures(&mut ours, &cold);
    }

    println!("\n{ROUNDS} cold starts of each, milliseconds\n");
    println!("| {:<46} | {:>7} | {:>7} |", "", "p50", "p95");
    println!("|{:-<48}|{:->9}|{:->9}|", "", ":", ":");
    if hello.exists() {
        report("hello-world: start to its first /next", &mut least.init, 1);
        report("hello-world: first answer", &mut least.first, 1);
    }
    report("start to the first /next", &mut ours.init, 1);
    report("first create", &mut ours.first, 1);
    for (name, figures) in STEADY.iter().zip(&mut ours.steady) {
        report(&format!("{name}, from then on"), figures, 2);
    }
    if hello.exists() {
        report("hello-world: most memory held, MB", &mut least.peak_mb, 1);
    }
    report("most memory held, MB", &mut ours.peak_mb, 1);
    if !hello.exists() {
        println!("\nWithout a hello-world beside it: `make bench-lambda` builds that, too.");
    }
    ExitCode::SUCCESS
}
