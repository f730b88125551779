//! What a real browser has downloaded is kept, however its session ends; and what a session is given can be chosen.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use wallcrawler::ids::SessionId;
use wallcrawler::protocol::{CDP_SECRET_HEADER, ClaimRequest, ContainerPhase, FileKind};
use wallcrawler::session::EndReason;
use zip::ZipArchive;

use crate::container::{Cdp, Container, config, eventually, kill};
use crate::control_plane::{ControlPlane, Script};
use crate::filter::home;
use crate::{HOUR, address, connect};

/// More than any buffer on the way, and not the same anywhere.
const LARGE: &str = "Array.from({length: 300_000}, (_, at) => at).join()";

/// Has the page download the value of an expression, and waits until it has.
async fn download(cdp: &mut Cdp, name: &str, content: &str) -> String {
    let script = format!(
        "const content = {content}; const link = document.createElement('a'); link.download = '{name}';
         link.href = URL.createObjectURL(new Blob([content])); link.click(); return content;"
    );
    let content = cdp.evaluate(&format!("(() => {{ {script} }})()")).await;
    loop {
        let told = cdp.event("Browser.downloadProgress").await;
        if told["params"]["state"] == "completed" {
            return content.as_str().expect("a text").to_owned();
        }
    }
}

/// The files of a zip, by their names without the moment.
fn unpack(zip: Vec<u8>) -> BTreeMap<String, Vec<String>> {
    let mut zip = ZipArchive::new(Cursor::new(zip)).expect("a zip");
    let mut files = BTreeMap::<String, Vec<String>>::new();
    for at in 0..zip.len() {
        let mut file = zip.by_index(at).expect("an entry");
        let name = file.name().expect("a name").into_owned();
        let (stem, ending) = name.rsplit_once('.').expect("an ending");
        let (stem, moment) = stem.rsplit_once('-').expect("a moment");
        assert!(moment.len() == 13 && moment.bytes().all(|b| b.is_ascii_digit()), "{name}");
        let mut content = String::new();
        file.read_to_string(&mut content).expect("whole");
        files.entry(format!("{stem}.{ending}")).or_default().push(content);
    }
    files
}

fn only(name: &str, content: &str) -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([(name.to_owned(), vec![content.to_owned()])])
}

/// As Stagehand, Playwright and others say it.
const BEHAVIORS: [(&str, &str); 2] = [("allow", "downloads"), ("allowAndName", "/tmp/playwright-artifacts-x")];

async fn allow(cdp: &mut Cdp, (behavior, path): (&str, &str)) {
    let params = json!({ "behavior": behavior, "downloadPath": path, "eventsEnabled": true });
    cdp.call("Browser.setDownloadBehavior", params).await;
}

/// A session that has downloaded something, and ends; what is stored of it.
async fn left_by(
    settings: Value,
    how: (&str, &str),
    end: impl AsyncFnOnce(&ControlPlane, &mut Container, &SessionId, &mut Cdp),
) {
    let plane = ControlPlane::start().await;
    let mut container = Container::start(config(&plane));
    let session = plane.hand_out(settings, 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    allow(&mut cdp, how).await;
    let content = download(&mut cdp, "numbers.csv", LARGE).await;
    end(&plane, &mut container, &session, &mut cdp).await;
    assert_eq!(unpack(plane.stored(&session, FileKind::Downloads).await), only("numbers.csv", &content));
    cdp.closed().await;
    container.done_or_stop().await;
}

/// Taken out: `keep` in `life`.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_downloaded_is_kept_when_its_session_is_released_or_ended() {
    for (browser, how) in ["headless-shell", "chromium"].into_iter().zip(BEHAVIORS) {
        let settings = json!({ "browser": browser });
        left_by(settings.clone(), how, async |_, _, _, cdp| cdp.send("Browser.close").await).await;
        left_by(settings, how, async |plane, _, session, _| plane.now(|script| script.end.push(session.clone()))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_downloaded_is_kept_when_the_browser_crashes_or_is_killed() {
    left_by(json!({}), BEHAVIORS[0], async |_, _, _, cdp| cdp.send("Browser.crash").await).await;
    left_by(json!({}), BEHAVIORS[1], async |_, container, _, _| kill(container.browser())).await;
}

/// Taken out: that the slot is kept until it is stored, so that the container was about to leave before.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_stopped_stores_what_its_sessions_have_downloaded_and_then_ends() {
    left_by(json!({}), BEHAVIORS[0], async |plane, container, session, _| {
        let (let_through, storage) = oneshot::channel();
        plane.now(|script| script.storage_waits_for = Some(storage));
        container.ask_to_stop();
        assert_eq!(plane.ended(session).await.reason, EndReason::ContainerLost);
        let taken = |script: &Script| script.storage_waits_for.is_none().then_some(());
        plane.until("nothing is being stored", taken, |script| script.addresses.clone()).await;
        plane.now(|script| script.claims.clear());
        let drains = |claim: &ClaimRequest| claim.phase == ContainerPhase::Draining;
        let claim = plane.claim_where("it does not stay", drains).await;
        assert_eq!(claim.current_sessions, 1);
        assert!(!plane.now(|script| script.stored.iter().any(|(_, kind, _)| *kind == FileKind::Downloads)));
        let_through.send(()).expect("it waits");
    })
    .await;
}

/// A site whose only file never comes to its end.
async fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = vec![0; 4_096];
                let _ = stream.read(&mut asked).await;
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\ncontent-type: application/octet-stream\r\n\
                            content-disposition: attachment; filename=\"endless.bin\"\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&[b'x'; 1_000_000]).await;
                let _ = stream.read(&mut asked).await;
            });
        }
    });
    url
}

/// Taken out: that unfinished files are left out.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_browser_was_still_downloading_is_not_kept() {
    let site = endless().await;
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    allow(&mut cdp, BEHAVIORS[0]).await;
    let content = download(&mut cdp, "whole.txt", "'whole'").await;
    cdp.evaluate(&format!("location.href = '{site}/'; 1")).await;
    let part = |name: &str| name.ends_with(".crdownload");
    let downloads = home(&container).join("downloads");
    eventually("the second download does not begin", || {
        let files = std::fs::read_dir(&downloads).expect("there").flatten();
        files.into_iter().any(|file| part(&file.file_name().to_string_lossy()))
    })
    .await;
    kill(container.browser());
    assert_eq!(unpack(plane.stored(&session, FileKind::Downloads).await), only("whole.txt", &content));
    container.stop().await;
}

fn url(plane: &ControlPlane, session: &SessionId, what: &str) -> String {
    format!("http://{}/sessions/{session}/{what}", address(plane))
}

async fn store_now(plane: &ControlPlane, session: &SessionId, secret: &str) -> (StatusCode, Value) {
    let client = reqwest::Client::new();
    let answer = client.post(url(plane, session, "downloads")).header(CDP_SECRET_HEADER, secret).send().await;
    let answer = answer.expect("the container answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

/// Taken out: that the browser is to name the files, so that one was saved over the other; that it is compared what was
/// stored before.
#[tokio::test(flavor = "multi_thread")]
async fn while_it_runs_a_session_stores_what_is_there_when_it_is_asked_and_only_what_is_new() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({"logSession": false}), 1, HOUR);
    let secret = plane.ready(&session, 1).await.cdp_secret;
    let mut cdp = connect(&plane, &session, 1).await;
    let (status, answer) = store_now(&plane, &session, &secret).await;
    assert_eq!((status, &answer), (StatusCode::OK, &json!({"files": 0})));
    allow(&mut cdp, BEHAVIORS[0]).await;
    for (at, content) in ["'first'", "'second'"].into_iter().enumerate() {
        download(&mut cdp, "same.txt", content).await;
        for _ in 0..2 {
            let (status, answer) = store_now(&plane, &session, &secret).await;
            assert_eq!((status, &answer), (StatusCode::OK, &json!({"files": at + 1})));
        }
    }
    let all = BTreeMap::from([("same.txt".to_owned(), vec!["first".to_owned(), "second".to_owned()])]);
    assert_eq!(unpack(plane.stored(&session, FileKind::Downloads).await), all);
    assert_eq!(plane.now(|script| script.stored.len()), 2, "asked four times");
    let (status, _) = store_now(&plane, &session, "not-the-secret").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // What is forgotten is not stored any more, at the end either.
    let client = reqwest::Client::new();
    let forgotten = client.delete(url(&plane, &session, "downloads")).header(CDP_SECRET_HEADER, &secret).send().await;
    assert_eq!(forgotten.expect("the container answers").status(), StatusCode::NO_CONTENT);
    plane.now(|script| script.end.push(session.clone()));
    cdp.closed().await;
    container.stop().await;
    assert_eq!(plane.now(|script| (script.stored.len(), script.addresses.len())), (2, 2));
}

/// Taken out: that 501 is told apart, so that whoever asks might have asked again; that nothing is asked for twice.
#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_storage_nothing_is_kept_and_nobody_is_asked_twice() {
    let plane = ControlPlane::start().await;
    plane.now(|script| script.no_storage = true);
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let secret = plane.ready(&session, 1).await.cdp_secret;
    let mut cdp = connect(&plane, &session, 1).await;
    allow(&mut cdp, BEHAVIORS[0]).await;
    download(&mut cdp, "lost.txt", "'lost'").await;
    assert_eq!(store_now(&plane, &session, &secret).await.0, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(plane.now(|script| script.addresses.len()), 1);
    cdp.send("Browser.close").await;
    plane.ended(&session).await;
    container.stop().await;
    let mut addresses = plane.now(|script| script.addresses.clone());
    addresses.sort_by_key(|kind| *kind as u8);
    assert_eq!(addresses, [FileKind::Downloads, FileKind::Downloads, FileKind::Logs], "once more, at the end");
    assert_eq!(plane.now(|script| script.stored.len()), 0);
}

/// Who waits for the end of a session does not wait for what it leaves. Taken out: the order of the two.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_reported_before_anything_is_stored() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    allow(&mut cdp, BEHAVIORS[0]).await;
    download(&mut cdp, "numbers.csv", LARGE).await;
    cdp.send("Browser.close").await;
    plane.stored(&session, FileKind::Downloads).await;
    assert_eq!(plane.now(|script| (script.ended.len(), script.addresses_before_end)), (1, 0));
    container.stop().await;
}

async fn give(plane: &ControlPlane, session: &SessionId, secret: &str, name: &str, content: Vec<u8>) -> StatusCode {
    let client = reqwest::Client::new();
    let request = client.put(url(plane, session, &format!("uploads/{name}"))).header(CDP_SECRET_HEADER, secret);
    request.body(content).send().await.expect("the container answers").status()
}

/// Taken out: the way from `/tmp/.uploads/`; the check of names.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_session_is_given_can_be_chosen_by_the_names_clients_use_and_in_no_other_session() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let (session, other) = (plane.hand_out(json!({}), 1, HOUR), plane.hand_out(json!({}), 1, HOUR));
    let secret = plane.ready(&session, 1).await.cdp_secret;
    let (mut cdp, mut stranger) = (connect(&plane, &session, 1).await, connect(&plane, &other, 1).await);
    let large = "0123456789".repeat(500_000);
    assert_eq!(
        give(&plane, &session, &secret, "data%20%C3%BC.csv", large.clone().into()).await,
        StatusCode::NO_CONTENT
    );
    for path in ["/tmp/.uploads/data ü.csv", "data ü.csv", "uploads/data ü.csv"] {
        assert!(cdp.upload(path.as_ref()).await == large, "{path}");
    }
    let params = json!({ "files": ["/tmp/.uploads/data ü.csv"], "backendNodeId": 1 });
    let refused = stranger.ask(None, "DOM.setFileInputFiles", params).await;
    assert!(refused["error"]["message"].as_str().is_some_and(|text| text.contains("refused here")), "{refused}");
    for name in ["..", "%2e%2e", "a%2Fb", "a%5Cb", "a%0Ab", "%00", &"x".repeat(256)] {
        let status = give(&plane, &session, &secret, name, b"x".to_vec()).await;
        assert!(status == StatusCode::BAD_REQUEST || status == StatusCode::NOT_FOUND, "{name}: {status}");
    }
    assert_eq!(give(&plane, &session, "wrong", "a", b"x".to_vec()).await, StatusCode::NOT_FOUND);
    assert_eq!(give(&plane, &other, &secret, "a", b"x".to_vec()).await, StatusCode::NOT_FOUND);
    let too_large = vec![0; wallcrawler::protocol::MAX_UPLOAD_BYTES + 1];
    assert_eq!(give(&plane, &session, &secret, "a", too_large).await, StatusCode::PAYLOAD_TOO_LARGE);
    tokio::time::timeout(Duration::from_secs(30), container.stop()).await.expect("it ends");
}
