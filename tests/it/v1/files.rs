//! What sessions have downloaded and are given, as clients ask for it. What their containers do is in `tests/agent/left.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use wallcrawler::clock::now_ms;
use wallcrawler::ids::Owner;
use wallcrawler::lifecycle;
use wallcrawler::native::{ServeOptions, serve};
use wallcrawler::protocol::MAX_UPLOAD_BYTES;
use wallcrawler::storage::{Kind, ObjectName};

use super::extensions::form;
use crate::world::{Answer, RawAnswer, World};

const CDP_SECRET: &str = "0123456789abcdef";
const EMPTY_ZIP: &[u8] = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const DAY_MS: u64 = 86_400_000;

#[derive(Default)]
pub struct Script {
    /// How many files a session is said to have downloaded.
    files: Option<usize>,
    /// What is said of its log.
    pub log: Option<Value>,
    forgotten: usize,
    given: BTreeMap<String, Bytes>,
}

/// A container that has as many downloads as it is told, and takes what it is given.
pub struct Container {
    address: String,
    script: Arc<Mutex<Script>>,
    serving: JoinHandle<()>,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn check(headers: &HeaderMap) -> Result<(), StatusCode> {
    let shown = headers.get("x-wallcrawler-cdp-secret");
    if shown.is_some_and(|secret| secret == CDP_SECRET) { Ok(()) } else { Err(StatusCode::NOT_FOUND) }
}

impl Container {
    pub async fn start() -> Self {
        let script = Arc::<Mutex<Script>>::default();
        let reads = Arc::clone(&script);
        let (stores, forgets, takes) = (Arc::clone(&script), Arc::clone(&script), Arc::clone(&script));
        let store = async move |headers: HeaderMap| {
            check(&headers)?;
            let files = stores.lock().expect("not poisoned").files.ok_or(StatusCode::BAD_GATEWAY)?;
            Ok::<_, StatusCode>(Json(json!({ "files": files })))
        };
        let forget = async move |headers: HeaderMap| {
            check(&headers)?;
            forgets.lock().expect("not poisoned").forgotten += 1;
            Ok::<_, StatusCode>(StatusCode::NO_CONTENT)
        };
        let take = async move |Path((_, name)): Path<(String, String)>, headers: HeaderMap, content: Bytes| {
            check(&headers)?;
            if name == "no-room" {
                return Err(StatusCode::INSUFFICIENT_STORAGE);
            }
            takes.lock().expect("not poisoned").given.insert(name, content);
            Ok(StatusCode::NO_CONTENT)
        };
        let read = async move |headers: HeaderMap| {
            check(&headers)?;
            reads.lock().expect("not poisoned").log.clone().map(Json).ok_or(StatusCode::BAD_GATEWAY)
        };
        let router = Router::new()
            .route("/sessions/{id}/logs", get(read))
            .route("/sessions/{id}/downloads", post(store).delete(forget))
            .route("/sessions/{id}/uploads/{name}", put(take).layer(DefaultBodyLimit::disable()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = tokio::spawn(async move {
            serve(listener, router, ServeOptions::default(), std::future::pending()).await.expect("serves");
        });
        Self { address, script, serving }
    }

    pub fn now<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.script.lock().expect("not poisoned"))
    }

    /// Takes a session, and has a browser for it.
    pub async fn serve(&self, world: &World, id: &str) {
        let claim = json!({
            "containerId": "ctr-a", "currentSessions": 0, "maxSessions": 9, "sessionIds": [], "address": self.address,
        });
        let container = world.container("ctr-a");
        assert_eq!(container.post("/sessions/claim", &claim).await.body["claimedCount"], 1);
        let report = json!({"lease": 1, "cdpSecret": CDP_SECRET});
        assert_eq!(container.post(&format!("/sessions/{id}/ready"), &report).await.body["success"], true);
    }
}

async fn session(world: &World) -> (String, ObjectName) {
    let created = super::create(world, &json!({})).await;
    let id = super::id(&created).to_owned();
    let name = file(world, &id, Kind::Downloads, "zip").await;
    (id, name)
}

/// Where what a session of the first key leaves is kept.
pub async fn file(world: &World, id: &str, kind: Kind, ending: &str) -> ObjectName {
    let user = world.client("key-one").get(&format!("/sessions/{id}")).await.body["userId"].clone();
    let owner = Owner::User(user.as_str().expect("a user").parse().expect("an id"));
    ObjectName::new(kind, &owner, &format!("{id}.{ending}"))
}

async fn downloads(world: &World, key: &str, id: &str) -> RawAnswer {
    world.client(key).raw("GET", &format!("/v1/sessions/{id}/downloads"), Body::empty()).await
}

fn is_empty_zip(answer: &RawAnswer) -> bool {
    answer.status == StatusCode::OK && answer.headers["content-type"] == "application/zip" && answer.bytes == EMPTY_ZIP
}

async fn followed(world: &World, answer: &RawAnswer) -> Vec<u8> {
    led_to(world, answer, "application/zip").await
}

/// What is at the address that an answer leads to, for somebody who shows no key there.
pub async fn led_to(world: &World, answer: &RawAnswer, kind: &str) -> Vec<u8> {
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let location = answer.headers["location"].to_str().expect("an address");
    let path = location.strip_prefix("http://localhost").expect("as the client reached us");
    let found = world.client("").raw("GET", path, Body::empty()).await;
    assert_eq!(found.status, StatusCode::OK);
    assert_eq!(found.headers["content-type"], kind);
    found.bytes.to_vec()
}

/// Taken out: the owner in `find`.
#[tokio::test]
async fn downloads_are_their_owners_before_during_and_after_the_session() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, name) = session(&world).await;
    assert!(is_empty_zip(&downloads(&world, "key-one", &id).await), "it waits for a browser");
    container.serve(&world, &id).await;
    container.now(|script| script.files = Some(0));
    assert!(is_empty_zip(&downloads(&world, "key-one", &id).await), "nothing was downloaded");
    container.now(|script| script.files = Some(2));
    world.app.storage.put(&name, "while it runs".into()).await.expect("put");
    assert_eq!(followed(&world, &downloads(&world, "key-one", &id).await).await, b"while it runs");
    container.now(|script| script.files = None);
    let answer = world.client("key-one").get(&format!("/v1/sessions/{id}/downloads")).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("downloads_unavailable"))
    );
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");

    for ended in [false, true] {
        if ended {
            world.client("key-one").delete(&format!("/sessions/{id}")).await;
            world.app.storage.put(&name, "what it left".into()).await.expect("put");
        }
        for (key, id, method) in [
            ("key-two", id.as_str(), "GET"),
            ("key-two", id.as_str(), "DELETE"),
            ("key-one", "ses_00000000000000000000000000", "GET"),
            ("key-one", "ses_00000000000000000000000000", "DELETE"),
            ("key-one", "%2e%2e", "GET"),
        ] {
            let answer = world.client(key).send(method, &format!("/v1/sessions/{id}/downloads"), Body::empty()).await;
            assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("session_not_found")));
        }
    }
    assert_eq!(container.now(|script| script.forgotten), 0);
    assert_eq!(followed(&world, &downloads(&world, "key-one", &id).await).await, b"what it left");
}

/// Taken out: the wait; that what was stored before the end does not count.
#[tokio::test]
async fn whoever_asks_right_after_the_end_gets_what_is_stored_a_moment_later() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, name) = session(&world).await;
    container.serve(&world, &id).await;
    world.app.storage.put(&name, "not all of it".into()).await.expect("put");
    let file = world.redis.dir.join("files").join(name.as_str());
    let earlier = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms() - 5_000);
    std::fs::File::options().write(true).open(file).expect("there").set_modified(earlier).expect("set");
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    let asked = downloads(&world, "key-one", &id);
    tokio::pin!(asked);
    assert!(timeout(Duration::from_millis(500), &mut asked).await.is_err(), "what it left is not there yet");
    world.app.storage.put(&name, "all of it".into()).await.expect("put");
    let answer = timeout(Duration::from_secs(3), asked).await.expect("it is there now");
    assert_eq!(followed(&world, &answer).await, b"all of it");
}

#[tokio::test]
async fn a_session_that_has_left_nothing_is_waited_for_a_while_and_only_right_after_its_end() {
    let (world, container) = (World::new(&[("CONNECT_WAIT_SECONDS", "2")]).await, Container::start().await);
    let (id, _) = session(&world).await;
    container.serve(&world, &id).await;
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    assert!(is_empty_zip(&downloads(&world, "key-one", &id).await));
    let asked = Instant::now();
    assert!(is_empty_zip(&downloads(&world, "key-one", &id).await), "it is known by now");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

/// Taken out: that it is asked whether a container ever had it.
#[tokio::test]
async fn a_session_that_never_had_a_browser_is_not_waited_for() {
    let world = World::new(&[]).await;
    let (id, _) = session(&world).await;
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    let asked = Instant::now();
    assert!(is_empty_zip(&downloads(&world, "key-one", &id).await));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

/// Taken out: that the container is told, so that it stored them again.
#[tokio::test]
async fn downloads_can_be_deleted_in_the_container_and_where_they_are_kept() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, name) = session(&world).await;
    let delete =
        async || world.client("key-one").raw("DELETE", &format!("/v1/sessions/{id}/downloads"), Body::empty()).await;
    assert_eq!(delete().await.status, StatusCode::NO_CONTENT, "it has no browser yet");
    container.serve(&world, &id).await;
    for _ in 0..2 {
        world.app.storage.put(&name, "kept".into()).await.expect("put");
        assert_eq!(delete().await.status, StatusCode::NO_CONTENT);
        assert!(!world.app.storage.has(&name).await.expect("asked"));
    }
    assert_eq!(container.now(|script| script.forgotten), 2);
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    world.app.storage.put(&name, "left".into()).await.expect("put");
    assert_eq!(delete().await.status, StatusCode::NO_CONTENT);
    assert!(!world.app.storage.has(&name).await.expect("asked"));
}

/// Taken out: the owner in the object's name; that anything is forgotten.
#[tokio::test]
async fn downloads_outlive_what_is_known_of_their_session_by_some_days() {
    let (world, container) = (World::new(&[("SESSION_RETENTION_SECONDS", "0")]).await, Container::start().await);
    let (id, name) = session(&world).await;
    container.serve(&world, &id).await;
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    world.app.storage.put(&name, "what it left".into()).await.expect("put");
    assert_eq!(world.client("key-one").get(&format!("/v1/sessions/{id}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(followed(&world, &downloads(&world, "key-one", &id).await).await, b"what it left");
    for method in ["GET", "DELETE"] {
        let other = world.client("key-two").raw(method, &format!("/v1/sessions/{id}/downloads"), Body::empty()).await;
        assert_eq!(other.status, StatusCode::NOT_FOUND);
    }
    lifecycle::forget_files(&world.app, now_ms() + 6 * DAY_MS).await.expect("swept");
    assert!(world.app.storage.has(&name).await.expect("asked"));
    lifecycle::forget_files(&world.app, now_ms() + 8 * DAY_MS).await.expect("swept");
    assert!(!world.app.storage.has(&name).await.expect("asked"));
    assert_eq!(downloads(&world, "key-one", &id).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_a_place_for_files_downloads_are_not_there_and_uploads_are() {
    let (world, container) = (World::new(&[("STORAGE_DIR", "")]).await, Container::start().await);
    let (id, _) = session(&world).await;
    container.serve(&world, &id).await;
    let answer = world.client("key-one").get(&format!("/v1/sessions/{id}/downloads")).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_IMPLEMENTED, &json!("not_available")));
    assert_eq!(answer.headers["x-should-retry"], "false");
    assert_eq!(give(&world, "key-one", &id, "a.txt", b"given").await.status, StatusCode::OK);
}

async fn give(world: &World, key: &str, id: &str, name: &str, content: &[u8]) -> Answer {
    let client = world.client(key).with("content-type", "multipart/form-data; boundary=of-the-test");
    let body = form(&[("file", Some(name), content)]);
    client.send("POST", &format!("/v1/sessions/{id}/uploads"), body).await
}

/// Taken out: the owner; the check of names.
#[tokio::test]
async fn a_file_goes_to_the_container_of_its_owners_session() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, _) = session(&world).await;
    container.serve(&world, &id).await;
    for name in ["data.csv", "ü & ?#%2F.txt", ".hidden"] {
        let answer = give(&world, "key-one", &id, name, b"content").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert!(answer.body["message"].as_str().is_some_and(|text| text.contains(name)), "{answer:?}");
        assert_eq!(container.now(|script| script.given.remove(name)).as_deref(), Some(&b"content"[..]), "{name}");
    }
    let too_large = vec![0; MAX_UPLOAD_BYTES + 1];
    for (key, name, content, status, says) in [
        ("key-two", "a.txt", &b"x"[..], StatusCode::NOT_FOUND, "no such session"),
        ("key-one", "..", b"x", StatusCode::BAD_REQUEST, "file: "),
        ("key-one", "../../etc/passwd", b"x", StatusCode::BAD_REQUEST, "file: "),
        ("key-one", "a\\b", b"x", StatusCode::BAD_REQUEST, "file: "),
        ("key-one", "", b"x", StatusCode::BAD_REQUEST, "file: "),
        ("key-one", "large.bin", &too_large, StatusCode::PAYLOAD_TOO_LARGE, "at most 33554432 bytes"),
        ("key-one", "no-room", b"x", StatusCode::PAYLOAD_TOO_LARGE, "file: the session has been given"),
    ] {
        let answer = give(&world, key, &id, name, content).await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert!(answer.body["message"].as_str().is_some_and(|text| text.contains(says)), "{answer:?}");
    }
    assert!(container.now(|script| script.given.is_empty()));
    world.client("key-one").delete(&format!("/sessions/{id}")).await;
    let answer = give(&world, "key-one", &id, "late.txt", b"x").await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::GONE, &json!("session_ended")));
    assert_eq!(answer.headers["x-should-retry"], "false", "what was streamed cannot be sent again");
}

#[tokio::test]
async fn a_file_for_a_session_that_has_no_browser_yet_waits_for_it() {
    let (world, container) = (World::new(&[]).await, Container::start().await);
    let (id, _) = session(&world).await;
    let given = give(&world, "key-one", &id, "early.txt", b"content");
    tokio::pin!(given);
    assert!(timeout(Duration::from_millis(500), &mut given).await.is_err(), "there is nobody to take it");
    container.serve(&world, &id).await;
    let answer: Answer = timeout(Duration::from_secs(3), given).await.expect("there is now");
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(container.now(|script| script.given.remove("early.txt")).as_deref(), Some(&b"content"[..]));
    let _: Value = answer.body;
}
