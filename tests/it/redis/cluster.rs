//! A cluster of three primaries and three replicas, on which the slot of our keys is moved from one to another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use fred::prelude::Client as RedisClient;
use fred::util::redis_keyslot;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, PATIENCE, Server, a_session_lives, free_port, is_ready, is_refused, moves, plane};
use crate::audit::Contents;
use crate::world::{Plane, claimed, eventually, redis_command};

const PREFIX: &str = "{wallcrawler}:";
const VARS: [(&str, &str); 1] = [("KEY_PREFIX", PREFIX)];

struct Node {
    server: Server,
    bus: String,
    admin: RedisClient,
}

impl Node {
    async fn start() -> Self {
        let bus = free_port().to_string();
        let server = Server::start(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--cluster-announce-ip",
            "127.0.0.1",
            "--cluster-node-timeout",
            "1000",
            "--cluster-replica-validity-factor",
            "0",
            "--repl-diskless-sync-delay",
            "0",
        ]);
        let admin = server.redis.client().await;
        Self { server, bus, admin }
    }

    async fn says(&self, words: &[&str]) -> String {
        redis_command(&self.admin, words).await.into_string().expect("a text")
    }

    async fn id(&self) -> String {
        self.says(&["CLUSTER", "MYID"]).await
    }

    /// How many calls of this command it has carried out, and how many it has sent elsewhere.
    async fn calls(&self, command: &str) -> (u64, u64) {
        let stats = self.says(&["INFO", "commandstats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:"))).unwrap_or_default();
        let count = |name: &str| {
            let field = line.split(',').find_map(|field| field.strip_prefix(name)).unwrap_or("0");
            field.parse::<u64>().expect("a number")
        };
        (count("calls="), count("rejected_calls="))
    }
}

/// Three primaries, and after them their replicas.
struct Cluster(Vec<Node>);

impl Cluster {
    async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(Node::start().await);
        }
        for (index, (first, last)) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")].iter().enumerate() {
            redis_command(&nodes[index].admin, &["CLUSTER", "ADDSLOTSRANGE", first, last]).await;
        }
        for (index, node) in nodes.iter().enumerate() {
            redis_command(&node.admin, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await;
            let port = nodes[0].server.port.to_string();
            redis_command(&node.admin, &["CLUSTER", "MEET", "127.0.0.1", &port, &nodes[0].bus]).await;
        }
        for index in 3..6 {
            let primary = nodes[index - 3].id().await;
            eventually(PATIENCE, async || {
                let known = nodes[index].says(&["CLUSTER", "NODES"]).await;
                if known.lines().any(|line| line.starts_with(&primary)) { Ok(()) } else { Err(known) }
            })
            .await;
            redis_command(&nodes[index].admin, &["CLUSTER", "REPLICATE", &primary]).await;
        }
        let cluster = Self(nodes);
        for node in &cluster.0 {
            eventually(PATIENCE, async || {
                let (info, nodes) = (node.says(&["CLUSTER", "INFO"]).await, node.says(&["CLUSTER", "NODES"]).await);
                let known = nodes.lines().count() == 6 && nodes.matches("slave").count() == 3;
                if known && info.contains("cluster_state:ok") { Ok(()) } else { Err(format!("{info}\n{nodes}")) }
            })
            .await;
        }
        for replica in &cluster.0[3..] {
            eventually(PATIENCE, async || {
                let info = replica.says(&["INFO", "replication"]).await;
                if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
            })
            .await;
        }
        cluster
    }

    /// The one among the first three that holds our keys.
    fn home(&self) -> usize {
        usize::from(redis_keyslot(PREFIX.as_bytes()) / 5_461)
    }

    fn url(&self, index: usize) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.0[index].server.port)
    }

    async fn becomes_primary(&self, index: usize) {
        eventually(PATIENCE, async || {
            let info = self.0[index].says(&["INFO", "replication"]).await;
            if info.contains("role:master") { Ok(()) } else { Err(info) }
        })
        .await;
    }
}

/// What was answered while something happened.
#[derive(Default)]
struct Seen {
    created: Mutex<Vec<(Instant, String)>>,
    refused: Mutex<BTreeMap<&'static str, usize>>,
    longest: Mutex<Duration>,
}

impl Seen {
    fn created(&self) -> BTreeSet<String> {
        self.created.lock().expect("not poisoned").iter().map(|(_, id)| id.clone()).collect()
    }

    /// Whatever is not done is refused as it should be, and in time.
    fn answer(&self, what: &'static str, expected: StatusCode, answer: &crate::world::Answer, started: Instant) {
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{what} took {took:?}");
        let mut longest = self.longest.lock().expect("not poisoned");
        *longest = took.max(*longest);
        if answer.status != expected {
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{what}: {answer:?}");
            assert_eq!(answer.body["code"], "store_unavailable", "{what}");
            *self.refused.lock().expect("not poisoned").entry(what).or_default() += 1;
        }
    }

    async fn create(&self, plane: &Plane, stop: &CancellationToken) {
        let client = plane.client("key-one");
        while !stop.is_cancelled() {
            let started = Instant::now();
            let answer = client.post("/sessions", &json!({})).await;
            self.answer("create", StatusCode::CREATED, &answer, started);
            if answer.status == StatusCode::CREATED {
                let id = answer.body["id"].as_str().expect("an id").to_owned();
                self.created.lock().expect("not poisoned").push((Instant::now(), id));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn claim(&self, plane: &Plane, stop: &CancellationToken, name: &str) {
        let container = plane.container(name);
        let mut held: Vec<String> = Vec::new();
        while !stop.is_cancelled() {
            let claim = json!({
                "containerId": name, "currentSessions": held.len(), "maxSessions": held.len() + 1, "sessionIds": held,
                "address": "127.0.0.1:9",
            });
            let started = Instant::now();
            let answer = container.post("/sessions/claim", &claim).await;
            self.answer("claim", StatusCode::OK, &answer, started);
            if answer.status == StatusCode::OK {
                held.extend(claimed(&answer.body));
                let end: Vec<String> = serde_json::from_value(answer.body["end"].clone()).expect("ids");
                held.retain(|id| !end.contains(id));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn look(&self, plane: &Plane, stop: &CancellationToken) {
        let client = plane.client("key-one");
        while !stop.is_cancelled() {
            let started = Instant::now();
            let answer = client.get("/sessions?limit=1").await;
            self.answer("list", StatusCode::OK, &answer, started);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Clients and containers come and go on while `what` happens.
    async fn during<T>(&self, plane: &Plane, what: impl Future<Output = T>) -> T {
        let stop = CancellationToken::new();
        let happens = async {
            let value = what.await;
            stop.cancel();
            value
        };
        let (value, ..) = tokio::join!(
            happens,
            self.create(plane, &stop),
            self.create(plane, &stop),
            self.claim(plane, &stop, "ctr-a"),
            self.claim(plane, &stop, "ctr-b"),
            self.look(plane, &stop),
        );
        value
    }

    async fn has_created(&self, more: usize) {
        let wanted = self.created().len() + more;
        eventually(PATIENCE, async || {
            let count = self.created().len();
            if count >= wanted { Ok(()) } else { Err(format!("{count} of {wanted}")) }
        })
        .await;
    }
}

/// Each is served, waits, or has ended for a reason.
async fn are_known(plane: &Plane, ids: &BTreeSet<String>) {
    let client = plane.client("key-one");
    for id in ids {
        let session = client.get(&format!("/sessions/{id}")).await;
        assert_eq!(session.status, StatusCode::OK, "{id} is lost: {session:?}");
        let ended = session.body["status"] == "ended";
        assert_eq!(ended, session.body["endReason"].is_string(), "{session:?}");
    }
}

#[tokio::test]
async fn a_session_lives_on_a_cluster_as_elsewhere_and_a_planned_failover_loses_nothing() {
    let cluster = Cluster::start().await;
    let home = cluster.home();
    let plane = plane(&cluster.url((home + 1) % 3), &VARS).await;
    is_ready(&plane).await;
    a_session_lives(&plane).await;
    redis_command(&cluster.0[home].admin, &["FLUSHALL"]).await;
    moves::make_all(&plane.app.store).await;

    // Each is one command, and none goes to the wrong node first.
    let count = async || {
        let mut sum = (0, 0);
        for node in &cluster.0 {
            for command in ["evalsha", "eval"] {
                let (calls, rejected) = node.calls(command).await;
                sum = (sum.0 + calls, sum.1 + rejected);
            }
        }
        sum
    };
    let before = count().await;
    let client = plane.client("key-one");
    let id = client.create().await;
    client.get(&format!("/sessions/{id}")).await;
    client.get("/sessions").await;
    client.delete(&format!("/sessions/{id}")).await;
    assert_eq!(count().await, (before.0 + 4, before.1));

    for node in &cluster.0 {
        redis_command(&node.admin, &["SCRIPT", "FLUSH"]).await;
    }
    a_session_lives(&plane).await;

    let seen = Seen::default();
    let replica = &cluster.0[home + 3];
    seen.during(&plane, async {
        seen.has_created(20).await;
        redis_command(&replica.admin, &["CLUSTER", "FAILOVER"]).await;
        cluster.becomes_primary(home + 3).await;
        seen.has_created(20).await;
    })
    .await;
    are_known(&plane, &seen.created()).await;
    let refused = seen.refused.lock().expect("not poisoned").clone();
    println!("planned: {refused:?}, longest {:?}", seen.longest.lock().expect("not poisoned"));
    assert!(refused.is_empty(), "nobody is refused: {refused:?}");
    Contents::read_below(&replica.admin, PREFIX).await.check();
    a_session_lives(&plane).await;
}

#[tokio::test]
async fn when_the_primary_is_killed_its_replica_serves_all_that_had_reached_it() {
    let mut cluster = Cluster::start().await;
    let home = cluster.home();
    // Of all nodes the one that is named.
    let plane = plane(&cluster.url(home), &VARS).await;
    is_ready(&plane).await;
    let seen = Seen::default();
    let (safe, killed, back) = seen
        .during(&plane, async {
            seen.has_created(20).await;
            let safe = seen.created();
            let admin = cluster.0[home].admin.clone();
            let key = format!("{PREFIX}dev-jwe-secret");
            redis_command(&admin, &["SET", &key, "any"]).await;
            assert_eq!(redis_command(&admin, &["WAIT", "1", "5000"]).await.as_u64(), Some(1));
            seen.has_created(5).await;
            cluster.0[home].server.redis.kill();
            let killed = Instant::now();
            cluster.becomes_primary(home + 3).await;
            let promoted = killed.elapsed();
            seen.has_created(20).await;
            let created = seen.created.lock().expect("not poisoned");
            let back = created.iter().map(|(at, _)| at.duration_since(killed)).find(|after| !after.is_zero());
            println!("promoted after {promoted:?}");
            (safe, killed, back.expect("created afterwards"))
        })
        .await;
    are_known(&plane, &safe).await;
    // Also all that was made afterwards; only of the last moment before it something may be lost.
    let created = seen.created.lock().expect("not poisoned").clone();
    let after = created.iter().filter(|(at, _)| *at > killed + Duration::from_secs(1)).map(|(_, id)| id.clone());
    are_known(&plane, &after.collect()).await;
    let refused = seen.refused.lock().expect("not poisoned").clone();
    println!("back after {back:?}, refused {refused:?}, longest {:?}", seen.longest.lock().expect("not poisoned"));
    assert!(back < Duration::from_secs(10), "back after {back:?}");
    Contents::read_below(&cluster.0[home + 3].admin, PREFIX).await.check();
    // The events are heard, whichever node told of them before.
    a_session_lives(&plane).await;
}

#[tokio::test]
async fn a_cluster_and_a_single_server_are_not_taken_for_each_other() {
    let mut node = Node::start().await;
    redis_command(&node.admin, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    eventually(PATIENCE, async || {
        let info = node.says(&["CLUSTER", "INFO"]).await;
        if info.contains("cluster_state:ok") { Ok(()) } else { Err(info) }
    })
    .await;
    // As one server, without a hash tag.
    is_refused(&plane(&node.server.url(), &[]).await, Failure::IsCluster).await;
    let as_cluster = format!("redis-cluster://127.0.0.1:{}", node.server.port);
    let plane = plane(&as_cluster, &VARS).await;
    a_session_lives(&plane).await;

    redis_command(&node.admin, &["CLUSTER", "DELSLOTSRANGE", "0", "16383"]).await;
    is_refused(&plane, Failure::ClusterDown).await;
    redis_command(&node.admin, &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    is_ready(&plane).await;

    node.server.redis.kill();
    let port = node.server.port.to_string();
    node.server.redis.begin_again(&["--port", &port]);
    is_refused(&plane, Failure::NoCluster).await;
    // What cannot be right at first may be put right.
    node.server.redis.kill();
    node.server.redis.begin_again(&["--port", &port, "--cluster-enabled", "yes", "--cluster-port", &node.bus]);
    is_ready(&plane).await;
    a_session_lives(&plane).await;
}
