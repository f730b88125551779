//! Containers that are killed, and one that sleeps until it has been given up.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use wallcrawler::agent::find::{SearchPlaces, find};

use crate::cdp::Cdp;
use crate::processes;
use crate::scene::{Created, PATIENCE, Scene};
use crate::world::eventually;

/// How long a loss may take, from the kill to the next browser.
const RECOVERY: Duration = Duration::from_secs(15);

/// A browser that never says a word as long as there is a file `slow` beside it.
fn slow_browser(dir: &Path) -> (PathBuf, PathBuf) {
    let found = find(&SearchPlaces::read(&wallcrawler::config::env)).expect("a browser");
    let (script, slow) = (dir.join("browser"), dir.join("slow"));
    let real = found.default_program().path;
    let text = format!("#!/bin/sh\n[ -e {} ] && exec sleep 600\nexec {} \"$@\"\n", slow.display(), real.display());
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
    (script, slow)
}

/// A socket that is open, a session that is ready, one that a client is parked on, and one whose browser is
/// just starting: all in one container.
struct Loaded {
    connected: (Created, Cdp),
    ready: Created,
    parked: tokio::task::JoinHandle<Cdp>,
    claimed: Created,
}

async fn load(scene: &Scene, slow: &Path, held_by: Option<&str>) -> (Loaded, String) {
    let connected = scene.create().await;
    let ready = scene.create().await;
    let mut cdp = scene.connect(&connected).await;
    assert_eq!(cdp.evaluate("1 + 1").await, json!(2));
    scene.ready(&ready).await;
    std::fs::write(slow, "").expect("written");
    let (parked, claimed) = (scene.create().await, scene.create().await);
    for session in [&parked, &claimed] {
        scene.has_status(&session.id, "active", PATIENCE).await;
    }
    let url = parked.url.clone();
    let parked = tokio::spawn(async move { Cdp::connect(&url).await });
    let container = scene.get(&connected.id).await["containerId"].as_str().expect("held").to_owned();
    for session in [&ready, &claimed] {
        assert_eq!(scene.get(&session.id).await["containerId"], container.as_str(), "one container has them all");
    }
    if let Some(expected) = held_by {
        assert_eq!(container, expected);
    }
    (Loaded { connected: (connected, cdp), ready, parked, claimed }, container)
}

impl Loaded {
    /// What must become of all of them once their container is gone.
    async fn served_elsewhere(mut self, scene: &Scene, gone: &str, since: Instant) {
        let (session, cdp) = &mut self.connected;
        let (code, reason) = cdp.closed(RECOVERY).await;
        assert_eq!(code, 4003, "{reason}");
        assert!(reason.starts_with("container_lost"), "{reason}");
        let told = since.elapsed();
        assert_eq!(scene.end_reason(&session.id, RECOVERY).await, "container_lost");
        let mut parked = self.parked.await.expect("a parked client gets a browser");
        assert_eq!(parked.evaluate("1 + 1").await, json!(2));
        for session in [&self.ready, &self.claimed] {
            let mut cdp = scene.connect(session).await;
            assert_eq!(cdp.evaluate("1 + 1").await, json!(2));
            let now = scene.get(&session.id).await;
            assert_eq!(now["status"], "active");
            assert_ne!(now["containerId"], gone);
        }
        let took = since.elapsed();
        println!("the client was told after {told:?}, the others were served after {took:?}");
        assert!(took < RECOVERY, "it took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_container_ends_what_was_in_use_and_the_rest_is_served_by_another() {
    let scratch = tempdir("killed");
    let (browser, slow) = slow_browser(&scratch);
    let browser = browser.display().to_string();
    let scene = Scene::alone(&[("CHROME_HEADLESS_SHELL_PATH", &browser)]).await;
    let (loaded, container) = load(&scene, &slow, None).await;
    std::fs::remove_file(&slow).expect("removed");
    let since = Instant::now();
    processes::kill(scene.process_of(&container));
    loaded.served_elsewhere(&scene, &container, since).await;
    assert_eq!(scene.launched().len(), 2, "one container was started in its place");
    scene.finish().await;
    std::fs::remove_dir_all(scratch).expect("removed");
}

/// Nobody sees this one exit: only its heartbeats stay away.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_container_that_nobody_watches_is_found_lost_by_its_silence() {
    let scratch = tempdir("silent");
    let (browser, slow) = slow_browser(&scratch);
    let browser = browser.display().to_string();
    let mut scene = Scene::alone(&[("CHROME_HEADLESS_SHELL_PATH", &browser), ("MAX_CONTAINERS", "0")]).await;
    let pid = scene.start_by_hand("ctr-first", &[]);
    let (loaded, container) = load(&scene, &slow, Some("ctr-first")).await;
    std::fs::remove_file(&slow).expect("removed");
    scene.start_by_hand("ctr-second", &[]);
    let since = Instant::now();
    processes::kill(pid);
    loaded.served_elsewhere(&scene, &container, since).await;
    assert!(!scene.by_hand_ended("ctr-first").await.success());
    // Its files are swept when a container with its name comes again.
    scene.start_by_hand("ctr-first", &[]);
    scene.finish().await;
    std::fs::remove_dir_all(scratch).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_wakes_after_it_was_given_up_kills_its_browsers_and_doubles_nothing() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "0")]).await;
    let pid = scene.start_by_hand("ctr-sleeper", &[]);
    let (connected, unreached, parked_on) = (scene.create().await, scene.create().await, scene.create().await);
    let mut cdp = scene.connect(&connected).await;
    scene.ready(&unreached).await;
    scene.ready(&parked_on).await;
    processes::signal(pid, Signal::STOP);
    // It accepts the dial, as the system does for it, and does not answer.
    let url = parked_on.url.clone();
    let parked = tokio::spawn(async move { Cdp::connect(&url).await });
    scene.start_by_hand("ctr-other", &[]);
    let (code, reason) = cdp.closed(RECOVERY).await;
    assert!(code == 4003 && reason.starts_with("container_lost"), "{code} {reason}");
    assert_eq!(scene.end_reason(&connected.id, RECOVERY).await, "container_lost");
    let mut parked = tokio::time::timeout(RECOVERY, parked).await.expect("served in time").expect("served");
    parked.evaluate("window.marker = 'mine'").await;
    let mut later = scene.connect(&unreached).await;
    later.evaluate("window.marker = 'mine too'").await;

    let old_browsers = scene.workdir("ctr-sleeper");
    assert_eq!(processes::browsers(&old_browsers).len(), 3, "they sleep beside it or idle");
    processes::signal(pid, Signal::CONT);
    eventually(RECOVERY, async || match processes::browsers(&old_browsers).len() {
        0 => Ok(()),
        left => Err(format!("{left} old browsers")),
    })
    .await;
    // It is back, and takes work: four slots there, two of them taken here.
    let more: Vec<Created> = futures_util::future::join_all((0..6).map(|_| scene.create())).await;
    for session in &more {
        scene.ready(session).await;
    }
    let browsers = processes::browsers(&scene.tmp().join("wallcrawler")).len();
    assert_eq!(browsers, 8, "one browser a session");
    assert_eq!(parked.evaluate("window.marker").await, json!("mine"));
    assert_eq!(later.evaluate("window.marker").await, json!("mine too"));
    for session in [&unreached, &parked_on] {
        let now = scene.get(&session.id).await;
        assert_eq!((now["status"].as_str(), now["containerId"].as_str()), (Some("active"), Some("ctr-other")));
    }
    scene.finish().await;
}

fn tempdir(name: &str) -> PathBuf {
    let dir = PathBuf::from(format!("/tmp/wcc-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    dir
}
