//! Where a test plays: a directory and a Redis of its own, a server, containers, and an owner of sessions.
//! When it is over nothing may be left of any of them.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use wallcrawler::config::Config;

use crate::audit::Contents;
use crate::cdp::Cdp;
use crate::processes::{self, ended, files, free_port};
use crate::world::{Redis, SECRET, container_token, eventually, redis_command};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_wallcrawler");
/// Held by tests that start dozens of browsers: two of them at once would only wait for each other.
pub static CROWD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// For what must come, however crowded the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// For what must be gone after an end in order.
const BURIAL: Duration = Duration::from_secs(15);

/// Short times, so that what waits for them can be waited for.
const DEFAULTS: [(&str, &str); 9] = [
    ("API_KEYS", "key-one"),
    ("JWE_SECRET", SECRET),
    ("HEARTBEAT_SECONDS", "1"),
    ("DISCONNECT_GRACE_SECONDS", "1"),
    ("WARM_BROWSERS", "0"),
    ("MAX_CONTAINERS", "2"),
    ("MAX_SESSIONS_PER_CONTAINER", "4"),
    ("LOG_FORMAT", "json"),
    ("RUST_LOG", "info"),
];

/// Held together by all scenes but those that are played alone, because they are about time: forty browsers that
/// start beside them on two cores would be all they measure.
static STAGE: RwLock<()> = RwLock::const_new(());

#[allow(dead_code)]
enum Stage {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

pub struct Scene {
    _stage: Stage,
    pub redis: Redis,
    dir: PathBuf,
    pub port: u16,
    vars: Vec<(String, String)>,
    server: Option<Child>,
    by_hand: Vec<(String, Child)>,
    tokens: HashMap<String, String>,
    http: reqwest::Client,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

/// A session as its owner got it.
#[derive(Debug, Clone)]
pub struct Created {
    pub id: String,
    pub url: String,
    pub body: Value,
}

impl Scene {
    /// Without a server.
    pub async fn empty(vars: &[(&str, &str)]) -> Self {
        Self::on(Stage::Shared(STAGE.read().await), vars).await
    }

    /// With a server that answers, and no other scene at the same time.
    pub async fn alone(vars: &[(&str, &str)]) -> Self {
        let mut scene = Self::on(Stage::Alone(STAGE.write().await), vars).await;
        scene.start_server().await;
        scene
    }

    async fn on(stage: Stage, vars: &[(&str, &str)]) -> Self {
        let port = free_port();
        // Short: browsers make sockets below it.
        let dir = PathBuf::from(format!("/tmp/wcc-{port}"));
        std::fs::create_dir_all(dir.join("t")).expect("a directory");
        let redis = Redis::start();
        // What was written outlives Redis also without, and the disk is busy with browsers' profiles.
        redis_command(&redis.client().await, &["CONFIG", "SET", "appendfsync", "no"]).await;
        let (tmp, port_text, url) = (dir.join("t").display().to_string(), port.to_string(), redis.url());
        let own = [("TMPDIR", tmp.as_str()), ("PORT", &port_text), ("REDIS_ENDPOINT", &url)];
        let mut all: Vec<(String, String)> = Vec::new();
        for name in ["PATH", "HOME", "CHROME_PATH", "CHROME_HEADLESS_SHELL_PATH"] {
            all.extend(wallcrawler::config::env(name).map(|value| (name.to_owned(), value)));
        }
        for (name, value) in DEFAULTS.iter().chain(&own).chain(vars) {
            all.retain(|(other, _)| other != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self {
            _stage: stage,
            redis,
            dir,
            port,
            vars: all,
            server: None,
            by_hand: Vec::new(),
            tokens: HashMap::new(),
            http,
        }
    }

    /// With a server that answers.
    pub async fn new(vars: &[(&str, &str)]) -> Self {
        let mut scene = Self::empty(vars).await;
        scene.start_server().await;
        scene
    }

    pub fn tmp(&self) -> PathBuf {
        self.dir.join("t")
    }

    /// Where a container started by hand has its browsers' profiles.
    pub fn workdir(&self, id: &str) -> PathBuf {
        self.tmp().join("wallcrawler").join(id)
    }

    /// For a server in this process.
    pub fn config(&self) -> Config {
        let lookup = |name: &str| self.vars.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        Config::read(&lookup).expect("a valid configuration")
    }

    fn log_file(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.dir.join("log")).expect("a log")
    }

    /// Another process of this program, in the same place.
    pub fn spawn(&self, args: &[&str], vars: &[(&str, &str)]) -> Child {
        Command::new(PROGRAM)
            .args(args)
            .env_clear()
            .envs(self.vars.iter().map(|(name, value)| (name, value)))
            .envs(vars.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log_file())
            .spawn()
            .expect("it starts")
    }

    pub async fn start_server(&mut self) {
        assert!(self.server.is_none());
        self.server = Some(self.spawn(&[], &[]));
        eventually(PATIENCE, async || match self.try_api("GET", "/ready", &Value::Null).await {
            Some(answer) if answer.status == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        })
        .await;
    }

    pub fn kill_server(&mut self) {
        let mut server = self.server.take().expect("a server");
        server.kill().expect("it runs");
        server.wait().expect("it ends");
    }

    pub fn signal_server(&self, signal: Signal) {
        processes::signal(self.server.as_ref().expect("a server").id(), signal);
    }

    /// Ends the server in order.
    pub async fn stop_server(&mut self) {
        self.signal_server(Signal::TERM);
        self.server_ended().await;
    }

    /// Waits until the server, which was asked to, has ended in order.
    pub async fn server_ended(&mut self) {
        let server = self.server.take().expect("a server");
        assert!(ended(server).await.success(), "the server's exit code");
    }

    /// Starts a container as somebody would by hand, with a token from the command line.
    pub fn start_by_hand(&mut self, id: &str, vars: &[(&str, &str)]) -> u32 {
        let minted = Command::new(PROGRAM).args(["token", "container", id]).env("JWE_SECRET", SECRET).output();
        let minted = String::from_utf8(minted.expect("it runs").stdout).expect("a token");
        self.tokens.insert(id.to_owned(), minted.trim().to_owned());
        let (endpoint, workdir) = (self.url(), self.workdir(id).display().to_string());
        let own = [
            ("CONTAINER_WORKDIR", workdir.as_str()),
            ("CONTAINER_ID", id),
            ("CONTAINER_TOKEN", minted.trim()),
            ("API_ENDPOINT", &endpoint),
            ("MAX_SESSIONS", "4"),
            ("PORT", "0"),
            ("DRAIN_SECONDS", "0"),
        ];
        let vars: Vec<(&str, &str)> = own.iter().chain(vars).copied().collect();
        let child = self.spawn(&["container"], &vars);
        let pid = child.id();
        self.by_hand.push((id.to_owned(), child));
        pid
    }

    /// The token of all the containers of a service.
    pub fn service_token(&self) -> String {
        let minted = Command::new(PROGRAM).args(["token", "service"]).env("JWE_SECRET", SECRET).output();
        String::from_utf8(minted.expect("it runs").stdout).expect("a token").trim().to_owned()
    }

    pub fn session_token(&self, session: &Created) -> String {
        session.body["token"].as_str().expect("a token").to_owned()
    }

    /// Starts a container as a service of ECS does: all it is told is what it shares with the service's others, and
    /// where to ask what its task is.
    pub fn start_as_task(&mut self, id: &str, metadata: &str) -> u32 {
        let token = self.service_token();
        let (endpoint, workdir) = (self.url(), self.workdir(id).display().to_string());
        let vars = [
            ("CONTAINER_WORKDIR", workdir.as_str()),
            ("CONTAINER_TOKEN", &token),
            ("ECS_CONTAINER_METADATA_URI_V4", metadata),
            ("API_ENDPOINT", &endpoint),
            ("MAX_SESSIONS", "4"),
            ("PORT", "0"),
            ("DRAIN_SECONDS", "0"),
        ];
        let child = self.spawn(&["container"], &vars);
        let pid = child.id();
        self.by_hand.push((id.to_owned(), child));
        pid
    }

    /// The token with which a container was started by hand.
    pub fn token_of(&self, id: &str) -> String {
        self.tokens[id].clone()
    }

    /// What a container started by hand ended with.
    pub async fn by_hand_ended(&mut self, id: &str) -> ExitStatus {
        let at = self.by_hand.iter().position(|(other, _)| other == id).expect("started");
        let (_, child) = self.by_hand.remove(at);
        ended(child).await
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `None`: nobody listens.
    pub async fn try_api(&self, method: &str, path: &str, body: &Value) -> Option<Answer> {
        self.send(method, path, body, ("x-api-key", "key-one")).await
    }

    pub async fn send(&self, method: &str, path: &str, body: &Value, key: (&str, &str)) -> Option<Answer> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.url())).header(key.0, key.1);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.timeout(PATIENCE).send().await.ok()?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.ok()?;
        Some(Answer { status, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
    }

    pub async fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.try_api(method, path, body).await.expect("the server listens")
    }

    pub async fn as_container(&self, id: &str, path: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {}", container_token(id));
        self.send("POST", path, body, ("authorization", &bearer)).await.expect("the server listens")
    }

    pub async fn create_with(&self, body: Value) -> Created {
        let answer = self.api("POST", "/sessions", &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let text = |name: &str| answer.body[name].as_str().expect("a text").to_owned();
        Created { id: text("id"), url: text("connectUrl"), body: answer.body.clone() }
    }

    pub async fn create(&self) -> Created {
        self.create_with(json!({})).await
    }

    pub async fn get(&self, id: &str) -> Value {
        self.api("GET", &format!("/sessions/{id}"), &Value::Null).await.body
    }

    pub async fn release(&self, id: &str) {
        let answer = self.api("DELETE", &format!("/sessions/{id}"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Waits until the session's browser answers.
    pub async fn ready(&self, session: &Created) {
        let token = session.body["token"].as_str().expect("a token");
        let path = format!("/sessions/{}/json/version?token={token}", session.id);
        eventually(PATIENCE, async || {
            let answer = self.api("GET", &path, &Value::Null).await;
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }

    /// A client on the session's page.
    pub async fn connect(&self, session: &Created) -> Cdp {
        tokio::time::timeout(PATIENCE, Cdp::connect(&session.url)).await.expect("a browser in time")
    }

    /// Waits until the session has ended, and says why it did.
    pub async fn end_reason(&self, id: &str, within: Duration) -> String {
        eventually(within, async || {
            let session = self.get(id).await;
            match session["endReason"].as_str() {
                Some(reason) => Ok(reason.to_owned()),
                None => Err(session.to_string()),
            }
        })
        .await
    }

    /// Waits until the session has this status.
    pub async fn has_status(&self, id: &str, status: &str, within: Duration) -> Value {
        eventually(within, async || {
            let session = self.get(id).await;
            if session["status"] == status { Ok(session) } else { Err(session.to_string()) }
        })
        .await
    }

    /// What all processes have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The log's entries with this message.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let log = self.log();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries.filter(|entry| entry["message"] == message).collect()
    }

    /// The containers that the server has started, and their processes.
    pub fn launched(&self) -> Vec<(String, u32)> {
        let started = self.logged("container started");
        let read = |entry: &Value| {
            let pid = entry["process.id"].as_u64().expect("a pid");
            (entry["container.id"].as_str().expect("an id").to_owned(), u32::try_from(pid).expect("a pid"))
        };
        started.iter().map(read).collect()
    }

    /// The process of a launched container.
    pub fn process_of(&self, container: &str) -> u32 {
        self.launched().into_iter().find(|(id, _)| id == container).expect("it was launched").1
    }

    /// Ends the launched containers, also those whose server was killed.
    pub async fn end_containers(&self) {
        let running = || self.launched().into_iter().map(|(_, pid)| pid).filter(|&pid| processes::is_container(pid));
        running().for_each(|pid| processes::signal(pid, Signal::TERM));
        eventually(BURIAL, async || match running().count() {
            0 => Ok(()),
            left => Err(format!("{left} containers")),
        })
        .await;
    }

    pub async fn contents(&self) -> Contents {
        Contents::read(&self.redis.client().await).await
    }

    /// Ends everything in order, and looks for what is left.
    pub async fn finish(mut self) {
        for (id, child) in std::mem::take(&mut self.by_hand) {
            processes::signal(child.id(), Signal::TERM);
            assert!(ended(child).await.success(), "the exit code of {id}");
        }
        if self.server.is_some() {
            self.stop_server().await;
        }
        self.nothing_is_left().await;
    }

    /// No process, no file, and nothing in Redis that does not fit together.
    pub async fn nothing_is_left(&self) {
        self.contents().await.check();
        let tmp = self.tmp();
        eventually(BURIAL, async || {
            let mut processes = processes::naming(&tmp);
            // Their environment can be read only by root.
            processes
                .extend(self.launched().into_iter().map(|(_, pid)| pid).filter(|&pid| processes::is_container(pid)));
            let files = files(&tmp);
            if processes.is_empty() && files.is_empty() {
                return Ok(());
            }
            // Looking is work, on a machine that has enough of it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let lines: Vec<String> = processes.into_iter().map(processes::command_line).collect();
            Err(format!("processes {lines:#?}, files {files:#?}"))
        })
        .await;
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"message\":\"request\"")).collect();
            eprintln!("the end of the log:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        for child in self.server.iter_mut().chain(self.by_hand.iter_mut().map(|(_, child)| child)) {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Only what belongs to this test names its directory.
        processes::kill_all_naming(&self.tmp());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
