//! A server that is asked to end while clients are connected through it, and another one on the same Redis.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio::time::timeout;

use crate::cdp::Cdp;
use crate::processes::{self, ended, free_port};
use crate::scene::{PATIENCE, Scene};
use crate::world::eventually;

const DRAIN: Duration = Duration::from_secs(6);

/// Two servers; the container belongs to neither.
struct Pair {
    scene: Scene,
    other: Child,
    other_port: u16,
    container: u32,
}

async fn status(port: u16, path: &str) -> Option<u16> {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    Some(http.get(format!("http://127.0.0.1:{port}{path}")).send().await.ok()?.status().as_u16())
}

/// What a client is answered that wants to connect.
async fn upgrade(port: u16, path: &str) -> u16 {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = http.get(format!("http://127.0.0.1:{port}{path}")).header("connection", "upgrade");
    let request = request.header("upgrade", "websocket").header("sec-websocket-version", "13");
    let answer = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").send().await;
    answer.expect("an answer").status().as_u16()
}

impl Pair {
    async fn new() -> Self {
        let drain = DRAIN.as_secs().to_string();
        let mut scene = Scene::new(&[
            ("MAX_CONTAINERS", "0"),
            ("DRAIN_SECONDS", &drain),
            // Time to come back, and no more.
            ("DISCONNECT_GRACE_SECONDS", "3"),
        ])
        .await;
        let other_port = free_port();
        let other = scene.spawn(&[], &[("PORT", &other_port.to_string())]);
        eventually(PATIENCE, async || match status(other_port, "/ready").await {
            Some(200) => Ok(()),
            answer => Err(format!("{answer:?}")),
        })
        .await;
        let endpoint = format!("http://127.0.0.1:{other_port}");
        let container = scene.start_by_hand("ctr-mine", &[("API_ENDPOINT", &endpoint)]);
        Self { scene, other, other_port, container }
    }

    /// The same session's URL at the other server.
    fn elsewhere(&self, url: &str) -> String {
        url.replace(&format!(":{}/", self.scene.port), &format!(":{}/", self.other_port))
    }

    async fn finish(mut self) {
        processes::signal(self.container, Signal::TERM);
        assert!(self.scene.by_hand_ended("ctr-mine").await.success());
        processes::signal(self.other.id(), Signal::TERM);
        assert!(ended(self.other).await.success());
        self.scene.finish().await;
    }
}

/// Taken out: `draining` in `connect`, and the new client is let in; the wait in `Server::run`, and those who are
/// connected are cut off at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_takes_no_more_clients_keeps_those_it_has_and_then_sends_them_elsewhere() {
    let mut pair = Pair::new().await;
    let (session, parked) = (pair.scene.create().await, pair.scene.create().await);
    let mut cdp = pair.scene.connect(&session).await;
    assert_eq!(cdp.evaluate("window.marker = 42").await, json!(42));

    let port = pair.scene.port;
    let asked = Instant::now();
    pair.scene.signal_server(Signal::TERM);
    eventually(PATIENCE, async || match status(port, "/ready").await {
        Some(503) => Ok(()),
        answer => Err(format!("{answer:?}")),
    })
    .await;
    assert_eq!(status(port, "/health").await, Some(200), "it is alive");
    let (_, path) = parked.url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).expect("a path");
    assert_eq!(upgrade(port, &format!("/{path}")).await, 503, "nobody is let in");
    let mut next = Cdp::connect(&pair.elsewhere(&parked.url)).await;
    assert_eq!(next.evaluate("6 * 7").await, json!(42));
    assert_eq!(pair.scene.api("POST", "/sessions", &json!({})).await.status, 201, "what needs no socket goes on");
    while asked.elapsed() < DRAIN - Duration::from_secs(1) {
        assert_eq!(cdp.evaluate("window.marker").await, json!(42));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let (code, reason) = cdp.closed(PATIENCE).await;
    assert!(code == 1012 && reason.contains("connect again"), "{code} {reason}");
    assert!(asked.elapsed() >= DRAIN, "after {:?}", asked.elapsed());
    let mut again = Cdp::connect(&pair.elsewhere(&session.url)).await;
    assert_eq!(again.evaluate("window.marker").await, json!(42), "the page is still there");
    pair.scene.server_ended().await;
    assert_eq!(next.evaluate("6 * 7").await, json!(42), "the other server's client has noticed nothing");
    pair.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_asked_to_end_ends_when_its_last_client_has_left() {
    let mut pair = Pair::new().await;
    let session = pair.scene.create_with(json!({ "keepAlive": true })).await;
    let mut cdp = pair.scene.connect(&session).await;
    assert_eq!(cdp.evaluate("window.marker = 42").await, json!(42));
    pair.scene.signal_server(Signal::TERM);
    let port = pair.scene.port;
    eventually(PATIENCE, async || match status(port, "/ready").await {
        Some(503) => Ok(()),
        answer => Err(format!("{answer:?}")),
    })
    .await;
    let left = Instant::now();
    drop(cdp);
    pair.scene.server_ended().await;
    assert!(left.elapsed() < DRAIN, "it waited for nobody: {:?}", left.elapsed());
    let mut again = Cdp::connect(&pair.elsewhere(&session.url)).await;
    assert_eq!(again.evaluate("window.marker").await, json!(42));
    pair.finish().await;
}

/// Taken out: that those who are parked hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_a_browser_is_sent_elsewhere_by_a_server_that_ends() {
    let mut pair = Pair::new().await;
    processes::signal(pair.container, Signal::STOP);
    let session = pair.scene.create().await;
    let (_, path) = session.url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).expect("a path");
    let path = format!("/{path}");
    let waits = upgrade(pair.scene.port, &path);
    tokio::pin!(waits);
    assert!(timeout(Duration::from_secs(1), &mut waits).await.is_err(), "there is no browser");
    let asked = Instant::now();
    pair.scene.signal_server(Signal::TERM);
    assert_eq!(waits.await, 503);
    assert!(asked.elapsed() < DRAIN, "after {:?}", asked.elapsed());
    pair.scene.server_ended().await;
    processes::signal(pair.container, Signal::CONT);
    assert_eq!(Cdp::connect(&pair.elsewhere(&session.url)).await.evaluate("6 * 7").await, json!(42));
    pair.finish().await;
}
