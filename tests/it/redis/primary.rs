//! The name of the primary comes to stand for another server, as where a service fails over behind a DNS name.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Failure, PATIENCE, Server, a_session_lives, is_ready, is_refused, plane};
use crate::audit::Contents;
use crate::world::{eventually, redis_command};

/// Leads new connections to wherever it points. Those that are there stay where they are.
struct Name {
    port: u16,
    target: Arc<Mutex<u16>>,
    task: JoinHandle<()>,
}

impl Name {
    async fn of(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let target = Arc::new(Mutex::new(server.port));
        let points_to = target.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.expect("a connection");
                let port = *points_to.lock().expect("not poisoned");
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { port, target, task }
    }

    fn point_to(&self, server: &Server) {
        *self.target.lock().expect("not poisoned") = server.port;
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follows(replica: &Server, primary: &Server) {
    let admin = replica.redis.client().await;
    redis_command(&admin, &["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
    eventually(PATIENCE, async || {
        let info = redis_command(&admin, &["INFO", "replication"]).await.into_string().expect("a text");
        if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
    })
    .await;
}

/// One that never breaks a connection and never answers, as a machine that is gone.
#[tokio::test]
async fn a_primary_that_hangs_is_left_for_the_one_that_the_name_stands_for_while_requests_come() {
    let quick = ["--repl-diskless-sync-delay", "0"];
    let (first, second) = (Server::start(&quick), Server::start(&quick));
    follows(&second, &first).await;
    let name = Name::of(&first).await;
    let plane = plane(&name.url(), &[]).await;
    is_ready(&plane).await;
    first.redis.signal("-STOP");
    redis_command(&second.redis.client().await, &["REPLICAOF", "NO", "ONE"]).await;
    name.point_to(&second);
    let client = plane.client("key-one");
    let ready = CancellationToken::new();
    // More than one at a time, so that there is always one that has just been sent.
    let ask = async {
        while !ready.is_cancelled() {
            let started = Instant::now();
            if client.get("/ready").await.status == StatusCode::OK {
                ready.cancel();
            }
            let took = started.elapsed();
            assert!(took < Duration::from_secs(2), "it took {took:?}");
        }
    };
    let later = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        while !ready.is_cancelled() {
            client.get("/ready").await;
        }
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(ask, later) }).await.expect("it is ready again");
    a_session_lives(&plane).await;
    first.redis.signal("-CONT");
}

#[tokio::test]
async fn a_primary_that_has_become_a_replica_is_left_for_the_one_that_the_name_stands_for() {
    let quick = ["--repl-diskless-sync-delay", "0"];
    let (first, second) = (Server::start(&quick), Server::start(&quick));
    follows(&second, &first).await;
    let name = Name::of(&first).await;
    let plane = plane(&name.url(), &[]).await;
    is_ready(&plane).await;
    a_session_lives(&plane).await;
    let id = plane.client("key-one").create().await;
    let written = first.redis.client().await;
    redis_command(&written, &["SET", "dev-jwe-secret", "any"]).await;
    let copies = redis_command(&written, &["WAIT", "1", "5000"]).await;
    assert_eq!(copies.as_u64(), Some(1));

    // The roles change first, and the name some time later.
    redis_command(&second.redis.client().await, &["REPLICAOF", "NO", "ONE"]).await;
    follows(&first, &second).await;
    is_refused(&plane, Failure::NotPrimary).await;
    let client = plane.client("key-one");
    // What it knows may be old, so it is not asked for that either.
    for path in ["/ready", "/sessions", &format!("/sessions/{id}")] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {answer:?}");
    }
    name.point_to(&second);
    is_ready(&plane).await;
    assert_eq!(client.get(&format!("/sessions/{id}")).await.body["status"], "pending");
    a_session_lives(&plane).await;

    // The other way round, and the name first: nobody is refused.
    follows(&first, &second).await;
    let second_admin = second.redis.client().await;
    redis_command(&second_admin, &["SET", "dev-jwe-secret", "other"]).await;
    assert_eq!(redis_command(&second_admin, &["WAIT", "1", "5000"]).await.as_u64(), Some(1));
    name.point_to(&first);
    redis_command(&first.redis.client().await, &["REPLICAOF", "NO", "ONE"]).await;
    follows(&second, &first).await;
    let new = client.post("/sessions", &json!({})).await;
    assert_eq!(new.status, StatusCode::CREATED, "{new:?}");
    assert_eq!(client.get(&format!("/sessions/{id}")).await.status, StatusCode::OK);
    Contents::read(&first.redis.client().await).await.check();
}
