//! How containers are started: no more than are needed, and not in a storm when they do not come.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use wallcrawler::server::Server;

use crate::processes;
use crate::scene::{CROWD, Created, PATIENCE, Scene};
use crate::world::{eventually, redis_command};

/// For forty browsers on a crowded machine.
const MANY: Duration = Duration::from_secs(60);

async fn active(scene: &Scene) -> usize {
    let page = scene.api("GET", "/sessions?status=active&limit=100", &Value::Null).await.body;
    page["sessions"].as_array().expect("a list").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_sessions_at_once_start_four_containers_of_ten() {
    let _crowd = CROWD.lock().await;
    let scene = Scene::new(&[("MAX_CONTAINERS", "10"), ("MAX_SESSIONS_PER_CONTAINER", "10")]).await;
    let sessions: Vec<Created> = join_all((0..40).map(|_| scene.create())).await;
    let started = Instant::now();
    tokio::time::timeout(MANY, join_all(sessions.iter().map(|session| scene.ready(session)))).await.expect("in time");
    println!("forty browsers were ready after {:?}", started.elapsed());
    assert_eq!(scene.launched().len(), 4);
    assert_eq!(processes::browsers(&scene.tmp().join("wallcrawler")).len(), 40);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_containers_cannot_take_is_served_in_order_as_slots_become_free() {
    let _crowd = CROWD.lock().await;
    let scene = Scene::new(&[("MAX_CONTAINERS", "2"), ("MAX_SESSIONS_PER_CONTAINER", "10")]).await;
    let mut sessions: Vec<Created> = join_all((0..20).map(|_| scene.create())).await;
    for _ in 0..20 {
        sessions.push(scene.create().await);
    }
    eventually(MANY, async || match active(&scene).await {
        20 => Ok(()),
        count => Err(format!("{count} active")),
    })
    .await;
    assert_eq!(scene.launched().len(), 2);
    for (place, session) in sessions[20..].iter().enumerate() {
        let position = scene.get(&session.id).await["queuePosition"].as_u64();
        assert_eq!(position, Some(place as u64 + 1), "those made last wait, in the order in which they were made");
    }

    // Each slot that becomes free goes to the head of the queue.
    let (first, queue) = sessions.split_at(20);
    for (done, next) in first.iter().zip(&queue[..5]) {
        scene.release(&done.id).await;
        scene.has_status(&next.id, "active", PATIENCE).await;
    }
    assert_eq!(scene.get(&queue[5].id).await["queuePosition"], 1);
    assert_eq!(scene.get(&queue[19].id).await["queuePosition"], 15);
    join_all(first[5..].iter().map(|session| scene.release(&session.id))).await;
    eventually(MANY, async || match active(&scene).await {
        20 => Ok(()),
        count => Err(format!("{count} active")),
    })
    .await;
    assert_eq!(scene.launched().len(), 2, "the same two containers");
    scene.finish().await;
}

/// While containers end, what still waits must not have new ones started that nobody ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_with_sessions_in_its_queue_leaves_no_container_behind() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "2"), ("MAX_SESSIONS_PER_CONTAINER", "1")]).await;
    let sessions: Vec<Created> = join_all((0..6).map(|_| scene.create())).await;
    eventually(PATIENCE, async || match active(&scene).await {
        2 => Ok(()),
        count => Err(format!("{count} active")),
    })
    .await;
    let asked = Instant::now();
    let url = scene.url();
    // Somebody goes on asking for sessions while the server ends.
    let asking = tokio::spawn(async move {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        while http.post(format!("{url}/sessions")).header("x-api-key", "key-one").send().await.is_ok() {}
    });
    scene.stop_server().await;
    println!("the server ended {:?} after it was asked to", asked.elapsed());
    asking.await.expect("it ends with the server");
    assert!(sessions.len() == 6);
    scene.finish().await;
}

/// Counts how often it is started, and never comes.
async fn that_never_comes(exists: bool) {
    let scene =
        Scene::empty(&[("MAX_CONTAINERS", "3"), ("MAX_SESSIONS_PER_CONTAINER", "1"), ("QUEUE_TIMEOUT_SECONDS", "5")])
            .await;
    let program = scene.tmp().with_file_name("program");
    let count = scene.tmp().with_file_name("count");
    if exists {
        std::fs::write(&program, format!("#!/bin/sh\necho >> {}\nexit 1\n", count.display())).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let attempts = || std::fs::read_to_string(&count).unwrap_or_default().lines().count();
    let server = Server::start(scene.config(), program).await.expect("it starts");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { stopped.await.expect("asked") }));
    let began = Instant::now();
    let sessions: Vec<Created> = join_all((0..3).map(|_| scene.create())).await;
    for session in &sessions {
        assert_eq!(scene.end_reason(&session.id, PATIENCE).await, "queue_timeout");
    }
    let (elapsed, tried) = (began.elapsed(), attempts());
    println!("{tried} attempts for three containers in {elapsed:?}");
    assert!(elapsed >= Duration::from_secs(5), "they ended after {elapsed:?}");
    let ticks = usize::try_from(elapsed.as_secs()).expect("short") + 2;
    assert!(!exists || (6..=3 * ticks).contains(&tried), "{tried} attempts in {elapsed:?}");
    let redis = scene.redis.client().await;
    eventually(PATIENCE, async || match redis_command(&redis, &["ZCARD", "containers-starting"]).await.as_u64() {
        Some(0) => Ok(()),
        reserved => Err(format!("{reserved:?} reservations")),
    })
    .await;
    let tried = attempts();
    stop.send(()).expect("it runs");
    running.await.expect("no panic").expect("a clean end");
    assert_eq!(attempts(), tried, "with nobody waiting nothing is started");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_end_at_once_are_tried_again_at_a_measured_pace() {
    that_never_comes(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_cannot_even_be_started_leave_their_sessions_in_the_queue() {
    that_never_comes(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_hangs_is_ended_once_it_is_given_up() {
    let scene = Scene::new(&[]).await;
    let session = scene.create().await;
    scene.ready(&session).await;
    let (container, pid) = scene.launched().remove(0);
    processes::signal(pid, rustix::process::Signal::STOP);
    let mut cdp = scene.connect(&session).await;
    assert_eq!(cdp.evaluate("1 + 1").await, json!(2));
    assert_ne!(scene.get(&session.id).await["containerId"], container.as_str());
    eventually(PATIENCE, async || if processes::lives(pid) { Err("it hangs on".to_owned()) } else { Ok(()) }).await;
    scene.finish().await;
}
