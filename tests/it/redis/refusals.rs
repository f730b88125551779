//! Redis answers, and cannot be worked with.

use axum::http::StatusCode;
use fred::prelude::{Client as RedisClient, ClientLike as _};
use serde_json::json;
use wallcrawler::ids::{ContainerId, Owner, ServerId, SessionId};
use wallcrawler::session::EndReason;
use wallcrawler::store::{Connect, Ended, EndedBy, Lost, NotComing, Routed, Store, StoreError};

use super::moves::{connection, create, report};
use super::{Failure, PATIENCE, Server, a_session_lives, is_ready, is_refused, plane};
use crate::audit::Contents;
use crate::model::{FIRST, START, claim_request, limits, policy};
use crate::world::{Redis, eventually, redis_command};

async fn set(admin: &RedisClient, name: &str, value: &str) {
    redis_command(admin, &["CONFIG", "SET", name, value]).await;
}

#[tokio::test]
async fn what_keeps_redis_from_taking_writes_is_a_refusal_until_it_passes() {
    let server = Server::start(&["--enable-protected-configs", "yes"]);
    let admin = server.redis.client().await;
    let plane = plane(&server.url(), &[]).await;
    is_ready(&plane).await;

    set(&admin, "min-replicas-to-write", "1").await;
    is_refused(&plane, Failure::TooFewReplicas).await;
    set(&admin, "min-replicas-to-write", "0").await;
    is_ready(&plane).await;

    // A replica whose primary is not there.
    set(&admin, "replica-serve-stale-data", "no").await;
    redis_command(&admin, &["REPLICAOF", "127.0.0.1", "1"]).await;
    is_refused(&plane, Failure::NotPrimary).await;
    redis_command(&admin, &["REPLICAOF", "NO", "ONE"]).await;
    is_ready(&plane).await;

    set(&admin, "busy-reply-threshold", "20").await;
    let other = server.redis.client().await;
    let script = tokio::spawn(async move {
        let command = fred::types::CustomCommand::new_static("EVAL", None, false);
        let ended: Result<(), _> = other.custom(command, vec!["while true do end", "0"]).await;
        ended
    });
    is_refused(&plane, Failure::Busy).await;
    redis_command(&admin, &["SCRIPT", "KILL"]).await;
    assert!(script.await.expect("no panic").is_err());
    is_ready(&plane).await;

    // Where it saves to is gone.
    let gone = server.redis.dir.join("gone");
    std::fs::create_dir(&gone).expect("made");
    set(&admin, "dir", &gone.display().to_string()).await;
    std::fs::remove_dir(&gone).expect("removed");
    set(&admin, "save", "3600 1").await;
    redis_command(&admin, &["BGSAVE"]).await;
    is_refused(&plane, Failure::CannotSave).await;
    set(&admin, "dir", &server.redis.dir.display().to_string()).await;
    set(&admin, "save", "").await;
    is_ready(&plane).await;
    a_session_lives(&plane).await;
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_waited_for() {
    let mut server = Server::start(&[]);
    let plane = plane(&server.url(), &[]).await;
    let id = plane.client("key-one").create().await;
    let admin = server.redis.client().await;
    let fill = "for i = 1, 6000 do redis.call('HSET', 'idempotency:any:' .. i, 'body', i) end";
    redis_command(&admin, &["EVAL", fill, "0"]).await;
    server.redis.kill();
    server.redis.begin_again(&["--port", &server.port.to_string(), "--key-load-delay", "300"]);
    is_refused(&plane, Failure::Loading).await;
    is_ready(&plane).await;
    assert_eq!(plane.client("key-one").get(&format!("/sessions/{id}")).await.body["status"], "pending");
    a_session_lives(&plane).await;
}

#[tokio::test]
async fn with_a_full_memory_nothing_new_begins_and_everything_goes_on_and_ends() {
    let redis = Redis::start();
    let admin = redis.client().await;
    let store = Store::open(&redis.url(), "").expect("a store");
    let (limits, user) = (limits(), Owner::User("user_1".parse().expect("an id")));
    let (container, silent, reserved) = (ContainerId::random(), ContainerId::random(), ContainerId::random());
    let (server, ours, kept) = (ServerId::random(), connection("ours"), connection("kept"));
    let mut ids: Vec<SessionId> = Vec::new();
    for _ in 0..6 {
        ids.push(create(&store, &reserved).await.expect("there is room"));
    }
    let claim = |container: &ContainerId, max, held: &[SessionId]| {
        let request = claim_request(container, max, held);
        let (store, limits) = (store.clone(), limits.clone());
        async move { store.claim(&request, FIRST, &limits, &policy(3), START).await.map(|claimed| claimed.sessions.len()) }
    };
    assert_eq!(claim(&container, 2, &[]).await.expect("there is room"), 2);
    assert_eq!(claim(&silent, 1, &[]).await.expect("there is room"), 1);
    let empty = ContainerId::random();
    assert_eq!(claim(&empty, 0, &[]).await.expect("there is room"), 0);
    assert!(store.ready(&ids[0], &container, &report(), &limits, START).await.expect("there is room").is_some());
    let connected = store.connect(&ids[0], &ours, &server, START).await.expect("there is room");
    assert!(matches!(connected, Connect::Ready { .. }));
    store.enter(&ids[1], &kept, START).await.expect("there is room");

    set(&admin, "maxmemory", "1").await;
    for refused in [create(&store, &reserved).await.err(), store.route(&kept, "1", "{}", false).await.err()] {
        assert!(matches!(refused, Some(StoreError::Unavailable(Failure::MemoryFull, _))), "{refused:?}");
    }
    store.ping().await.expect("it can be worked with");
    assert!(store.get(&ids[3]).await.expect("reads work").is_some());
    assert_eq!(claim(&container, 3, &ids[..2]).await.expect("a container goes on"), 1);
    assert!(store.ready(&ids[1], &container, &report(), &limits, START).await.expect("goes on").is_some());
    assert!(matches!(store.route(&kept, "1", "{}", true).await.expect("nothing is kept"), Routed::To { .. }));
    assert!(store.reach(&ids[0], &ours, START).await.expect("goes on"));
    store.disconnect(&ours, Some(&ids[0]), &limits, START).await.expect("goes on");
    store.beat_server(&server, START).await.expect("goes on");
    assert_eq!(store.lose_server(&server, None, 10, START).await.expect("goes on"), Lost::Now(Vec::new()));
    assert_eq!(store.snapshot(5_000, START).await.expect("goes on").containers.len(), 3);
    // First of all something is taken away in the one, and written in the other.
    for lost in [&silent, &empty] {
        assert!(matches!(
            store.lose_container(lost, "lost", None, &limits, START).await.expect("goes on"),
            Lost::Now(_)
        ));
    }
    for id in &ids[..2] {
        let ended = store.end(id, EndedBy::Owner(&user), EndReason::Released, &limits, START).await.expect("ends");
        assert!(matches!(ended, Ended::Now(_)));
    }
    assert_eq!(store.closing(&[], 10).await.expect("goes on").len(), 1);
    assert!(store.give_back(&reserved, NotComing::Failed("it failed"), START).await.expect("goes on"));
    let due = START + limits.queue_wait_ms;
    assert_eq!(store.expire(&limits, 10, due).await.expect("ends").len(), 4);
    assert_eq!(store.purge(10, due + limits.retention_ms).await.expect("forgets"), 6);
    assert!(store.drain(&container, Some(60_000), &policy(3), due + 60_000).await.expect("goes on"));
    Contents::read(&admin).await.check();

    set(&admin, "maxmemory", "0").await;
    create(&store, &reserved).await.expect("there is room again");
}

#[tokio::test]
async fn with_a_full_memory_a_client_is_told_to_come_again() {
    let server = Server::start(&[]);
    let admin = server.redis.client().await;
    let plane = plane(&server.url(), &[]).await;
    let client = plane.client("key-one");
    let id = client.create().await;
    set(&admin, "maxmemory", "1").await;
    let answer = client.post("/sessions", &json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.body["code"], "store_unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(client.delete(&format!("/sessions/{id}")).await.body["status"], "ended");
    assert_eq!(client.get("/ready").await.status, StatusCode::OK, "it must be reached to end what there is");
    set(&admin, "maxmemory", "0").await;
    eventually(PATIENCE, async || {
        let answer = client.post("/sessions", &json!({})).await;
        if answer.status == StatusCode::CREATED { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}
