//! How long from `POST /sessions` to the first CDP answer, beside a browser that is simply started: all in one
//! run, in turns, so that whatever else the machine does happens to all of them.
//!
//!     cargo bench --bench first_answer

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use wallcrawler::agent::find::{SearchPlaces, find};

const ROUNDS: usize = 30;
/// Between two rounds: the browsers of the last one are gone, and the warm one has been replaced.
const PAUSE: Duration = Duration::from_millis(700);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn first_answer(url: &str) -> Socket {
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("a WebSocket");
    socket.send(Message::text(r#"{"id":1,"method":"Browser.getVersion"}"#)).await.expect("a command is sent");
    let answer = socket.next().await.expect("an answer").expect("a message");
    let answer: Value = serde_json::from_slice(&answer.into_data()).expect("JSON");
    assert!(answer["result"]["product"].is_string(), "{answer}");
    socket
}

/// A browser that is started with what it cannot do without.
async fn bare(program: &Path, headless: &str, dir: &Path) -> Duration {
    let started = Instant::now();
    let mut command = Command::new(program);
    command.args([headless, "--remote-debugging-port=0", "--no-first-run", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync", "--disable-quic", "about:blank"]);
    if rustix::process::geteuid().is_root() {
        command.arg("--no-sandbox");
    }
    command.arg(format!("--user-data-dir={}", dir.join("profile").display()));
    command.stderr(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    let mut child = command.spawn().expect("the browser starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let url = loop {
        let line = lines.next_line().await.expect("readable").expect("it listens before it ends");
        if let Some(url) = line.strip_prefix("DevTools listening on ") {
            break url.to_owned();
        }
    };
    let socket = first_answer(&url).await;
    let took = started.elapsed();
    drop(socket);
    let group = rustix::process::Pid::from_child_id(child.id());
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    child.wait().await.expect("it ends");
    let _ = std::fs::remove_dir_all(dir.join("profile"));
    took
}

trait FromChildId {
    fn from_child_id(id: Option<u32>) -> Self;
}

impl FromChildId for rustix::process::Pid {
    fn from_child_id(id: Option<u32>) -> Self {
        Self::from_raw(id.expect("running").cast_signed()).expect("not zero")
    }
}

/// The built server, with so many warm browsers.
struct Server {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Server {
    async fn start(dir: &Path, warm_browsers: usize) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
        let tmp = dir.join(format!("server-{warm_browsers}"));
        std::fs::create_dir_all(&tmp).expect("a directory");
        let child = Command::new(env!("CARGO_BIN_EXE_wallcrawler"))
            .env("PORT", port.to_string())
            .env("WARM_BROWSERS", warm_browsers.to_string())
            .env("MIN_CONTAINERS", "1")
            .env("MAX_CONTAINERS", "1")
            .env("RUST_LOG", "error")
            .env("TMPDIR", tmp)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        let server = Self { child, url: format!("http://127.0.0.1:{port}"), http: reqwest::Client::new() };
        while !server.http.get(format!("{}/ready", server.url)).send().await.is_ok_and(|answer| answer.status() == 200)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    async fn session(&self, settings: &Value) -> Duration {
        let started = Instant::now();
        let create = self.http.post(format!("{}/sessions", self.url)).header("x-api-key", "wc_dev");
        let session: Value = serde_json::from_slice(
            &create
                .body(json!({ "browserSettings": settings }).to_string())
                .send()
                .await
                .expect("an answer")
                .bytes()
                .await
                .expect("a body"),
        )
        .expect("JSON");
        let socket = first_answer(session["connectUrl"].as_str().expect("a URL")).await;
        let took = started.elapsed();
        drop(socket);
        let path = format!("{}/sessions/{}", self.url, session["id"].as_str().expect("an id"));
        self.http.delete(path).header("x-api-key", "wc_dev").send().await.expect("an answer");
        took
    }

    async fn stop(mut self) {
        let pid = <rustix::process::Pid as FromChildId>::from_child_id(self.child.id());
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait().await;
    }
}

fn report(name: &str, mut times: Vec<Duration>, beside: Option<f64>) -> f64 {
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let (p50, p95) = (ms(times[times.len() / 2]), ms(times[times.len() * 95 / 100]));
    let ratio = beside.map_or_else(String::new, |beside| format!("{:.2}", p50 / beside));
    println!("| {name:<58} | {p50:>7.1} | {p95:>7.1} | {ratio:>14} |");
    p50
}

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let dir = PathBuf::from(format!("/tmp/wc-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let found = find(&SearchPlaces::read(&wallcrawler::config::env)).expect("browsers");
    let (shell, full) = (found.default_program(), found.full_program());
    let (warm, cold) = (Server::start(&dir, 1).await, Server::start(&dir, 0).await);
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 0..=ROUNDS {
        let none = json!({});
        let chromium = json!({ "browser": "chromium" });
        let mut took = Vec::new();
        for turn in 0..5 {
            tokio::time::sleep(PAUSE).await;
            took.push(match (turn, &full) {
                (0, _) => Some(bare(&shell.path, "--headless", &dir).await),
                (1, _) => Some(warm.session(&none).await),
                (2, _) => Some(cold.session(&none).await),
                (3, Some(full)) => Some(bare(&full.path, "--headless=new", &dir).await),
                (4, Some(_)) => Some(cold.session(&chromium).await),
                _ => None,
            });
        }
        // The first round fills the page cache and starts the containers.
        if round > 0 {
            for (all, took) in times.iter_mut().zip(took) {
                all.extend(took);
            }
        }
    }
    warm.stop().await;
    cold.stop().await;
    let _ = std::fs::remove_dir_all(&dir);

    let [bare_shell, warm, cold_shell, bare_full, cold_full] = times;
    println!("\n{ROUNDS} rounds, milliseconds to the first CDP answer\n");
    println!("| {:<58} | {:>7} | {:>7} | {:>14} |", "", "p50", "p95", "to bare start");
    println!("|{:-<60}|{:->9}|{:->9}|{:->16}|", "", ":", ":", ":");
    let beside = report("headless shell, started by hand", bare_shell, None);
    report("POST /sessions, connect, warm browser", warm, Some(beside));
    report("POST /sessions, connect, headless shell started for it", cold_shell, Some(beside));
    if !bare_full.is_empty() {
        let beside = report("Chromium, started by hand", bare_full, None);
        report("POST /sessions, connect, Chromium started for it", cold_full, Some(beside));
    }
}
