//! A container that somebody starts and stops by hand.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::processes;
use crate::scene::{PATIENCE, Scene};
use crate::world::eventually;

const DRAIN: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_container_started_by_hand_serves_and_drains_when_it_is_asked_to_end() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "0")]).await;
    let drain = DRAIN.as_secs().to_string();
    let pid = scene.start_by_hand("ctr-mine", &[("DRAIN_SECONDS", &drain)]);
    let session = scene.create().await;
    let mut cdp = scene.connect(&session).await;
    assert_eq!(cdp.evaluate("6 * 7").await, json!(42));
    scene.release(&session.id).await;
    let (code, reason) = cdp.closed(PATIENCE).await;
    assert!(code == 4002 && reason.starts_with("released"), "{code} {reason}");
    assert!(scene.launched().is_empty());

    let running = scene.create().await;
    let mut cdp = scene.connect(&running).await;
    let asked = Instant::now();
    processes::signal(pid, Signal::TERM);
    eventually(PATIENCE, async || {
        let container = scene.contents().await.hashes.remove("container:ctr-mine").expect("registered");
        if container["draining"] == "1" { Ok(()) } else { Err(format!("{container:?}")) }
    })
    .await;
    let refused = scene.create().await;
    // The running one goes on.
    while asked.elapsed() < DRAIN - Duration::from_secs(1) {
        assert_eq!(cdp.evaluate("6 * 7").await, json!(42));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(scene.get(&refused.id).await["status"], "pending", "it takes no more");
    let (code, reason) = cdp.closed(PATIENCE).await;
    assert!(code == 4003 && reason.starts_with("container_lost"), "{code} {reason}");
    assert!(scene.by_hand_ended("ctr-mine").await.success());
    let took = asked.elapsed();
    let contents = scene.contents().await;
    let left: Vec<_> = contents.hashes.keys().filter(|key| key.starts_with("container:")).collect();
    assert!(left.is_empty() && !contents.sorted.contains_key("containers"), "it has left the registry: {left:?}");
    assert!((DRAIN..DRAIN + Duration::from_secs(8)).contains(&took), "it ended after {took:?}");
    assert_eq!(scene.end_reason(&running.id, PATIENCE).await, "container_lost");

    // The next one serves what waited.
    scene.start_by_hand("ctr-next", &[]);
    let mut cdp = scene.connect(&refused).await;
    assert_eq!(cdp.evaluate("6 * 7").await, json!(42));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_reached_yet_is_served_by_another_when_its_container_is_stopped() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "0")]).await;
    let pid = scene.start_by_hand("ctr-first", &[]);
    let (session, used) = (scene.create().await, scene.create().await);
    scene.ready(&session).await;
    let mut cdp = scene.connect(&used).await;
    processes::signal(pid, Signal::TERM);
    let (code, reason) = cdp.closed(PATIENCE).await;
    assert!(code == 4003 && reason.starts_with("container_lost"), "{code} {reason}");
    assert!(scene.by_hand_ended("ctr-first").await.success());
    let now = scene.get(&session.id).await;
    assert_eq!((now["status"].as_str(), now["queuePosition"].as_u64()), (Some("pending"), Some(1)), "{now}");
    scene.start_by_hand("ctr-second", &[]);
    let mut cdp = scene.connect(&session).await;
    assert_eq!(cdp.evaluate("6 * 7").await, json!(42));
    scene.finish().await;
}

/// With nothing to finish, nothing is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_container_ends_at_once_when_it_is_asked_to() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "0")]).await;
    let pid = scene.start_by_hand("ctr-idle", &[("DRAIN_SECONDS", "60"), ("WARM_BROWSERS", "1")]);
    eventually(PATIENCE, async || match processes::browsers(&scene.workdir("ctr-idle")).len() {
        0 => Err("no warm browser".to_owned()),
        _ => Ok(()),
    })
    .await;
    let asked = Instant::now();
    processes::signal(pid, Signal::TERM);
    assert!(scene.by_hand_ended("ctr-idle").await.success());
    assert!(asked.elapsed() < Duration::from_secs(3), "it took {:?}", asked.elapsed());
    assert!(!scene.contents().await.sorted.contains_key("containers"));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_were_given_one_id_the_second_serves_and_the_first_says_why_it_ends() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "0")]).await;
    scene.start_by_hand("ctr-same", &[]);
    let session = scene.create().await;
    let mut cdp = scene.connect(&session).await;
    assert_eq!(cdp.evaluate("6 * 7").await, json!(42));
    let elsewhere = scene.tmp().join("elsewhere").display().to_string();
    scene.start_by_hand("ctr-same", &[("CONTAINER_WORKDIR", &elsewhere)]);
    let (code, reason) = cdp.closed(PATIENCE).await;
    assert!(code == 4003 && reason.starts_with("container_lost"), "{code} {reason}");
    assert!(!scene.by_hand_ended("ctr-same").await.success(), "the first one started is the first one found");
    assert!(scene.log().contains("another process has come under this container's CONTAINER_ID"));
    let next = scene.create().await;
    assert_eq!(scene.connect(&next).await.evaluate("6 * 7").await, json!(42));
    scene.finish().await;
}
