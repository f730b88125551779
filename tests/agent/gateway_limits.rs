//! What API Gateway does not carry: what a gateway client gets instead.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::gateway::scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_screenshot_that_api_gateway_cannot_carry_is_answered_with_an_error_and_the_next_command_works() {
    let (_plane, container, _, client) = scene().await;
    let page = client.attach().await;
    client.evaluate(&page, NOISE).await;
    let answer = client.ask(Some(&page), "Page.captureScreenshot", json!({})).await;
    assert_eq!((&answer["error"]["code"], &answer["sessionId"]), (&json!(-32_000), &json!(page)), "{answer}");
    let message = answer["error"]["message"].as_str().expect("a text");
    assert!(message.contains("131072") && message.contains("CDP_ENDPOINT"), "{message}");
    let clip = json!({ "clip": { "x": 0, "y": 0, "width": 100, "height": 100, "scale": 1 } });
    let small = client.call(Some(&page), "Page.captureScreenshot", clip).await;
    assert!(small["data"].as_str().is_some_and(|data| data.len() > 10_000));
    client.assert_faultless();
    container.stop().await;
}

/// Fills the page with what no image format makes smaller; `frame()` does it anew.
const NOISE: &str = "
    document.body.innerHTML = '<canvas width=800 height=600>';
    context = document.querySelector('canvas').getContext('2d');
    frame = () => {
        const image = context.createImageData(800, 600);
        for (let at = 0; at < image.data.length; at += 4) {
            const noise = Math.random() * 0xffffff;
            image.data.set([noise & 255, noise >> 8 & 255, noise >> 16, 255], at);
        }
        context.putImageData(image, 0, 0);
    };
    frame();
    0";

#[tokio::test(flavor = "multi_thread")]
async fn a_screencast_goes_on_after_frames_that_could_not_be_passed() {
    let (_plane, container, _, client) = scene().await;
    let page = client.attach().await;
    client.evaluate(&page, NOISE).await;
    client.evaluate(&page, "painting = setInterval(frame, 50); 0").await;
    client.call(Some(&page), "Page.startScreencast", json!({ "format": "png" })).await;
    let warning = client.got("no warning", |message| message["method"] == "Log.entryAdded").await;
    assert_eq!(warning["sessionId"], json!(page));
    assert!(warning["params"]["entry"]["text"].as_str().is_some_and(|text| text.contains("Page.screencastFrame")));
    // Unless each frame is acknowledged, Chrome stops after a few.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Again and again: what is painted while Chrome waits for acknowledgements is no frame.
    let plain = "clearInterval(painting); setInterval(() => document.body.textContent = Date.now(), 50); 0";
    client.evaluate(&page, plain).await;
    client.got("no frame after that", |message| message["method"] == "Page.screencastFrame").await;
    assert_eq!(client.count(|message| message["method"] == "Log.entryAdded"), 1);
    assert_eq!(client.count(|message| message["id"].as_i64().is_some_and(|id| id < 0)), 0, "not its commands");
    client.assert_faultless();
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_large_body_passes_without_it() {
    let (_plane, container, _, client) = scene().await;
    let page = client.attach().await;
    client.call(Some(&page), "Fetch.enable", json!({})).await;
    let post =
        "fetch('http://127.0.0.1:9/', { method: 'POST', mode: 'no-cors', body: 'x'.repeat(300000) }).catch(() => 0); 0";
    client.evaluate(&page, post).await;
    let paused = client.got("no event", |message| message["method"] == "Fetch.requestPaused").await;
    let request = &paused["params"]["request"];
    assert_eq!((&request["hasPostData"], &request["postData"]), (&json!(true), &Value::Null), "{request}");
    assert_eq!(paused["sessionId"], json!(page));
    let params = json!({ "requestId": paused["params"]["requestId"], "errorReason": "Aborted" });
    client.call(Some(&page), "Fetch.failRequest", params).await;
    container.stop().await;
}

/// Answers every request with the same.
async fn website(kind: &'static str, body: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let page = move || async move { ([("content-type", kind)], body) };
    let router = axum::Router::new().fallback(page);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_in_pieces_that_api_gateway_carries() {
    // Of every byte Chrome makes six here, and of three bytes four there.
    let control = vec![1u8; 150_000];
    let noise: Vec<u8> = (0..150_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for (kind, body) in [("text/plain; charset=utf-8", control), ("application/octet-stream", noise)] {
        let url = website(kind, body.clone()).await;
        let (_plane, container, _, client) = scene().await;
        let page = client.attach().await;
        client.call(Some(&page), "Fetch.enable", json!({ "patterns": [{ "requestStage": "Response" }] })).await;
        client.bring_command(client.command(Some(&page), "Page.navigate", json!({ "url": url }))).await;
        let paused = client.got("no event", |message| message["method"] == "Fetch.requestPaused").await;
        let request = json!({ "requestId": paused["params"]["requestId"] });
        let stream = client.call(Some(&page), "Fetch.takeResponseBodyAsStream", request).await["stream"].take();
        let (mut read, mut pieces) = (Vec::new(), 0);
        loop {
            let piece = client.call(Some(&page), "IO.read", json!({ "handle": stream, "size": 1_000_000 })).await;
            let data = piece["data"].as_str().expect("data");
            match piece["base64Encoded"].as_bool() {
                Some(true) => read.extend(STANDARD.decode(data).expect("base64")),
                _ => read.extend(data.as_bytes()),
            }
            pieces += 1;
            if piece["eof"] == true {
                break;
            }
        }
        assert!(read == body, "{kind}: {} bytes of {}", read.len(), body.len());
        assert!(pieces > 7, "{pieces}");
        client.assert_faultless();
        container.stop().await;
    }
}
