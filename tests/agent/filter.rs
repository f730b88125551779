//! What a client may not say to a real browser, on both ways into it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::container::{Cdp, Container, config, eventually};
use crate::control_plane::ControlPlane;
use crate::gateway_client::GatewayClient;
use crate::{HOUR, connect};

/// A session of each build, with its client and its page.
async fn in_both_builds(test: impl AsyncFn(&Container, &mut Cdp, &str)) {
    for browser in ["headless-shell", "chromium"] {
        let plane = ControlPlane::start().await;
        let container = Container::start(config(&plane));
        let session = plane.hand_out(json!({ "browser": browser }), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        let page = cdp.attach().await;
        test(&container, &mut cdp, &page).await;
        container.stop().await;
    }
}

fn refused(answer: &Value) -> &str {
    assert_eq!(answer["error"]["code"], -32_000, "{answer}");
    answer["error"]["message"].as_str().filter(|message| message.contains("is refused here")).expect("a reason")
}

/// The directory of the only browser.
pub fn home(container: &Container) -> PathBuf {
    let homes: Vec<PathBuf> = std::fs::read_dir(&container.workdir)
        .expect("readable")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("profile").exists())
        .collect();
    assert_eq!(homes.len(), 1, "{homes:?}");
    homes[0].clone()
}

async fn value(cdp: &mut Cdp, page: &str, expression: &str) -> Value {
    let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
    let mut answer = cdp.ask(Some(page), "Runtime.evaluate", params).await;
    assert!(answer["result"]["exceptionDetails"].is_null() && answer["error"].is_null(), "{answer}");
    answer["result"]["result"]["value"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_files_cannot_be_opened_and_the_client_goes_on() {
    in_both_builds(async |_, cdp, page| {
        for url in ["file:///etc/passwd", "\tFI\nLE:///etc/passwd", "view-source:file:///etc/passwd", "about:version"] {
            let answer = cdp.ask(Some(page), "Page.navigate", json!({ "url": url })).await;
            assert!(refused(&answer).contains("URLs cannot be opened"));
            assert_eq!(answer["sessionId"], page);
            refused(&cdp.ask(None, "Target.createTarget", json!({ "url": url })).await);
        }
        assert_eq!(value(cdp, page, "location.href").await, "about:blank");
        let targets = cdp.call("Target.getTargets", json!({})).await;
        let pages = targets["targetInfos"].as_array().expect("a list").iter().filter(|target| target["type"] == "page");
        assert_eq!(pages.count(), 1);
        let answer = cdp.ask(Some(page), "Page.navigate", json!({ "url": "data:text/html,open" })).await;
        assert!(answer["error"].is_null(), "{answer}");
        assert_eq!(value(cdp, page, "location.href").await, "data:text/html,open");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_chrome_would_read_and_json_does_not_know_is_not_passed_on() {
    in_both_builds(async |_, cdp, page| {
        let navigate = json!({ "id": 77, "sessionId": page, "method": "Page.navigate", "params": { "url": "file:///etc/passwd" } });
        for odd in [format!("\u{b}{navigate}"), navigate.to_string().replace("file:", "fi\nle:")] {
            let answer = cdp.say(&odd).await;
            assert_eq!(answer["error"]["code"], -32_700, "{answer}");
            assert_eq!(value(cdp, page, "location.href").await, "about:blank");
        }
        // Of two values the one that was looked at is the one that counts.
        let twice = format!(
            r#"{{"id":78,"sessionId":"{page}","method":"Page.navigate","params":{{"url":"file:///etc/passwd","url":"about:blank"}}}}"#
        );
        let answer = cdp.say(&twice).await;
        assert_eq!((&answer["id"], &answer["error"]), (&json!(78), &Value::Null), "{answer}");
        assert_eq!(value(cdp, page, "location.href").await, "about:blank");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_land_in_the_session_and_only_they_can_be_uploaded() {
    in_both_builds(async |container, cdp, page| {
        let theirs = std::env::temp_dir().join(format!("playwright-artifacts-{}", wallcrawler::hex::random(4)));
        let params = json!({ "behavior": "allow", "downloadPath": theirs, "eventsEnabled": true });
        cdp.call("Browser.setDownloadBehavior", params).await;
        value(
            cdp,
            page,
            "const link = document.createElement('a'); link.download = 'report.txt'; \
             link.href = URL.createObjectURL(new Blob(['what was downloaded'])); link.click(); 1",
        )
        .await;
        let landed = home(container).join("downloads/report.txt");
        eventually("nothing was downloaded", || {
            std::fs::read_to_string(&landed).is_ok_and(|text| text == "what was downloaded")
        })
        .await;
        assert!(!theirs.exists());

        value(cdp, page, "document.body.innerHTML = '<input type=file multiple>'; 1").await;
        let input =
            cdp.ask(Some(page), "Runtime.evaluate", json!({ "expression": "document.querySelector('input')" })).await;
        let object = &input["result"]["result"]["objectId"];
        for files in [json!(["/etc/passwd"]), json!(["downloads/report.txt", "downloads/../../../../etc/passwd"])] {
            let params = json!({ "objectId": object, "files": files });
            assert!(
                refused(&cdp.ask(Some(page), "DOM.setFileInputFiles", params).await).contains("uploads or downloads")
            );
        }
        assert_eq!(value(cdp, page, "document.querySelector('input').files.length").await, 0);
        let params = json!({ "objectId": object, "files": ["downloads/report.txt"] });
        let answer = cdp.ask(Some(page), "DOM.setFileInputFiles", params).await;
        assert!(answer["error"].is_null(), "{answer}");
        assert_eq!(value(cdp, page, "document.querySelector('input').files[0].text()").await, "what was downloaded");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass_both_ways_with_refusals_between_them() {
    in_both_builds(async |_, cdp, page| {
        for _ in 0..3 {
            let echoed = value(cdp, page, &format!("'{}' + 'é'.repeat(1.5e6)", "x".repeat(3_000_000))).await;
            assert_eq!(echoed.as_str().map(str::len), Some(6_000_000));
            refused(&cdp.ask(Some(page), "Tethering.bind", json!({ "port": 9_000 })).await);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_client_may_not_say_more_than_another() {
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    let session = plane.hand_out(json!({}), 1, HOUR);
    let client = GatewayClient::of(&plane, &session, 1).await;
    let page = client.attach().await;
    let answer = client.ask(Some(&page), "Page.navigate", json!({ "url": "file:///etc/passwd" })).await;
    assert!(refused(&answer).contains("file: URLs"));
    assert_eq!(answer["sessionId"], page);
    refused(&client.ask(None, "Target.exposeDevToolsProtocol", json!({ "targetId": "x" })).await);
    assert_eq!(client.evaluate(&page, "location.href").await, "about:blank");
    let params = json!({ "behavior": "allow", "downloadPath": "/tmp/elsewhere" });
    client.call(None, "Browser.setDownloadBehavior", params).await;
    assert!(home(&container).join("downloads").is_dir());
    // They are answers like others, to be delivered before the end is.
    assert_eq!(client.count(|message| message["error"].is_object()), 2);
    client.assert_faultless();
    tokio::time::timeout(Duration::from_secs(30), container.stop()).await.expect("it ends");
}

/// What a client has its page do is not filtered: it rests on Chrome that none of this opens a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_does_not_get_to_the_containers_files_by_itself_either() {
    in_both_builds(async |_, cdp, page| {
        let tree = cdp.ask(Some(page), "Page.getFrameTree", json!({})).await;
        let world = json!({ "frameId": tree["result"]["frameTree"]["frame"]["id"], "grantUniveralAccess": true });
        let world = cdp.ask(Some(page), "Page.createIsolatedWorld", world).await["result"]["executionContextId"].take();
        assert!(world.is_number());
        let read = "fetch('file:///etc/passwd').then(file => file.text()).catch(String)";
        let open = "document.documentElement.append(Object.assign(document.createElement('iframe'), \
            { src: 'file:///etc/passwd' })); open('file:///etc/passwd'); open('view-source:file:///etc/passwd'); \
            setTimeout(() => { location.href = 'file:///etc/passwd' }, 0); new Promise(done => setTimeout(done, 500))";
        for expression in [read, open] {
            for context in [&Value::Null, &world] {
                let mut params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true });
                if context.is_number() {
                    params["contextId"] = context.clone();
                }
                let answer = cdp.ask(Some(page), "Runtime.evaluate", params).await;
                assert!(!answer.to_string().contains("root:"), "{answer}");
            }
        }
        // Whatever opened: no frame of it shows a file.
        let targets = cdp.call("Target.getTargets", json!({})).await;
        for target in targets["targetInfos"].as_array().expect("a list") {
            let params = json!({ "targetId": target["targetId"], "flatten": true });
            let attached = cdp.call("Target.attachToTarget", params).await;
            let attached = attached["sessionId"].as_str().expect("a session");
            let tree = cdp.ask(Some(attached), "Page.getFrameTree", json!({})).await;
            let text = json!({ "expression": "document.documentElement.innerText" });
            let text = cdp.ask(Some(attached), "Runtime.evaluate", text).await;
            assert!(!tree.to_string().contains("\"url\":\"file:") && !text.to_string().contains("root:"), "{tree} {text}");
        }
        // A redirect that the client itself makes up.
        cdp.ask(Some(page), "Fetch.enable", json!({})).await;
        let started = json!({ "expression": "location.href = 'http://redirects.example/'; 1" });
        cdp.ask(Some(page), "Runtime.evaluate", started).await;
        let paused = cdp.event("Fetch.requestPaused").await;
        let redirect = json!({
            "requestId": paused["params"]["requestId"],
            "responseCode": 302,
            "responseHeaders": [{ "name": "location", "value": "file:///etc/passwd" }],
        });
        cdp.ask(Some(page), "Fetch.fulfillRequest", redirect).await;
        cdp.ask(Some(page), "Fetch.disable", json!({})).await;
        let tree = cdp.ask(Some(page), "Page.getFrameTree", json!({})).await;
        assert!(!tree.to_string().contains("\"url\":\"file:"), "{tree}");
    })
    .await;
}
