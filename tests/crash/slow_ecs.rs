//! An ECS that takes long to say what it runs, while clients are connected.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use rustix::process::Signal;
use serde_json::json;

use crate::processes::{self, ended, free_port};
use crate::scene::{PATIENCE, Scene};
use crate::world::eventually;

/// Less than a single call may take; and there is always another page, until the whole has taken too long.
const PAGE: Duration = Duration::from_millis(2_500);
/// What a listing may take (`LIST_TIMEOUT` in fleet/ecs.rs): longer than the three seconds of silence after which a
/// server counts as lost here.
const LISTING: Duration = Duration::from_secs(8);

async fn answer(State(asked): State<Arc<AtomicUsize>>, headers: HeaderMap) -> String {
    assert!(headers["x-amz-target"].to_str().expect("a text").ends_with(".ListTasks"));
    asked.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(PAGE).await;
    json!({ "taskArns": [], "nextToken": "more" }).to_string()
}

/// Taken out: the task of its own that the server's heartbeat is (`beat` in server.rs), and the other server takes this
/// one's clients out.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_waits_for_ecs_goes_on_being_heard_of() {
    let asked = Arc::new(AtomicUsize::new(0));
    let router = Router::new().route("/", post(answer)).with_state(asked.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let ecs = format!("http://{}", listener.local_addr().expect("bound"));
    let serve = wallcrawler::native::serve(listener, router, Default::default(), std::future::pending());
    tokio::spawn(async move { serve.await.expect("serves") });

    let mut scene = Scene::empty(&[
        ("ECS_CLUSTER_ARN", "browsers"),
        ("ECS_TASK_DEFINITION_ARN", "browser:1"),
        ("SUBNET_IDS", "subnet-12345678"),
        ("SECURITY_GROUP_ID", "sg-12345678"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL_ECS", &ecs),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("API_ENDPOINT", "https://api.example.com"),
        // Sessions are served by a container that is started by hand.
        ("MAX_CONTAINERS", "0"),
    ])
    .await;
    let other_port = free_port().to_string();
    // Of the two it is the one that asks, as it comes first.
    scene.start_server().await;
    let other = scene.spawn(&[], &[("PORT", &other_port)]);
    eventually(PATIENCE, async || match asked.load(Ordering::Relaxed) {
        0 => Err("nobody has asked".to_owned()),
        _ => Ok(()),
    })
    .await;
    let began = Instant::now();
    scene.start_by_hand("ctr-mine", &[]);
    let session = scene.create().await;
    let mut cdp = scene.connect(&session).await;
    assert!(began.elapsed() < LISTING / 2, "too late to see anything: {:?}", began.elapsed());
    while began.elapsed() < LISTING + Duration::from_secs(2) {
        assert_eq!(cdp.evaluate("6 * 7").await, json!(42));
        let shown = scene.get(&session.id).await;
        assert_eq!(
            (&shown["status"], &shown["activeConnections"]),
            (&json!("active"), &json!(1)),
            "{:?}",
            began.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((3..=4).contains(&asked.load(Ordering::Relaxed)), "one listing, page by page, of both: {asked:?}");
    assert!(scene.logged("server lost").is_empty());
    scene.release(&session.id).await;
    processes::signal(other.id(), Signal::TERM);
    assert!(ended(other).await.success());
    scene.finish().await;
}
