//! A container under test: the agent in this process, its browsers, and a client's way to them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use wallcrawler::agent::find::SearchPlaces;
use wallcrawler::agent::{AgentConfig, AgentError, run};
use wallcrawler::ids::{ContainerId, SessionId};
use wallcrawler::protocol::CDP_SECRET_HEADER;
use wallcrawler::sweep;

use crate::control_plane::{ControlPlane, TOKEN};

pub fn places() -> SearchPlaces {
    SearchPlaces { path: Some("/usr/bin:/usr/local/bin".into()), ..SearchPlaces::default() }
}

pub fn config(plane: &ControlPlane) -> AgentConfig {
    let container_id = ContainerId::random();
    AgentConfig {
        workdir: std::env::temp_dir().join(format!("wc-{}", &container_id.as_str()[20..])),
        container_id: Some(container_id),
        token: TOKEN.into(),
        api_endpoint: plane.endpoint.clone(),
        max_sessions: 3,
        warm_browsers: 0,
        heartbeat: Duration::from_secs(2),
        bind: "127.0.0.1:0".parse().expect("an address"),
        advertise: None,
        search: places(),
        launched: true,
        task_metadata: None,
        resolver: Default::default(),
        drain_timeout: Duration::from_millis(200),
        retire_after: None,
        gateway_idle_beat: Duration::from_secs(60),
    }
}

pub struct Container {
    pub workdir: PathBuf,
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), AgentError>>,
}

impl Container {
    pub fn start(config: AgentConfig) -> Self {
        let (shutdown, asked) = oneshot::channel::<()>();
        let workdir = config.workdir.clone();
        let running = tokio::spawn(run(config, async move {
            if asked.await.is_err() {
                std::future::pending().await
            }
        }));
        Self { workdir, shutdown: Some(shutdown), running }
    }

    pub fn ask_to_stop(&mut self) {
        let _ = self.shutdown.take().expect("asked once").send(());
    }

    /// Waits for its end and makes sure that nothing is left.
    pub async fn done(mut self) -> Result<(), AgentError> {
        let ended = tokio::time::timeout(Duration::from_secs(30), &mut self.running).await;
        let outcome = ended.expect("the container does not end").expect("it does not panic");
        assert_eq!(processes_of(&self.workdir), [] as [u32; 0], "processes are left");
        assert!(!self.workdir.exists(), "files are left");
        outcome
    }

    /// Asks it to stop, unless it was asked already.
    pub async fn done_or_stop(mut self) {
        if self.shutdown.is_some() {
            self.ask_to_stop();
        }
        self.done().await.expect("a clean end");
    }

    pub async fn stop(mut self) {
        self.ask_to_stop();
        self.done().await.expect("a clean end");
    }

    /// The processes that lead the browsers.
    pub fn browsers(&self) -> Vec<u32> {
        processes_of(&self.workdir).into_iter().filter(|&pid| group_of(pid) == Some(pid)).collect()
    }

    /// The process that leads the only browser there is.
    pub fn browser(&self) -> u32 {
        let leaders = self.browsers();
        assert_eq!(leaders.len(), 1, "one browser");
        leaders[0]
    }
}

impl Drop for Container {
    /// A test that failed half-way leaves nothing for the next one either.
    fn drop(&mut self) {
        self.running.abort();
        sweep::sweep(&self.workdir);
    }
}

pub fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// `--type=` of a browser's child.
fn kind_of(pid: u32) -> Option<String> {
    command_line(pid).split(' ').find_map(|argument| argument.strip_prefix("--type=").map(str::to_owned))
}

fn group_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

/// Every process whose command line names the directory.
pub fn processes_of(workdir: &Path) -> Vec<u32> {
    let name = format!("{}/", workdir.display());
    std::fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| command_line(pid).contains(&name))
        .collect()
}

/// Children of a process, of one kind.
pub fn children_of(parent: u32, kind: &str) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .expect("proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid: &u32| group_of(pid) == Some(parent) && kind_of(pid).as_deref() == Some(kind))
        .collect()
}

pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
}

pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client's socket, through the relay.
pub struct Cdp {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    /// That came while an answer was waited for.
    events: Vec<Value>,
}

impl Cdp {
    pub async fn connect(address: &str, session: &SessionId, secret: &str) -> Result<Self, Error> {
        let mut request = format!("ws://{address}/sessions/{session}/cdp").into_client_request()?;
        let headers = request.headers_mut();
        headers.insert(CDP_SECRET_HEADER, secret.parse().expect("a header"));
        // Chrome would refuse both of these.
        headers.insert("origin", "https://somewhere.example".parse().expect("a header"));
        headers.insert("host", "container.internal".parse().expect("a header"));
        headers.insert("sec-websocket-extensions", "permessage-deflate".parse().expect("a header"));
        Self::open(request).await
    }

    pub async fn open(request: Request) -> Result<Self, Error> {
        let (socket, _) = connect_async(request).await?;
        Ok(Self { socket, last_id: 0, events: Vec::new() })
    }

    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.call_in(None, method, params).await
    }

    async fn call_in(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut answer = self.ask(session, method, params).await;
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    /// The whole answer to a command.
    pub async fn ask(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.socket.send(Message::text(command.to_string())).await.expect("sent");
        loop {
            let message = self.socket.next().await.expect("an answer").expect("no error");
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.last_id {
                return answer;
            }
            self.events.push(answer);
        }
    }

    /// Exactly this, and the answer that names no command.
    pub async fn say(&mut self, text: &str) -> Value {
        self.socket.send(Message::text(text)).await.expect("sent");
        loop {
            let message = self.socket.next().await.expect("an answer").expect("no error");
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["method"].is_null() {
                return answer;
            }
        }
    }

    /// The first of these events that came, or comes.
    pub async fn event(&mut self, method: &str) -> Value {
        if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
            return self.events.remove(at);
        }
        loop {
            let message = self.socket.next().await.expect("an event").expect("no error");
            let Message::Text(text) = message else { continue };
            let event: Value = serde_json::from_str(&text).expect("JSON");
            if event["method"] == method {
                return event;
            }
        }
    }

    pub async fn send(&mut self, method: &str) {
        let command = json!({ "id": 9_999, "method": method });
        self.socket.send(Message::text(command.to_string())).await.expect("sent");
    }

    /// The value of an expression in the page the browser started with.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let session = self.attach().await;
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        self.call_in(Some(&session), "Runtime.evaluate", params).await["result"]["value"].take()
    }

    pub async fn navigate(&mut self, url: &str) -> Value {
        let session = self.attach().await;
        self.call_in(Some(&session), "Page.navigate", json!({ "url": url })).await
    }

    /// The text of a file of this machine, as a page gets it that it is chosen for. Null if the page gets nothing.
    pub async fn upload(&mut self, file: &Path) -> Value {
        self.navigate("about:blank").await;
        let session = self.attach().await;
        let input = "document.body.appendChild(Object.assign(document.createElement('input'), {type: 'file'}))";
        let params = json!({ "expression": input });
        let input = self.call_in(Some(&session), "Runtime.evaluate", params).await["result"]["objectId"].take();
        let params = json!({ "objectId": input, "files": [file] });
        self.call_in(Some(&session), "DOM.setFileInputFiles", params).await;
        self.evaluate("document.querySelector('input').files[0].text().catch(() => null)").await
    }

    /// A session with the only page.
    pub async fn attach(&mut self) -> String {
        let targets = self.call("Target.getTargets", json!({})).await;
        let pages: Vec<&Value> = targets["targetInfos"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|target| target["type"] == "page")
            .collect();
        assert_eq!(pages.len(), 1, "a fresh browser shows one page");
        let params = json!({ "targetId": pages[0]["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", params).await;
        attached["sessionId"].as_str().expect("a session").to_owned()
    }

    pub async fn closed(mut self) {
        let drained = async { while let Some(Ok(_)) = self.socket.next().await {} };
        tokio::time::timeout(Duration::from_secs(10), drained).await.expect("the socket stays open");
    }
}
