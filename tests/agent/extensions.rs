//! Extensions: fetched once, unpacked beside the browser, and loaded by it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use wallcrawler::ids::{ArchiveHash, SessionId};
use wallcrawler::protocol::ClaimedExtension;
use wallcrawler::session::EndReason;

use crate::archives::{extension, zip};
use crate::container::{Cdp, Container, config, eventually};
use crate::control_plane::ControlPlane;
use crate::{HOUR, connect};

/// Where archives are read, and how often each was.
#[derive(Clone)]
pub struct Archives {
    served: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    url: String,
}

impl Archives {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let archives = Self { served: Arc::default(), asked: Arc::default(), url };
        let router = axum::Router::new().fallback(serve).with_state(archives.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        archives
    }

    /// What a claim says of an archive, which is served from now on.
    pub fn offer(&self, content: Vec<u8>) -> ClaimedExtension {
        let sha256 = ArchiveHash::of(&content);
        let url = format!("{}/{sha256}", self.url);
        self.served.lock().expect("not poisoned").insert(format!("/{sha256}"), content);
        ClaimedExtension { sha256, url: Some(url) }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

/// A path that ends in `slow` is begun and never finished.
async fn serve(State(archives): State<Archives>, headers: HeaderMap, uri: Uri) -> Response {
    archives.asked.lock().expect("not poisoned").push(uri.path().to_owned());
    if headers.contains_key("authorization") {
        return StatusCode::BAD_REQUEST.into_response();
    }
    if uri.path().ends_with("slow") {
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>("PK".to_owned())]);
        return Body::from_stream(first.chain(futures_util::stream::pending())).into_response();
    }
    let served = archives.served.lock().expect("not poisoned").get(uri.path()).cloned();
    served.map_or(StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

pub fn hand_out(plane: &ControlPlane, extension: Option<ClaimedExtension>) -> SessionId {
    plane.hand_out_with(json!({"extensionId": "ext_1"}), 1, HOUR, |claimed| claimed.extension = extension)
}

/// What the worker of the extension says, once it runs.
async fn worker_says(cdp: &mut Cdp, expression: &str) -> Value {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let targets = cdp.call("Target.getTargets", json!({})).await;
        let worker = targets["targetInfos"].as_array().expect("a list").iter().find(|target| {
            target["type"] == "service_worker"
                && target["url"].as_str().is_some_and(|url| url.starts_with("chrome-extension://"))
        });
        if let Some(worker) = worker {
            let params = json!({ "targetId": worker["targetId"], "flatten": true });
            let attached = cdp.call("Target.attachToTarget", params).await;
            let session = attached["sessionId"].as_str().expect("a session").to_owned();
            let params = json!({ "expression": expression, "returnByValue": true });
            let answer = cdp.ask(Some(&session), "Runtime.evaluate", params).await;
            // It may have just begun.
            if !answer["result"]["result"]["value"].is_null() {
                return answer["result"]["result"]["value"].clone();
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "there is no worker: {targets}");
    }
}

fn kept(container: &Container) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(container.workdir.join("extensions"));
    dir.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The directories of browsers.
fn homes(workdir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(workdir).expect("readable").flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("b-"))).collect()
}

/// Taken out: `--load-extension`.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_an_extension_has_it_running_and_gets_no_other() {
    let (plane, archives) = (ControlPlane::start().await, Archives::start().await);
    let container = Container::start(config(&plane));
    let session = hand_out(&plane, Some(archives.offer(extension("Mine"))));
    let mut cdp = connect(&plane, &session, 1).await;
    assert_eq!(worker_says(&mut cdp, "globalThis.calledIt").await, "Mine");
    let loaded = cdp.call("Extensions.getExtensions", json!({})).await;
    let names: Vec<&Value> = loaded["extensions"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["Mine"]);
    // As Stagehand opens its own target.
    let hidden = json!({"url": "about:blank#stagehand-client-connection", "hidden": true, "background": true});
    let hidden = cdp.call("Target.createTarget", hidden).await;
    let info = cdp.call("Target.getTargetInfo", json!({"targetId": hidden["targetId"]})).await;
    assert_eq!(info["targetInfo"]["type"], "other", "it is hidden: {info}");

    let home = homes(&container.workdir).pop().expect("a browser");
    let unpacked = home.join("extension");
    let refused = cdp.ask(None, "Extensions.loadUnpacked", json!({"path": unpacked})).await;
    assert!(refused["error"]["message"].as_str().expect("a reason").contains("is refused here"), "{refused}");
    // Chrome keeps what it makes of an extension's rules beside its files.
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&path.metadata().expect("there"));
    for path in [&unpacked, &unpacked.join("manifest.json")] {
        assert_eq!(owner(path), owner(&home), "{}", path.display());
    }
    cdp.send("Browser.close").await;
    assert_eq!(plane.ended(&session).await.reason, EndReason::Released);
    eventually("its files stay", || homes(&container.workdir).is_empty()).await;
    container.stop().await;
}

/// Taken out: the turn that one waits for who wants the same; the look at what is kept.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_fetched_once_for_all_sessions_that_want_it() {
    let (plane, archives) = (ControlPlane::start().await, Archives::start().await);
    let container = Container::start(config(&plane));
    let (one, two) = (archives.offer(extension("One")), archives.offer(extension("Two")));
    let sessions = [&one, &one, &two].map(|extension| hand_out(&plane, Some(extension.clone())));
    for (session, name) in sessions.iter().zip(["One", "One", "Two"]) {
        let mut cdp = connect(&plane, session, 1).await;
        assert_eq!(worker_says(&mut cdp, "globalThis.calledIt").await, name);
        cdp.send("Browser.close").await;
        plane.ended(session).await;
    }
    let mut cdp = connect(&plane, &hand_out(&plane, Some(one)), 1).await;
    assert_eq!(worker_says(&mut cdp, "globalThis.calledIt").await, "One");
    let mut asked = archives.asked();
    asked.sort();
    asked.dedup();
    assert_eq!((asked.len(), archives.asked().len(), kept(&container).len()), (2, 2, 2));
    container.stop().await;
}

/// Taken out: the comparison of the hash; the bound; the second attempt.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_not_what_was_uploaded_is_not_loaded_and_not_kept() {
    let (plane, archives) = (ControlPlane::start().await, Archives::start().await);
    let container = Container::start(config(&plane));
    let good = archives.offer(extension("Good"));
    let other = ClaimedExtension { sha256: ArchiveHash::of(b"another"), ..good.clone() };
    let missing = ClaimedExtension { url: Some(format!("{}/nothing", archives.url)), ..other.clone() };
    let large = archives.offer(vec![0; 16 * 1024 * 1024 + 1]);
    let no_zip = archives.offer(b"no zip".to_vec());
    let no_manifest = archives.offer(zip(&[("worker.js", "1")]));
    let unreachable = ClaimedExtension { url: Some("http://127.0.0.1:1/".to_owned()), ..other.clone() };
    for (extension, fetches, kept_then) in [
        (Some(other), 2, 0),
        (Some(missing), 2, 0),
        (Some(large), 2, 0),
        (Some(unreachable), 0, 0),
        (None, 0, 0),
        (Some(ClaimedExtension { url: None, ..good.clone() }), 0, 0),
        // What is right by its hash is kept.
        (Some(no_zip), 1, 1),
        (Some(no_manifest), 1, 2),
    ] {
        let (what, before) = (format!("{extension:?}"), archives.asked().len());
        let session = hand_out(&plane, extension);
        assert_eq!(plane.ended(&session).await.reason, EndReason::FailedToStart, "{what}");
        assert_eq!(archives.asked().len() - before, fetches, "{what}");
        assert_eq!(kept(&container).len(), kept_then, "{what}: {:?}", kept(&container));
        eventually("something of a browser is left", || homes(&container.workdir).is_empty()).await;
    }
    plane.claim_where("a slot is not free", |claim| claim.current_sessions == 0).await;
    let mut cdp = connect(&plane, &hand_out(&plane, Some(good)), 1).await;
    assert_eq!(worker_says(&mut cdp, "globalThis.calledIt").await, "Good");
    container.stop().await;
}

/// Taken out: that a part is removed that does not come to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_its_extension_comes_leaves_nothing_of_it() {
    let (plane, archives) = (ControlPlane::start().await, Archives::start().await);
    let container = Container::start(config(&plane));
    let url = Some(format!("{}/slow", archives.url));
    let session = hand_out(&plane, Some(ClaimedExtension { sha256: ArchiveHash::of(b"slow"), url }));
    eventually("it is not fetched", || kept(&container).len() == 1).await;
    plane.now(|script| script.end.push(session));
    eventually("something of it is left", || kept(&container).is_empty()).await;
    container.stop().await;
}
