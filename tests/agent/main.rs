//! The container agent with real browsers, against a scripted control plane.
#![cfg(feature = "agent")]

#[path = "../common/archives.rs"]
mod archives;
mod container;
mod control_plane;
mod deliveries;
mod egress;
mod extensions;
mod filter;
mod gateway;
mod gateway_client;
mod gateway_limits;
mod isolation;
mod left;
mod live;
mod logs;
mod proxies;
mod upstreams;

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;
use wallcrawler::agent::AgentError;
use wallcrawler::agent::find::SearchPlaces;
use wallcrawler::ids::SessionId;
use wallcrawler::protocol::ContainerPhase;
use wallcrawler::session::EndReason;
use wallcrawler::sweep;

use container::{Cdp, Container, children_of, config, eventually, kill, processes_of};
use control_plane::ControlPlane;

const HOUR: Duration = Duration::from_secs(3_600);

/// The container's address and the session's socket, once it is ready.
async fn connect(plane: &ControlPlane, session: &SessionId, lease: u64) -> Cdp {
    let ready = plane.ready(session, lease).await;
    Cdp::connect(&address(plane), session, &ready.cdp_secret).await.expect("a connection")
}

fn address(plane: &ControlPlane) -> String {
    plane.now(|script| script.claims.last().and_then(|claim| claim.address.clone())).expect("a claim with an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_session_becomes_ready_and_its_browser_answers_through_the_relay() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 7, HOUR);
    let ready = plane.ready(&session, 7).await;
    assert_eq!(ready.cdp_secret.len(), 64);
    assert!(ready.version.contains_key("Browser") && !ready.version.contains_key("webSocketDebuggerUrl"));
    let mut cdp = connect(&plane, &session, 7).await;
    let version = cdp.call("Browser.getVersion", json!({})).await;
    assert_eq!(Some(&version["product"]), ready.version.get("Browser"));
    assert_eq!(cdp.evaluate("[innerWidth, innerHeight, location.href]").await, json!([1280, 720, "about:blank"]));
    // Larger than every buffer on the way, in both directions.
    let echoed = cdp.evaluate(&format!("'{}' + 'y'.repeat(3e6)", "x".repeat(2_000_000))).await;
    assert_eq!(echoed.as_str().map(str::len), Some(5_000_000));
    container.stop().await;
    assert_eq!(plane.ended(&session).await.reason, EndReason::ContainerLost);
    cdp.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_and_an_unknown_session_get_the_same_404() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let ready = plane.ready(&session, 1).await;
    let mut bodies = Vec::new();
    for (session, secret) in [(&session, "wrong"), (&session, ""), (&SessionId::random(), ready.cdp_secret.as_str())] {
        match Cdp::connect(&address(&plane), session, secret).await {
            Err(Error::Http(response)) => {
                assert_eq!(response.status(), 404);
                let body = response.body().as_deref().unwrap_or_default();
                let mut body: Value = serde_json::from_slice(body).expect("JSON");
                // All that may differ.
                body.as_object_mut().expect("an object").remove("requestId").expect("a request id");
                bodies.push(body);
            }
            other => panic!("{:?}", other.err()),
        }
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(bodies[0]["code"], "session_not_found");
    container.stop().await;
}

async fn ends_by_itself(settings: Value, end: impl AsyncFnOnce(&Container, &mut Cdp)) -> EndReason {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(settings, 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    end(&container, &mut cdp).await;
    let reason = plane.ended(&session).await.reason;
    cdp.closed().await;
    eventually("its files stay", || processes_of(&container.workdir).is_empty()).await;
    container.stop().await;
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_is_told_to_close_ends_as_released() {
    for settings in [json!({}), json!({"browser": "chromium"})] {
        let reason = ends_by_itself(settings, async |_, cdp| cdp.send("Browser.close").await).await;
        assert_eq!(reason, EndReason::Released);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_is_killed_or_crashes_ends_as_crashed() {
    for settings in [json!({}), json!({"browser": "chromium"})] {
        let killed = ends_by_itself(settings.clone(), async |container, _| kill(container.browser())).await;
        assert_eq!(killed, EndReason::BrowserCrashed);
        let crashed = ends_by_itself(settings, async |_, cdp| cdp.send("Browser.crash").await).await;
        assert_eq!(crashed, EndReason::BrowserCrashed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renderer_that_dies_does_not_end_the_session() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    assert_eq!(cdp.evaluate("1 + 1").await, 2);
    let renderers = children_of(container.browser(), "renderer");
    assert!(!renderers.is_empty());
    renderers.iter().for_each(|&pid| kill(pid));
    cdp.call("Target.createTarget", json!({"url": "about:blank"})).await;
    assert!(plane.now(|script| script.ended.is_empty()));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_from_the_control_plane_kills_the_browser_and_closes_its_sockets_without_a_report() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let (one, other) = (plane.hand_out(json!({}), 1, HOUR), plane.hand_out(json!({}), 1, HOUR));
    let cdp = connect(&plane, &one, 1).await;
    let mut others = connect(&plane, &other, 1).await;
    plane.now(|script| script.end.push(one.clone()));
    cdp.closed().await;
    plane
        .claim_where("it stays listed", |claim| claim.session_ids.as_deref() == Some(std::slice::from_ref(&other)))
        .await;
    assert_eq!(others.evaluate("'still here'").await, "still here");
    container.browser();
    assert!(plane.now(|script| script.ended.is_empty()));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_session_with_a_newer_lease_gets_a_new_browser_and_the_old_one_dies() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let old = connect(&plane, &session, 1).await;
    let old_browser = container.browser();
    plane.now(|script| script.end.push(session.clone()));
    plane.hand_out_as(session.clone(), json!({}), 2, HOUR);
    old.closed().await;
    let mut new = connect(&plane, &session, 2).await;
    assert_eq!(new.evaluate("1").await, 1);
    eventually("the old browser lives", || !processes_of(&container.workdir).contains(&old_browser)).await;
    container.browser();
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_time_is_up_is_ended_even_if_nobody_says_so() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, Duration::from_secs(1));
    let cdp = connect(&plane, &session, 1).await;
    cdp.closed().await;
    assert_eq!(plane.ended(&session).await.reason, EndReason::Timeout);
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_sessions_finish_and_takes_no_new_ones() {
    let plane = ControlPlane::start().await;
    let mut container = Container::start(wallcrawler::agent::AgentConfig { drain_timeout: HOUR, ..config(&plane) });
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    let asked = tokio::time::Instant::now();
    container.ask_to_stop();
    plane.claim_where("the control plane is not told", |claim| claim.phase == ContainerPhase::Draining).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "at once, not with the next heartbeat");
    plane.hand_out(json!({}), 1, HOUR);
    assert_eq!(cdp.evaluate("'finishing'").await, "finishing");
    cdp.send("Browser.close").await;
    assert_eq!(plane.ended(&session).await.reason, EndReason::Released);
    container.done().await.expect("a clean end");
    plane.claim_where("it leaves without a word", |claim| claim.phase == ContainerPhase::Leaving).await;
    assert_eq!(plane.now(|script| script.queue.len()), 1, "the queued session stays queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_outlast_the_drain_are_reported_as_lost_with_their_container() {
    let plane = ControlPlane::start().await;
    let mut container = Container::start(wallcrawler::agent::AgentConfig {
        drain_timeout: Duration::from_millis(300),
        warm_browsers: 1,
        ..config(&plane)
    });
    let session = plane.hand_out(json!({}), 1, HOUR);
    let cdp = connect(&plane, &session, 1).await;
    container.ask_to_stop();
    cdp.closed().await;
    assert_eq!(plane.ended(&session).await.reason, EndReason::ContainerLost);
    container.done().await.expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_drained_by_the_control_plane_ends_when_it_is_empty() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    plane.now(|script| script.drain = true);
    plane.claim_where("it does not drain", |claim| claim.phase == ContainerPhase::Draining).await;
    assert_eq!(cdp.evaluate("1").await, 1);
    cdp.send("Browser.close").await;
    container.done().await.expect("a clean end");
}

/// Taken out: `retires_at`, so that its token would have ended under its sessions.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_has_grown_old_takes_no_more_sessions_and_ends_with_its_last() {
    let plane = ControlPlane::start().await;
    let retire_after = Some(Duration::from_secs(3));
    let container = Container::start(wallcrawler::agent::AgentConfig { retire_after, ..config(&plane) });
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    plane.claim_where("it does not drain", |claim| claim.phase == ContainerPhase::Draining).await;
    assert_eq!(cdp.evaluate("1").await, 1);
    cdp.send("Browser.close").await;
    container.done().await.expect("a clean end");
    assert_eq!(plane.ended(&session).await.reason, EndReason::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_answer_that_got_lost_is_repaired_by_the_next_claim() {
    let plane = ControlPlane::start().await;
    plane.now(|script| script.lose_answer = true);
    let session = plane.hand_out(json!({}), 1, HOUR);
    let container = Container::start(config(&plane));
    plane.ready(&session, 1).await;
    assert!(!plane.now(|script| script.lose_answer), "an answer was lost on the way");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_survive_a_control_plane_that_fails_for_a_while_and_reports_are_repeated() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    plane.now(|script| script.broken = Some(503));
    let twice = |script: &control_plane::Script| (script.refused >= 2).then_some(());
    plane.until("it does not try again", twice, |script| script.refused).await;
    assert_eq!(cdp.evaluate("'alive'").await, "alive");
    cdp.send("Browser.close").await;
    let refused = plane.now(|script| script.refused);
    let again = |script: &control_plane::Script| (script.refused >= refused + 2).then_some(());
    plane.until("it gave up", again, |script| script.refused).await;
    plane.now(|script| script.broken = None);
    assert_eq!(plane.ended(&session).await.reason, EndReason::Released);
    plane.claim_where("the slot is not free", |claim| claim.current_sessions == 0).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_ends_the_container_and_its_browsers() {
    let plane = ControlPlane::start().await;
    let container = Container::start(wallcrawler::agent::AgentConfig { warm_browsers: 1, ..config(&plane) });
    let session = plane.hand_out(json!({}), 1, HOUR);
    let cdp = connect(&plane, &session, 1).await;
    plane.now(|script| script.broken = Some(401));
    // The waiting claim ends with its heartbeat; the next is refused.
    cdp.closed().await;
    let error = container.done().await.expect_err("an end with a reason");
    assert!(matches!(error, AgentError::Refused(401)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_container_says_at_once_that_it_has_room_again() {
    let plane = ControlPlane::start().await;
    let container = Container::start(wallcrawler::agent::AgentConfig {
        max_sessions: 1,
        heartbeat: Duration::from_secs(20),
        ..config(&plane)
    });
    let (one, other) = (plane.hand_out(json!({}), 1, HOUR), plane.hand_out(json!({}), 1, HOUR));
    let mut cdp = connect(&plane, &one, 1).await;
    let asked = tokio::time::Instant::now();
    cdp.send("Browser.close").await;
    plane.ready(&other, 1).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_measures_what_was_asked_for_in_both_builds() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    for browser in ["headless-shell", "chromium"] {
        // The second window of a size is opened as the first one turned out.
        for (width, height) in [(1280, 720), (1280, 720), (1920, 1080), (400, 600), (400, 600), (1280, 720)] {
            let viewport = json!({"width": width, "height": height});
            let session = plane.hand_out(json!({"browser": browser, "viewport": viewport}), 1, HOUR);
            let mut cdp = connect(&plane, &session, 1).await;
            let measured = cdp.evaluate("[innerWidth, innerHeight]").await;
            assert_eq!(measured, json!([width, height]), "{browser}");
            cdp.send("Browser.close").await;
            plane.ended(&session).await;
        }
    }
    container.stop().await;
}

const TASK: &str = "arn:aws:ecs:eu-central-1:111122223333:task/wallcrawler/0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// What a task on ECS can ask about itself. The first time it is not ready yet.
async fn task_metadata() -> String {
    let asked = std::sync::atomic::AtomicBool::new(false);
    let asked = std::sync::Arc::new(asked);
    let answer = async move || {
        if !asked.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return Err(axum::http::StatusCode::NOT_FOUND);
        }
        Ok(axum::Json(json!({ "Cluster": "wallcrawler", "TaskARN": TASK, "Family": "wallcrawler-browser" })))
    };
    let router = axum::Router::new().route("/v4/some-container/task", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serve = wallcrawler::native::serve(listener, router, Default::default(), std::future::pending());
    tokio::spawn(async move { serve.await.expect("serves") });
    format!("http://{address}/v4/some-container")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_cannot_reach_what_a_task_keeps_on_loopback_or_the_metadata_addresses() {
    let plane = ControlPlane::start().await;
    let metadata = task_metadata().await;
    let on_ecs = wallcrawler::agent::AgentConfig { task_metadata: Some(metadata), ..config(&plane) };
    let container = Container::start(on_ecs);
    plane.claim_where("it says which task it is", |claim| claim.task_arn.as_deref() == Some(TASK)).await;
    let port = plane.endpoint.rsplit_once(':').expect("a port").1;
    for browser in ["headless-shell", "chromium"] {
        let session = plane.hand_out(json!({"browser": browser}), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        for host in [
            "169.254.169.254",
            "2852039166",
            "169.254.170.2",
            "[::ffff:169.254.169.254]",
            "127.0.0.1",
            "127.1",
            "localhost",
            "[::1]",
            "0.0.0.0",
        ] {
            let answer = cdp.navigate(&format!("http://{host}:{port}/")).await;
            assert_eq!(answer["errorText"], "net::ERR_SOCKS_CONNECTION_FAILED", "{browser} {host}");
        }
    }
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_developers_own_server_on_loopback_can_be_reached() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    let answer = cdp.navigate(&format!("{}/", plane.endpoint)).await;
    assert!(answer["errorText"].is_null(), "{answer}");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_takes_a_warm_browser_and_another_takes_its_place() {
    let plane = ControlPlane::start().await;
    let container =
        Container::start(wallcrawler::agent::AgentConfig { warm_browsers: 1, max_sessions: 9, ..config(&plane) });
    let mut used: Vec<u32> = Vec::new();
    let waiting = |used: &[u32]| {
        let mut fresh = container.browsers().into_iter().filter(|pid| !used.contains(pid));
        fresh.find(|&pid| !children_of(pid, "renderer").is_empty())
    };
    loop {
        eventually("no browser is launched ahead", || waiting(&used).is_some()).await;
        let warm = waiting(&used).expect("just seen");
        let session = plane.hand_out(json!({}), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        let processes = cdp.call("SystemInfo.getProcessInfo", json!({})).await;
        let mut processes = processes["processInfo"].as_array().expect("a list").iter();
        let main = processes.find(|process| process["type"] == "browser").expect("a browser");
        used.push(u32::try_from(main["id"].as_u64().expect("a pid")).expect("a pid"));
        if used.last() == Some(&warm) {
            break;
        }
        // It shows its page a moment before it is handed out.
        assert!(used.len() < 5, "the warm browser is never taken");
    }
    eventually("it is not replaced", || waiting(&used).is_some()).await;
    // One that dies while it waits is replaced too.
    let dead = waiting(&used).expect("just seen");
    kill(dead);
    used.push(dead);
    eventually("the dead one is not replaced", || waiting(&used).is_some()).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_cannot_start_is_reported_and_frees_its_slot() {
    let plane = ControlPlane::start().await;
    let container = Container::start(wallcrawler::agent::AgentConfig {
        search: SearchPlaces { headless_shell: Some("/bin/false".into()), ..container::places() },
        ..config(&plane)
    });
    let session = plane.hand_out(json!({}), 1, HOUR);
    assert_eq!(plane.ended(&session).await.reason, EndReason::FailedToStart);
    plane.claim_where("the slot is not free", |claim| claim.current_sessions == 0).await;
    container.stop().await;
}

const PROCESS_API: &str = "WC_TEST_AGENT_API";
const PROCESS_WORKDIR: &str = "WC_TEST_AGENT_WORKDIR";

/// Not a test of its own: what `an_agent_that_is_killed_leaves_no_browser` starts as a process.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
#[allow(clippy::disallowed_methods)]
async fn the_agent_as_a_process() {
    let (Ok(endpoint), Ok(workdir)) = (std::env::var(PROCESS_API), std::env::var(PROCESS_WORKDIR)) else { return };
    let mut plane = ControlPlane::start().await;
    plane.endpoint = endpoint;
    let config = wallcrawler::agent::AgentConfig { workdir: workdir.into(), warm_browsers: 1, ..config(&plane) };
    wallcrawler::agent::run(config, std::future::pending()).await.expect("it is killed before it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_leaves_no_browser_and_its_files_are_swept() {
    let plane = ControlPlane::start().await;
    let root = std::env::temp_dir().join(format!("wc-{}", &SessionId::random().as_str()[20..]));
    let workdir = root.join("c1");
    let mut agent = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_agent_as_a_process", "--ignored"])
        .env(PROCESS_API, &plane.endpoint)
        .env(PROCESS_WORKDIR, &workdir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("started");
    let archives = extensions::Archives::start().await;
    let session = extensions::hand_out(&plane, Some(archives.offer(archives::extension("One"))));
    let cdp = connect(&plane, &session, 1).await;
    // Two browsers, an owner, and what was fetched.
    let warm_and_busy = || std::fs::read_dir(&workdir).expect("readable").count() == 4;
    eventually("no warm browser", warm_and_busy).await;
    sweep::sweep_orphans(&root);
    assert!(workdir.exists(), "its owner lives");
    agent.kill().and_then(|()| agent.wait()).expect("killed");
    cdp.closed().await;
    eventually("a browser outlives its agent", || processes_of(&workdir).is_empty()).await;
    assert!(workdir.exists());
    sweep::sweep_orphans(&root);
    assert!(!workdir.exists());
    std::fs::remove_dir(root).expect("empty");
}
