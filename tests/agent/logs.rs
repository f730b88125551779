//! What a real browser and its clients say is in the session's log: while it runs, and afterwards however it ends.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use wallcrawler::ids::SessionId;
use wallcrawler::protocol::{CDP_SECRET_HEADER, FileKind};

use crate::container::{Cdp, Container, config, kill};
use crate::control_plane::ControlPlane;
use crate::gateway_client::GatewayClient;
use crate::{HOUR, address, connect};

async fn ask(plane: &ControlPlane, session: &SessionId, secret: &str) -> reqwest::Response {
    let url = format!("http://{}/sessions/{session}/logs", address(plane));
    Client::new().get(url).header(CDP_SECRET_HEADER, secret).send().await.expect("the container answers")
}

/// The log of a session that runs.
async fn log(plane: &ControlPlane, session: &SessionId) -> Vec<Value> {
    let secret = plane.ready(session, 1).await.cdp_secret;
    let answer = ask(plane, session, &secret).await;
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"application/json".parse().expect("one"))
    );
    check(answer.json().await.expect("JSON"), session)
}

async fn stored(plane: &ControlPlane, session: &SessionId) -> Vec<Value> {
    check(serde_json::from_slice(&plane.stored(session, FileKind::Logs).await).expect("JSON"), session)
}

/// As strict clients read it.
fn check(entries: Vec<Value>, session: &SessionId) -> Vec<Value> {
    for entry in &entries {
        assert!(entry["method"].is_string() && entry["pageId"].is_u64() && entry["timestamp"].is_u64(), "{entry}");
        assert_eq!(entry["sessionId"], session.as_str());
        assert!(entry["request"]["params"].is_object() && entry["request"]["rawBody"].is_string(), "{entry}");
        let response = &entry["response"];
        assert!(response.is_null() || response["result"].is_object() && response["rawBody"].is_string(), "{entry}");
    }
    entries
}

fn only<'a>(entries: &'a [Value], method: &str) -> &'a Value {
    let found: Vec<&Value> = entries.iter().filter(|entry| entry["method"] == method).collect();
    assert_eq!(found.len(), 1, "{method} in {:?}", entries.iter().map(|entry| &entry["method"]).collect::<Vec<_>>());
    found[0]
}

/// Taken out: that live viewers are not clients.
#[tokio::test(flavor = "multi_thread")]
async fn while_it_runs_a_session_tells_what_was_said_and_of_which_page() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let (session, other) = (plane.hand_out(json!({}), 1, HOUR), plane.hand_out(json!({}), 1, HOUR));
    let secret = plane.ready(&session, 1).await.cdp_secret;
    assert_eq!(log(&plane, &session).await, [] as [Value; 0]);
    let mut cdp = connect(&plane, &session, 1).await;
    assert_eq!(cdp.evaluate("20 + 22").await, 42);
    cdp.navigate("data:text/html,<title>logged</title>").await;
    cdp.ask(None, "Target.createTarget", json!({"url": "file:///etc/passwd"})).await;
    let entries = log(&plane, &session).await;
    let evaluated = only(&entries, "Runtime.evaluate");
    assert_eq!(evaluated["request"]["params"]["expression"], "20 + 22");
    assert_eq!(evaluated["response"]["result"]["result"]["value"], 42);
    let navigated = only(&entries, "Page.navigate");
    assert!(navigated["frameId"].is_string() && navigated["loaderId"].is_string(), "{navigated}");
    assert_eq!((&evaluated["pageId"], &navigated["pageId"]), (&json!(1), &json!(1)));
    let attached: Vec<&Value> = entries.iter().filter(|entry| entry["method"] == "Target.attachedToTarget").collect();
    assert_eq!(attached.len(), 2, "an event of each attachment");
    assert!(attached.iter().all(|event| event.get("response").is_none() && event["pageId"] == 0));
    let refused = only(&entries, "Target.createTarget");
    assert!(refused["response"]["rawBody"].as_str().is_some_and(|body| body.contains("refused here")), "{refused}");
    // Who drives it by hand is no client.
    let url = format!("ws://{}/sessions/{session}/drive", address(&plane));
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url).expect("a URL");
    request.headers_mut().insert(CDP_SECRET_HEADER, secret.parse().expect("a header"));
    let mut viewer = Cdp::open(request).await.expect("a connection");
    viewer.call("Page.getLayoutMetrics", json!({})).await;
    cdp.call("Browser.getVersion", json!({})).await;
    let entries = log(&plane, &session).await;
    only(&entries, "Browser.getVersion");
    assert!(entries.iter().all(|entry| entry["method"] != "Page.getLayoutMetrics"));

    assert_eq!(log(&plane, &other).await, [] as [Value; 0], "it is the other's");
    let others = plane.ready(&other, 1).await.cdp_secret;
    for (session, secret) in [(&session, others.as_str()), (&session, ""), (&other, &secret)] {
        assert_eq!(ask(&plane, session, secret).await.status(), StatusCode::NOT_FOUND);
    }
    container.stop().await;
}

/// Taken out: what a gateway's client says, and what it is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_of_the_gateway_say_is_in_the_same_log() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let client = GatewayClient::of(&plane, &session, 1).await;
    let page = client.attach().await;
    client.evaluate(&page, "'by the gateway'").await;
    client.ask(None, "Tethering.bind", json!({"port": 1})).await;
    let mut cdp = connect(&plane, &session, 1).await;
    // Both have counted to the same number.
    for _ in 0..4 {
        cdp.call("Browser.getVersion", json!({})).await;
    }
    let entries = log(&plane, &session).await;
    let evaluated = only(&entries, "Runtime.evaluate");
    assert_eq!(evaluated["response"]["result"]["result"]["value"], "by the gateway");
    assert_eq!(evaluated["pageId"], 1);
    assert!(
        only(&entries, "Tethering.bind")["response"]["rawBody"].as_str().is_some_and(|body| body.contains("refused"))
    );
    let versions: Vec<&Value> = entries.iter().filter(|entry| entry["method"] == "Browser.getVersion").collect();
    assert!(versions.len() == 4 && versions.iter().all(|entry| entry["response"]["result"]["product"].is_string()));
    container.stop().await;
}

/// A session that says something, large and small, and ends; whether that is stored.
async fn left_by(end: impl AsyncFnOnce(&ControlPlane, &Container, &SessionId, &mut Cdp)) {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let mut cdp = connect(&plane, &session, 1).await;
    let large = cdp.evaluate(&format!("'{}' + 'y'.repeat(3e6)", "x".repeat(200_000))).await;
    assert_eq!(large.as_str().map(str::len), Some(3_200_000));
    end(&plane, &container, &session, &mut cdp).await;
    let entries = stored(&plane, &session).await;
    let evaluated = only(&entries, "Runtime.evaluate");
    assert_eq!(evaluated["pageId"], 1, "by what stands at the end of it");
    for (side, begins) in
        [("request", r#"{"id":3,"#), ("response", r#"{"id":3,"result":{"result":{"type":"string","value":"xxx"#)]
    {
        let body = evaluated[side]["rawBody"].as_str().expect("a text");
        assert!(
            body.starts_with(begins) && body.contains(" bytes are left out here ..] ") && body.ends_with("\"}"),
            "{body}"
        );
        assert!(body.len() < 10_000, "{} bytes", body.len());
    }
    cdp.closed().await;
    container.stop().await;
}

/// Taken out: that it is stored, in `keep_log`.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_kept_when_a_session_is_released_or_ended() {
    left_by(async |_, _, _, cdp| cdp.send("Browser.close").await).await;
    left_by(async |plane, _, session, _| plane.now(|script| script.end.push(session.clone()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_kept_when_the_browser_crashes_or_is_killed() {
    left_by(async |_, _, _, cdp| cdp.send("Browser.crash").await).await;
    left_by(async |_, container, _, _| kill(container.browser())).await;
}

/// Taken out: that nothing is stored where nothing was said.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_wants_no_log_or_says_nothing_leaves_none() {
    for settings in [json!({"logSession": false}), json!({})] {
        let plane = ControlPlane::start().await;
        let container = Container::start(config(&plane));
        let session = plane.hand_out(settings.clone(), 1, HOUR);
        plane.ready(&session, 1).await;
        if settings["logSession"] == false {
            let mut cdp = connect(&plane, &session, 1).await;
            assert_eq!(cdp.evaluate("'not logged'").await, "not logged");
        }
        assert_eq!(log(&plane, &session).await, [] as [Value; 0]);
        plane.now(|script| script.end.push(session.clone()));
        container.stop().await;
        assert_eq!(plane.now(|script| script.addresses.len()), 0);
    }
}

/// Taken out: that they are stored beside each other.
#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_cannot_be_stored_do_not_keep_the_log_from_it_and_the_other_way_round() {
    for (fails, works) in [(FileKind::Downloads, FileKind::Logs), (FileKind::Logs, FileKind::Downloads)] {
        let plane = ControlPlane::start().await;
        plane.now(|script| script.not_taken = Some(fails));
        let container = Container::start(config(&plane));
        let session = plane.hand_out(json!({}), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        let behavior = json!({ "behavior": "allow", "downloadPath": "downloads", "eventsEnabled": true });
        cdp.call("Browser.setDownloadBehavior", behavior).await;
        let link = "Object.assign(document.createElement('a'), {download: 'a.txt', href: 'data:,content'})";
        cdp.evaluate(&format!("{link}.click()")).await;
        while cdp.event("Browser.downloadProgress").await["params"]["state"] != "completed" {}
        cdp.send("Browser.close").await;
        plane.stored(&session, works).await;
        container.stop().await;
        let kinds: Vec<FileKind> = plane.now(|script| script.stored.iter().map(|(_, kind, _)| *kind).collect());
        assert_eq!(kinds, [works]);
        assert!(plane.now(|script| script.addresses.contains(&fails)));
    }
}
