//! The server is killed, and another takes its place.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use wallcrawler::clock::now_ms;
use wallcrawler::store::{Lost, Store};

use crate::processes;
use crate::scene::{PATIENCE, Scene};
use crate::world::{eventually, redis_command};

/// Longer than the three seconds after which a container that is silent counts as lost.
const LONG: Duration = Duration::from_millis(4_500);
/// Too short for anybody to notice that nobody looked, with containers silent for longer than they may be.
const SHORT: Duration = Duration::from_millis(2_500);

/// Containers go on, clients that return find their pages, and who does not return is missed in time.
async fn restart(down: Duration) {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "1"), ("MAX_SESSIONS_PER_CONTAINER", "2")]).await;
    let kept = scene.create_with(json!({"keepAlive": true})).await;
    let dropped = scene.create().await;
    let (mut kept_cdp, mut dropped_cdp) = (scene.connect(&kept).await, scene.connect(&dropped).await);
    let marker = format!("{:?}", Instant::now());
    kept_cdp.evaluate(&format!("window.marker = {marker:?}")).await;
    assert_eq!(dropped_cdp.evaluate("1 + 1").await, json!(2));
    let pending = scene.create().await;
    assert_eq!(scene.get(&pending.id).await["queuePosition"], 1);
    let containers = scene.launched();

    scene.kill_server();
    assert_eq!(kept_cdp.closed(PATIENCE).await.0, 1006);
    // Nobody changes anything now.
    let before = scene.contents().await;
    before.check();
    let connections = |contents: &crate::audit::Contents| {
        let keys = contents.hashes.keys().filter(|key| key.starts_with("connection:"));
        keys.cloned().collect::<Vec<_>>()
    };
    let carried = connections(&before);
    assert_eq!(carried.len(), 2);
    tokio::time::sleep(down).await;
    scene.start_server().await;
    let up = Instant::now();

    let mut kept_cdp = scene.connect(&kept).await;
    assert_eq!(kept_cdp.evaluate("window.marker").await, json!(marker), "the page is still there");
    assert_eq!(scene.end_reason(&dropped.id, PATIENCE).await, "disconnected");
    let missed = up.elapsed();
    let mut served = scene.connect(&pending).await;
    assert_eq!(served.evaluate("1 + 1").await, json!(2));
    println!("down for {down:?}: missed after {missed:?}, the next was served after {:?}", up.elapsed());
    assert!(missed < Duration::from_secs(10), "it took {missed:?}");

    let redis = scene.redis.client().await;
    eventually(PATIENCE, async || {
        let servers = redis_command(&redis, &["ZRANGE", "servers", "0", "-1"]).await.into_array();
        if servers.len() == 1 { Ok(()) } else { Err(format!("{servers:?}")) }
    })
    .await;
    let now = scene.contents().await;
    assert!(carried.iter().all(|connection| !now.hashes.contains_key(connection)), "the dead server's connections");
    assert_eq!(connections(&now).len(), 2);
    assert!(scene.logged("container lost").is_empty(), "nobody was there to hear it");
    assert_eq!(scene.launched().len(), containers.len(), "no other container was started");
    assert!(processes::lives(containers[0].1));

    // Frozen, so that all of it can be read at one moment.
    scene.kill_server();
    scene.contents().await.check();
    scene.start_server().await;
    for session in [&kept, &pending] {
        scene.release(&session.id).await;
    }
    // The container is nobody's child any more.
    scene.end_containers().await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_sockets_is_lost_when_the_server_is_killed_and_comes_back_late() {
    restart(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_sockets_is_lost_when_the_server_is_killed_and_comes_back_soon() {
    restart(SHORT).await;
}

/// Out of reach for too long, and given up by another server; its clients have noticed nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_given_up_and_comes_back_keeps_its_clients() {
    let mut scene = Scene::new(&[("DISCONNECT_GRACE_SECONDS", "3")]).await;
    let (stays, leaves) = (scene.create().await, scene.create().await);
    let (mut cdp, mut leaving) = (scene.connect(&stays).await, scene.connect(&leaves).await);
    assert_eq!(leaving.evaluate("1 + 1").await, json!(2));
    assert_eq!(cdp.evaluate("1 + 1").await, json!(2));
    let server = scene.contents().await.sorted["servers"][0].0.parse().expect("an id");

    scene.signal_server(Signal::STOP);
    tokio::time::sleep(LONG).await;
    // What another one does.
    let store = Store::open(&scene.redis.url(), "").expect("a store");
    let now = now_ms();
    let silent_since = Some(now - u64::try_from(LONG.as_millis()).expect("short") + 1_500);
    let Lost::Now(lost) = store.lose_server(&server, silent_since, 10, now).await.expect("redis answers") else {
        panic!("it was heard of");
    };
    assert_eq!(lost.len(), 2);
    let limits = scene.config().limits;
    for (connection, session) in &lost {
        store.disconnect(connection, Some(session), &limits, now).await.expect("redis answers");
    }
    scene.signal_server(Signal::CONT);

    let back = Instant::now();
    drop(leaving);
    assert_eq!(scene.end_reason(&leaves.id, PATIENCE).await, "disconnected");
    while back.elapsed() < Duration::from_secs(5) {
        assert_eq!(cdp.evaluate("1 + 1").await, json!(2));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let now = scene.get(&stays.id).await;
    assert_eq!((now["status"].as_str(), now["activeConnections"].as_u64()), (Some("active"), Some(1)), "{now}");
    drop(cdp);
    assert_eq!(scene.end_reason(&stays.id, PATIENCE).await, "disconnected");
    scene.stop_server().await;
    let contents = scene.contents().await;
    assert!(!contents.hashes.keys().any(|key| key.starts_with("connection:")), "nobody is connected any more");
    scene.finish().await;
}

/// Whoever looks next need not wait until it is found silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_in_order_leaves_no_trace_of_itself() {
    let mut scene = Scene::new(&[]).await;
    let session = scene.create().await;
    let mut cdp = scene.connect(&session).await;
    assert_eq!(cdp.evaluate("1 + 1").await, json!(2));
    assert_eq!(scene.contents().await.sorted["servers"].len(), 1);
    scene.stop_server().await;
    let contents = scene.contents().await;
    assert!(!contents.sorted.contains_key("servers"), "{:?}", contents.sorted["servers"]);
    let carried: Vec<_> = contents.sets.keys().filter(|key| key.starts_with("server:")).collect();
    assert!(carried.is_empty(), "{carried:?}");
    scene.finish().await;
}
