//! The cast: a Redis, the application on it, clients with API keys, and containers with tokens.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use fred::prelude::{Builder, Client as RedisClient, ClientLike as _, Config as RedisConfig};
use fred::types::{ClusterHash, CustomCommand};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use wallcrawler::app::App;
use wallcrawler::clock::now_ms;
use wallcrawler::config::Config;
use wallcrawler::fleet::Fleet;
use wallcrawler::fleet::local::{LocalFleet, LocalOptions};
use wallcrawler::ids::ContainerId;
use wallcrawler::routes::router;
use wallcrawler::secrets::SecretsManager;
use wallcrawler::tokens::{Subject, Tokens};

#[path = "described.rs"]
pub mod described;

pub const SECRET: &str = "a secret of the tests, 32 bytes!";

/// A `redis-server` of a test's own, ended with it.
pub struct Redis {
    child: Child,
    pub dir: PathBuf,
    args: Vec<String>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn fresh(name: &str) -> String {
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Redis {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With arguments of its own, which come last.
    pub fn with(args: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(fresh("wallcrawler-test-redis"));
        std::fs::create_dir_all(&dir).expect("a directory for redis");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut redis = Self { child: spawn_redis(&dir, &args), dir, args };
        redis.wait_until_ready();
        redis
    }

    fn wait_until_ready(&mut self) {
        let stdout = self.child.stdout.take().expect("piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("eady to accept connections")), "redis-server did not start");
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.join("redis.sock").display())
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("redis is running");
        self.child.wait().expect("redis ends");
    }

    /// Starts it again, with what it had saved.
    pub fn restart(&mut self) {
        self.child = spawn_redis(&self.dir, &self.args);
        self.wait_until_ready();
    }

    /// Starts it again as something else, and does not wait for it.
    pub fn begin_again(&mut self, args: &[&str]) {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.child = spawn_redis(&self.dir, &self.args);
        let mut stdout = self.child.stdout.take().expect("piped");
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    pub async fn client(&self) -> RedisClient {
        let client =
            Builder::from_config(RedisConfig::from_url(&self.url()).expect("a url")).build().expect("a client");
        client.init().await.expect("redis answers");
        client
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn_redis(dir: &std::path::Path, args: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--dir", "."])
        // What was answered is on disk: a test may kill and restart it.
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// One command, as it is typed.
pub async fn redis_command(client: &RedisClient, words: &[&str]) -> fred::types::Value {
    let command = CustomCommand::new(words[0].to_owned(), ClusterHash::FirstKey, false);
    let args: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
    fred::interfaces::ClientLike::custom(client, command, args).await.expect("redis answers")
}

/// The application, without a port.
pub struct Plane {
    pub app: App,
    pub router: Router,
    follow: tokio::task::JoinHandle<()>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

/// The application on a Redis of its own.
pub struct World {
    plane: Plane,
    pub redis: Redis,
}

impl Deref for World {
    type Target = Plane;
    fn deref(&self) -> &Plane {
        &self.plane
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Plane {
        &mut self.plane
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

/// An answer that is no JSON.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: axum::body::Bytes,
}

/// The configuration of the tests, changed by `vars`.
pub fn config(redis: &Redis, vars: &[(&str, &str)]) -> Config {
    let files = redis.dir.join("files").display().to_string();
    let vars: Vec<_> = [("STORAGE_DIR", files.as_str())].into_iter().chain(vars.iter().copied()).collect();
    config_at(&redis.url(), &vars)
}

pub fn config_at(redis: &str, vars: &[(&str, &str)]) -> Config {
    let mut all: HashMap<String, String> = [
        ("REDIS_ENDPOINT", redis),
        ("API_KEYS", "key-one,key-two"),
        ("JWE_SECRET", SECRET),
        ("MAX_CONTAINERS", "0"),
        ("PORT", "0"),
    ]
    .into_iter()
    .chain(vars.iter().copied())
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    all.retain(|_, value| !value.is_empty());
    Config::read(&|name| all.get(name).cloned()).expect("the tests' configuration is valid")
}

impl World {
    pub async fn new(vars: &[(&str, &str)]) -> Self {
        Self::on(Redis::start(), vars).await
    }

    pub async fn on(redis: Redis, vars: &[(&str, &str)]) -> Self {
        // A program that ends at once: what it was started for never comes.
        let options = LocalOptions {
            program: "true".into(),
            root: redis.dir.join("containers"),
            env: Vec::new(),
            die_with_us: true,
        };
        let (fleet, _) = LocalFleet::new(options);
        let config = config(&redis, vars);
        Self::with_fleet(redis, config, Box::new(fleet)).await
    }

    pub async fn with_fleet(redis: Redis, config: Config, fleet: Box<dyn Fleet>) -> Self {
        Self::with(redis, config, fleet, SecretsManager::default()).await
    }

    pub async fn with(redis: Redis, config: Config, fleet: Box<dyn Fleet>, secrets: SecretsManager) -> Self {
        let plane = Plane::with(&redis.url(), config, fleet, secrets).await;
        let asking = redis.client().await;
        eventually(Duration::from_secs(10), async || {
            let subscribers = redis_command(&asking, &["PUBSUB", "NUMSUB", "events"]).await.into_array();
            if subscribers[1].as_u64() == Some(1) { Ok(()) } else { Err(format!("{subscribers:?}")) }
        })
        .await;
        Self { plane, redis }
    }
}

impl Plane {
    pub async fn on(redis: &str, config: Config, fleet: Box<dyn Fleet>) -> Self {
        Self::with(redis, config, fleet, SecretsManager::default()).await
    }

    async fn with(redis: &str, config: Config, fleet: Box<dyn Fleet>, secrets: SecretsManager) -> Self {
        static LOG: OnceLock<()> = OnceLock::new();
        LOG.get_or_init(|| wallcrawler::telemetry::init(false, Some("warn")));
        let prefix = config.key_prefix.clone();
        let endpoint = "http://127.0.0.1:1".to_owned();
        let app = App::boot_with(config, redis, endpoint, fleet, None, secrets).await.expect("boots");
        let (events, url) = (app.events.clone(), redis.to_owned());
        let follow = tokio::spawn(async move { events.follow(url, prefix).await.expect("events can be followed") });
        Self { router: router(app.clone()), app, follow }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let answer = answer(self.router.clone().oneshot(request).await.expect("infallible")).await;
        // Beside what else the test does: it may have hundreds of requests under way, which wait for Redis only so long.
        let checked = tokio::task::spawn_blocking(move || {
            let difference = described::check(&method, &path, answer.status, &answer.headers, &answer.body);
            difference.map_err(|text| format!("{method} {path} is not as it is described: {text}; {answer:?}"))?;
            Ok(answer)
        });
        checked.await.expect("it does not panic").unwrap_or_else(|difference: String| panic!("{difference}"))
    }

    pub fn client<'a>(&'a self, key: &'a str) -> Caller<'a> {
        Caller { plane: self, headers: vec![("x-api-key", key.to_owned())] }
    }

    pub fn container<'a>(&'a self, id: &str) -> Caller<'a> {
        Caller { plane: self, headers: vec![("authorization", format!("Bearer {}", container_token(id)))] }
    }
}

pub fn container_token(id: &str) -> String {
    let tokens = Tokens::new(&[SECRET], false).expect("long enough");
    let id: ContainerId = id.parse().expect("an id");
    tokens.mint(&Subject::Container(id), now_ms(), now_ms() + 3_600_000)
}

pub async fn answer(response: axum::response::Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("a JSON body") };
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Somebody who may ask for something.
pub struct Caller<'a> {
    plane: &'a Plane,
    headers: Vec<(&'static str, String)>,
}

impl Caller<'_> {
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        self.plane.send(self.request(method, path, body)).await
    }

    /// The same, for what answers with no JSON.
    pub async fn raw(&self, method: &str, path: &str, body: impl Into<Body>) -> RawAnswer {
        let answer = self.plane.router.clone().oneshot(self.request(method, path, body)).await.expect("infallible");
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        RawAnswer { status: parts.status, headers: parts.headers, bytes }
    }

    fn request(&self, method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(body.into()).expect("a request")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, Body::empty()).await
    }

    /// Creates a session and returns its id.
    pub async fn create(&self) -> String {
        let answer = self.post("/sessions", &json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.body["id"].as_str().expect("an id").to_owned()
    }

    /// Claims as the container `id`, which holds `held`.
    pub async fn claim(&self, id: &str, max: u32, held: &[&str]) -> Value {
        let request = json!({
            "containerId": id, "currentSessions": held.len(), "maxSessions": max, "sessionIds": held,
            "address": "127.0.0.1:9",
        });
        let answer = self.post("/sessions/claim", &request).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.body
    }
}

/// The ids of the sessions in an answer to a claim.
pub fn claimed(answer: &Value) -> Vec<String> {
    answer["sessions"]
        .as_array()
        .expect("sessions")
        .iter()
        .map(|session| session["sessionId"].as_str().expect("an id").to_owned())
        .collect()
}

/// Waits for a condition, and says what was last seen when it does not come.
pub async fn eventually<T>(within: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => panic!("not within {within:?}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
