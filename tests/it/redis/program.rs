//! The built program on a Redis: for what it reads of its environment and writes to its log.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{PATIENCE, free_port};
use crate::world::{SECRET, eventually};

pub struct Program {
    child: Child,
    port: u16,
    log: PathBuf,
    http: reqwest::Client,
}

impl Program {
    /// `dir` is a directory of the test's own.
    pub fn start(dir: &std::path::Path, redis: &str, vars: &[(&str, &str)]) -> Self {
        let port = free_port();
        let dir = dir.join(format!("program-{port}"));
        std::fs::create_dir_all(&dir).expect("a directory");
        let log = dir.join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_wallcrawler"))
            .env_clear()
            .env("TMPDIR", &dir)
            .envs([("API_KEYS", "key-one"), ("JWE_SECRET", SECRET), ("MAX_CONTAINERS", "0"), ("LOG_FORMAT", "json")])
            .envs([("PORT", port.to_string().as_str()), ("REDIS_ENDPOINT", redis)])
            .envs(vars.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("it starts");
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { child, port, log, http }
    }

    pub async fn ask(&self, method: Method, path: &str) -> Option<(u16, Value)> {
        let request = self.http.request(method, format!("http://127.0.0.1:{}{path}", self.port));
        let answer = request.header("x-api-key", "key-one").timeout(PATIENCE).send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    pub async fn is_ready(&self) {
        eventually(PATIENCE, async || match self.ask(Method::GET, "/ready").await {
            Some((200, _)) => Ok(()),
            other => Err(format!("{other:?}; {}", self.log())),
        })
        .await;
    }

    /// Up, and not ready, which it says within the time it has; and in its log, why.
    pub async fn is_refused(&self, because: &str) {
        eventually(PATIENCE, async || {
            let started = Instant::now();
            let answer = self.ask(Method::GET, "/ready").await;
            let took = started.elapsed();
            let Some((status, body)) = answer else { return Err("nobody listens".to_owned()) };
            assert_eq!((status, &body["code"]), (503, &json!("store_unavailable")));
            assert!(took < Duration::from_secs(2), "it took {took:?}");
            if self.log().contains(because) { Ok(()) } else { Err(self.log()) }
        })
        .await;
    }

    /// A session is made, found and ended.
    pub async fn serves(&self) {
        let (status, session) = self.ask(Method::POST, "/sessions").await.expect("it listens");
        assert_eq!(status, 201, "{session}");
        let path = format!("/sessions/{}", session["id"].as_str().expect("an id"));
        assert_eq!(self.ask(Method::GET, &path).await.expect("it listens").1["status"], "pending");
        assert_eq!(self.ask(Method::DELETE, &path).await.expect("it listens").1["status"], "ended");
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
