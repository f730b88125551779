//! Containers that a service of ECS keeps running: they are all told the same.

use serde_json::{Value, json};

use crate::processes;
use crate::scene::{PATIENCE, Scene};
use crate::world::eventually;

const TASK: &str = "arn:aws:ecs:eu-central-1:111122223333:task/wallcrawler/0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const NAME: &str = "task-0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// What ECS answers a task that asks what it is.
async fn task_metadata() -> String {
    let router =
        axum::Router::new().route("/v4/it/task", axum::routing::get(async || axum::Json(json!({ "TaskARN": TASK }))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serve = wallcrawler::native::serve(listener, router, Default::default(), std::future::pending());
    tokio::spawn(async move { serve.await.expect("serves") });
    format!("http://{address}/v4/it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_container_is_called_after_its_task_and_comes_back_once_its_predecessor_is_given_up() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "0")]).await;
    let metadata = task_metadata().await;
    let pid = scene.start_as_task("it", &metadata);
    let session = scene.create().await;
    let mut cdp = scene.connect(&session).await;
    assert_eq!(cdp.evaluate("6 * 7").await, json!(42));
    let shown = scene.get(&session.id).await;
    assert_eq!((&shown["containerId"], &shown["taskArn"]), (&json!(NAME), &json!(TASK)));

    processes::kill(pid);
    assert!(!scene.by_hand_ended("it").await.success());
    // ECS starts a task's container anew where its restart policy says so.
    scene.start_as_task("it", &metadata);
    eventually(PATIENCE, async || {
        let waits = scene.logged("there is no token for this container yet");
        if waits.is_empty() { Err("it has not waited".to_owned()) } else { Ok(()) }
    })
    .await;
    let next = scene.create().await;
    assert_eq!(scene.connect(&next).await.evaluate("6 * 7").await, json!(42));
    assert_eq!(scene.end_reason(&session.id, PATIENCE).await, "container_lost");
    scene.finish().await;
}

/// Taken out: the check of the name in `join_container`, and the token of a service is good for any container.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_service_lets_new_containers_come_and_is_good_for_nothing_else() {
    let mut scene = Scene::new(&[("MAX_CONTAINERS", "0")]).await;
    let metadata = task_metadata().await;
    scene.start_as_task("it", &metadata);
    let session = scene.create().await;
    scene.ready(&session).await;
    let token = scene.service_token();
    let bearer = format!("Bearer {token}");
    let post = async |path: &str, body: Value| {
        scene.send("POST", path, &body, ("authorization", &bearer)).await.expect("the server listens")
    };
    let taken = post("/containers", json!({ "containerId": NAME })).await;
    assert_eq!((taken.status, &taken.body["code"]), (409, &json!("container_exists")));
    for name in ["ctr_00000000000000000000000000", "my-machine", "task"] {
        let refused = post("/containers", json!({ "containerId": name })).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("invalid_request")), "{name}");
        assert!(refused.body["message"].as_str().is_some_and(|text| text.starts_with("containerId: ")), "{refused:?}");
    }
    let claim = json!({ "containerId": NAME, "currentSessions": 0, "maxSessions": 1 });
    assert_eq!(post("/sessions/claim", claim).await.status, 401);
    assert_eq!(
        post(&format!("/sessions/{}/ended", session.id), json!({ "lease": 1, "reason": "released" })).await.status,
        401
    );
    assert_eq!(post("/sessions", json!({})).await.status, 401);
    for other in [scene.session_token(&session), crate::world::container_token("ctr-a")] {
        let header = format!("Bearer {other}");
        let body = json!({ "containerId": "task-x" });
        let answer = scene.send("POST", "/containers", &body, ("authorization", &header)).await.expect("an answer");
        assert_eq!((answer.status, &answer.body["code"]), (401, &json!("invalid_token")));
    }
    let fresh = post("/containers", json!({ "containerId": "task-new" })).await;
    assert_eq!((fresh.status, &fresh.body["containerId"]), (201, &json!("task-new")));
    let header = format!("Bearer {}", fresh.body["token"].as_str().expect("a token"));
    let claim = |name: &str| json!({ "containerId": name, "currentSessions": 0, "maxSessions": 1 });
    for (name, status) in [("task-new", 200), (NAME, 403)] {
        let answer = scene.send("POST", "/sessions/claim", &claim(name), ("authorization", &header)).await;
        assert_eq!(answer.expect("an answer").status, status, "{name}");
    }
    scene.finish().await;
}
