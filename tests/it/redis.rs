//! Redis as it is run in production: with TLS, users and replicas, as a cluster, and in every state in which it
//! answers and cannot be worked with.

mod acl;
mod cluster;
mod moves;
mod primary;
mod program;
mod refusals;
mod tls;

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::json;
use wallcrawler::fleet::none::NoFleet;
use wallcrawler::store::StoreError;
use wallcrawler::store::failure::Failure;

use crate::world::{Plane, Redis, claimed, config_at, eventually};

/// For what must come, however crowded the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nobody listens on, outside the range from which the system takes ports for others.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 100).expect("small") * 100;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// One on a port.
struct Server {
    redis: Redis,
    port: u16,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let port = free_port();
        let text = port.to_string();
        Self { redis: Redis::with(&[&["--port", &text], args].concat()), port }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// The application on whatever a URL leads to.
async fn plane(url: &str, vars: &[(&str, &str)]) -> Plane {
    Plane::on(url, config_at(url, vars), Box::new(NoFleet)).await
}

/// A client is refused in time and told to come again; the log knows why.
async fn is_refused(plane: &Plane, because: Failure) {
    let id = "ses_1".parse().expect("an id");
    eventually(PATIENCE, async || match plane.app.store.get(&id).await {
        Err(StoreError::Unavailable(failure, _)) if failure == because => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let started = Instant::now();
    let answer = plane.client("key-one").post("/sessions", &json!({})).await;
    let took = started.elapsed();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.body["code"], "store_unavailable");
    assert!(answer.headers.contains_key("retry-after") && answer.headers.contains_key("retry-after-ms"));
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

async fn is_ready(plane: &Plane) {
    eventually(PATIENCE, async || {
        let ready = plane.client("key-one").get("/ready").await;
        if ready.status == StatusCode::OK { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
}

/// A session from its creation to its end, the container woken by an event.
async fn a_session_lives(plane: &Plane) {
    let client = plane.client("key-one");
    let container = plane.container("ctr-life");
    let id = eventually(PATIENCE, async || {
        let held = claimed(&container.claim("ctr-life", 100, &[]).await);
        let wait = json!({
            "containerId": "ctr-life", "currentSessions": held.len(), "maxSessions": 100, "sessionIds": held,
            "waitSeconds": 10,
        });
        let create = async {
            // The claim is there by then, or the next try shows it.
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.create().await
        };
        let started = Instant::now();
        let (answer, id) = tokio::join!(container.post("/sessions/claim", &wait), create);
        assert_eq!(claimed(&answer.body), [id.as_str()]);
        let took = started.elapsed();
        // By itself it looks after two seconds.
        if took < Duration::from_millis(1_500) { Ok(id) } else { Err(format!("woken after {took:?}")) }
    })
    .await;
    let report = json!({"lease": 1, "cdpSecret": "0123456789abcdef"});
    assert_eq!(container.post(&format!("/sessions/{id}/ready"), &report).await.body["success"], true);
    assert_eq!(client.get(&format!("/sessions/{id}")).await.body["status"], "active");
    assert_eq!(client.delete(&format!("/sessions/{id}")).await.body["endReason"], "released");
    let listed = client.get("/sessions?status=ended").await;
    assert!(listed.body["sessions"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == id)), "{listed:?}");
}
