//! Watching a page of a real browser, at the container's own door: what a viewer gets, and what it does not.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use wallcrawler::ids::SessionId;
use wallcrawler::protocol::CDP_SECRET_HEADER;

use futures_util::{SinkExt as _, StreamExt as _};

use crate::container::{Cdp, Container, config};
use crate::control_plane::ControlPlane;
use crate::{HOUR, address, connect};

/// A session with its client, and the way to its container for those who watch.
struct Stage {
    plane: ControlPlane,
    container: Container,
    session: SessionId,
    secret: String,
    client: Cdp,
}

async fn in_both_builds(test: impl AsyncFn(&mut Stage)) {
    for browser in ["headless-shell", "chromium"] {
        let mut stage = Stage::new(browser).await;
        test(&mut stage).await;
        stage.container.stop().await;
    }
}

impl Stage {
    async fn new(browser: &str) -> Self {
        let plane = ControlPlane::start().await;
        let container = Container::start(config(&plane));
        let session = plane.hand_out(json!({ "browser": browser }), 1, HOUR);
        let secret = plane.ready(&session, 1).await.cdp_secret;
        let client = connect(&plane, &session, 1).await;
        Self { plane, container, session, secret, client }
    }

    fn url(&self, what: &str) -> String {
        format!("{}/sessions/{}/{what}", address(&self.plane), self.session)
    }

    async fn open(&self, what: &str, secret: &str) -> Result<Viewer, Error> {
        let mut request = format!("ws://{}", self.url(what)).into_client_request()?;
        request.headers_mut().insert(CDP_SECRET_HEADER, secret.parse().expect("a header"));
        let (socket, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Viewer { socket, last_id: 0 })
    }

    async fn refused(&self, what: &str, secret: &str) -> u16 {
        match self.open(what, secret).await {
            Err(Error::Http(response)) => response.status().as_u16(),
            other => panic!("{what}: {:?}", other.err()),
        }
    }

    async fn get(&self, what: &str, secret: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let request = client.get(format!("http://{}", self.url(what))).header(CDP_SECRET_HEADER, secret);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }
}

struct Viewer {
    socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
    last_id: u64,
}

impl Viewer {
    async fn say(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let command = json!({ "id": self.last_id, "method": method, "params": params });
        self.socket.send(Message::text(command.to_string())).await.expect("sent");
        self.last_id
    }

    /// The next message, or how the socket was closed.
    async fn next(&mut self) -> Result<Value, String> {
        loop {
            match timeout(Duration::from_secs(10), self.socket.next()).await.expect("a message") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|f| f.reason.to_string()).unwrap_or_default()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err("without a word".to_owned()),
            }
        }
    }

    async fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.next().await.expect("the socket is open");
            if message["id"] == id {
                return message;
            }
        }
    }

    async fn picture(&mut self) -> Value {
        loop {
            let message = self.next().await.expect("the socket is open");
            if message["method"] == "Page.screencastFrame" {
                return message["params"].clone();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_gets_pictures_and_all_else_that_it_asks_for_is_refused_by_the_container() {
    in_both_builds(async |stage| {
        let mut viewer = stage.open("watch", &stage.secret).await.expect("a viewer");
        for method in [
            "Page.enable",
            "Page.navigate",
            "Runtime.evaluate",
            "Input.insertText",
            "Target.getTargets",
            "Browser.close",
        ] {
            let id = viewer
                .say(method, json!({ "url": "data:text/html,changed", "expression": "document.title = 'x'" }))
                .await;
            let answer = viewer.answer(id).await;
            assert_eq!(answer["error"]["code"], -32_000, "{method}: {answer}");
        }
        let id = viewer.say("Page.startScreencast", json!({ "format": "jpeg", "quality": 50 })).await;
        assert_eq!(viewer.answer(id).await["result"], json!({}));
        let picture = viewer.picture().await;
        assert!(picture["data"].as_str().is_some_and(|data| data.starts_with("/9j/")), "a JPEG");
        assert_eq!(stage.client.evaluate("document.title + location.href").await, "about:blank");
    })
    .await;
}

/// Guards that `Page.enable` is no command of a viewer's: with it the dialog waits for the viewer's answer. (The whole
/// browser shows dialogs to nobody in either case, and has its page wait for a client that can answer them.)
#[tokio::test(flavor = "multi_thread")]
async fn a_dialog_does_not_wait_for_one_who_watches() {
    let mut stage = Stage::new("headless-shell").await;
    let mut viewer = stage.open("watch", &stage.secret).await.expect("a viewer");
    viewer.say("Page.enable", json!({})).await;
    viewer.say("Page.startScreencast", json!({})).await;
    viewer.picture().await;
    let asked = timeout(Duration::from_secs(5), stage.client.evaluate("confirm('sure?')"));
    assert_eq!(asked.await.expect("the dialog is not waited for"), false);
    stage.container.stop().await;
}

const NOISE: &str = "document.body.innerHTML = '<canvas width=1280 height=720>'; \
    const context = document.querySelector('canvas').getContext('2d'); \
    const paint = () => { const image = context.createImageData(1280, 720); \
      for (let at = 0; at < image.data.length; at++) image.data[at] = at % 4 === 3 ? 255 : Math.random() * 256; \
      context.putImageData(image, 0, 0); setTimeout(paint, 30) }; paint(); 1";

/// Guards the count of pictures that are owed: with it taken out, acknowledgements that are sent ahead have the browser
/// make, and keep, as many pictures as it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_does_not_read_has_few_pictures_made_for_it_whatever_it_says() {
    in_both_builds(async |stage| {
        stage.client.evaluate(NOISE).await;
        let mut viewer = stage.open("watch", &stage.secret).await.expect("a viewer");
        viewer.say("Page.startScreencast", json!({ "format": "jpeg", "quality": 90 })).await;
        for _ in 0..500 {
            viewer.say("Page.screencastFrameAck", json!({ "sessionId": 1 })).await;
        }
        sleep(Duration::from_secs(3)).await;
        let (mut pictures, mut refused) = (0, 0);
        // Until it falls silent: of three pictures none was acknowledged.
        while let Ok(message) = timeout(Duration::from_secs(2), viewer.next()).await {
            let message = message.expect("the socket is open");
            pictures += u32::from(message["method"] == "Page.screencastFrame");
            refused += u32::from(message["error"].is_object());
        }
        // On a crowded machine some pictures may have come before the last of them was said, and those were good: each had
        // one more made than the three that nobody has to acknowledge.
        let good = 500 - refused;
        assert!(
            pictures >= 1 && good <= pictures && pictures <= 3 + good,
            "{good} were good, with {pictures} pictures"
        );
        assert!(good < 50, "{good} were good");
        // It is none the worse for it.
        viewer.say("Page.stopScreencast", json!({})).await;
        viewer.say("Page.startScreencast", json!({})).await;
        for _ in 0..10 {
            let run = viewer.picture().await["sessionId"].take();
            viewer.say("Page.screencastFrameAck", json!({ "sessionId": run })).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_can_be_watched_and_a_closed_page_closes_its_viewers() {
    in_both_builds(async |stage| {
        let (status, body) = stage.get("pages", &stage.secret).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, body["pages"].as_array().map(Vec::len)), (200, Some(1)), "{body}");
        let made =
            stage.client.call("Target.createTarget", json!({ "url": "data:text/html,<title>Two</title>" })).await;
        let second = made["targetId"].as_str().expect("an id").to_owned();
        let mut viewer = stage.open(&format!("watch?page={second}"), &stage.secret).await.expect("a viewer");
        viewer.say("Page.startScreencast", json!({})).await;
        viewer.picture().await;
        let (_, body) = stage.get("pages", &stage.secret).await;
        assert!(body.contains(r#""title":"Two""#), "{body}");

        let targets = stage.client.call("Target.getTargets", json!({ "filter": [{}] })).await;
        let targets = targets["targetInfos"].as_array().expect("a list");
        let others =
            targets.iter().filter(|target| target["type"] != "page").filter_map(|target| target["targetId"].as_str());
        for id in others.chain(["ABCDEF"]) {
            for door in ["watch", "drive"] {
                assert_eq!(stage.refused(&format!("{door}?page={id}"), &stage.secret).await, 410, "{id}");
            }
        }
        assert_eq!(stage.refused("watch?page=..%2Fbrowser", &stage.secret).await, 400);

        stage.client.call("Target.closeTarget", json!({ "targetId": second })).await;
        loop {
            match viewer.next().await {
                Ok(_) => {}
                Err(how) => break assert_eq!(how, "the page was closed"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_drives_a_page_is_filtered_as_any_client_is() {
    in_both_builds(async |stage| {
        let mut driver = stage.open("drive", &stage.secret).await.expect("a driver");
        let id = driver.say("Runtime.evaluate", json!({ "expression": "document.title = 'driven'" })).await;
        assert_eq!(driver.answer(id).await["result"]["result"]["value"], "driven");
        let id = driver.say("Page.navigate", json!({ "url": "file:///etc/passwd" })).await;
        let answer = driver.answer(id).await;
        assert!(answer["error"]["message"].as_str().is_some_and(|why| why.contains("is refused here")), "{answer}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_shown_without_the_sessions_secret_nor_anything_but_the_devtools_files() {
    in_both_builds(async |stage| {
        assert_eq!((stage.refused("watch", "wrong").await, stage.refused("drive", "").await), (404, 404));
        assert_eq!(stage.get("pages", "wrong").await.0, 404);
        assert_eq!(stage.get("devtools/inspector.html", "wrong").await.0, 404);
        let (status, page) = stage.get("devtools/inspector.html", &stage.secret).await;
        assert_eq!(status, 200);
        assert!(page.contains("entrypoints/inspector/inspector.js"), "{page}");
        for file in ["nothing.js", "..%2Fjson%2Fversion", "a%3Fb", "page/ABC", "browser/x", "a//b", ".%2Fx"] {
            assert_eq!(stage.get(&format!("devtools/{file}"), &stage.secret).await.0, 404, "{file}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_are_let_go_with_their_session_and_without_a_word_of_the_containers() {
    in_both_builds(async |stage| {
        let mut viewer = stage.open("watch", &stage.secret).await.expect("a viewer");
        viewer.say("Page.startScreencast", json!({})).await;
        viewer.picture().await;
        stage.plane.now(|script| script.end.push(stage.session.clone()));
        let asked = Instant::now();
        let how = loop {
            match viewer.next().await {
                Ok(_) => {}
                Err(how) => break how,
            }
        };
        // Why is the proxy's to say.
        assert_ne!(how, "the page was closed");
        assert!(asked.elapsed() < Duration::from_secs(5));
    })
    .await;
}
