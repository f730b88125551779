//! What a WebSocket API sends, and what becomes of it: a client is entered, its messages reach its session's
//! container, and its end is known.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use wallcrawler::protocol::{CDP_SECRET_HEADER, MESSAGE_ID_HEADER};

use super::{Home, WEBSOCKET_CONNECT, WEBSOCKET_DISCONNECT, WEBSOCKET_MESSAGE, body, event, http};
use crate::round_trips::cost;
use crate::world::container_token;

pub const SECRET: &str = "secret-of-the-session";

pub fn connect(connection: &str, session: &Value) -> Value {
    let mut event = event(WEBSOCKET_CONNECT);
    event["requestContext"]["connectionId"] = json!(connection);
    for name in ["token", "sessionId"] {
        event["queryStringParameters"][name] = session[name].clone();
        event["multiValueQueryStringParameters"][name] = json!([session[name]]);
    }
    event
}

pub fn message(connection: &str, id: u64) -> Value {
    let mut event = event(WEBSOCKET_MESSAGE);
    event["requestContext"]["connectionId"] = json!(connection);
    event["requestContext"]["messageId"] = json!(format!("msg-{connection}-{id}="));
    event["body"] = json!(json!({ "id": id, "method": "Browser.getVersion" }).to_string());
    event
}

pub fn disconnect(connection: &str) -> Value {
    let mut event = event(WEBSOCKET_DISCONNECT);
    event["requestContext"]["connectionId"] = json!(connection);
    event
}

/// What a container was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub what: String,
    pub message_id: Option<String>,
    pub body: String,
}

/// A container's listener. It answers as it was told, and after that with 204.
#[derive(Clone, Default)]
pub struct Listener {
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
}

impl Listener {
    pub async fn start() -> (Self, String) {
        let this = Self::default();
        let router = Router::new().fallback(take).with_state(this.clone());
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound").to_string();
        let serve = wallcrawler::native::serve(socket, router, Default::default(), std::future::pending());
        tokio::spawn(async move { serve.await.expect("serves") });
        (this, address)
    }

    pub fn answer(&self, answers: &[u16]) {
        let answers = answers.iter().map(|status| StatusCode::from_u16(*status).expect("a status"));
        self.answers.lock().expect("not poisoned").extend(answers);
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }
}

async fn take(State(listener): State<Listener>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().expect("a text").to_owned());
    assert_eq!(header(CDP_SECRET_HEADER).as_deref(), Some(SECRET));
    let (what, message_id) = (format!("{} {}", parts.method, parts.uri.path()), header(MESSAGE_ID_HEADER));
    let bytes = body.collect().await.expect("a body").to_bytes();
    let body = String::from_utf8(bytes.to_vec()).expect("a text");
    listener.asked.lock().expect("not poisoned").push(Asked { what, message_id, body });
    listener.answers.lock().expect("not poisoned").pop_front().unwrap_or(StatusCode::NO_CONTENT)
}

struct Scene {
    home: Home,
    listener: Listener,
    address: String,
}

impl Scene {
    async fn new(vars: &[(&str, &str)]) -> Self {
        let (listener, address) = Listener::start().await;
        Self { home: Home::new(vars).await, listener, address }
    }

    async fn ok(&self, event: &Value) -> Value {
        let answer = self.home.invoke(event).await.expect("an answer");
        assert_eq!(answer["statusCode"], 200, "{answer}");
        answer
    }

    async fn create(&self) -> Value {
        body(&self.home.invoke(&http("POST", "/sessions", &[], &json!({}))).await.expect("an answer"))
    }

    async fn get(&self, session: &Value) -> Value {
        let path = format!("/sessions/{}", session["id"].as_str().expect("an id"));
        body(&self.home.invoke(&http("GET", &path, &[], &Value::Null)).await.expect("an answer"))
    }

    async fn by_container(&self, container: &str, path: &str, request: &Value) -> Value {
        let token = format!("Bearer {}", container_token(container));
        let headers = [("authorization", token.as_str())];
        self.home.invoke(&http("POST", path, &headers, request)).await.expect("an answer")
    }

    /// The container claims, and gets what it was handed.
    async fn claim(&self, container: &str) -> Value {
        let request = json!({
            "containerId": container, "currentSessions": 0, "maxSessions": 9, "address": self.address,
        });
        body(&self.by_container(container, "/sessions/claim", &request).await)
    }

    async fn ready(&self, container: &str, session: &Value, lease: u64) -> Value {
        let path = format!("/sessions/{}/ready", session["id"].as_str().expect("an id"));
        body(&self.by_container(container, &path, &json!({ "lease": lease, "cdpSecret": SECRET })).await)
    }

    async fn check(&self) {
        self.home.contents().await.check();
    }
}

fn path(session: &Value, rest: &str) -> String {
    format!("/sessions/{}/connections/{rest}", session["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn a_client_that_may_not_connect_is_told_why_by_the_refused_upgrade() {
    let scene = Scene::new(&[]).await;
    let (one, other) = (scene.create().await, scene.create().await);
    let refusal = async |event: &Value| {
        let answer = scene.home.invoke(event).await.expect("an answer");
        assert_eq!(answer["multiValueHeaders"]["content-type"][0], "application/json", "{answer}");
        let body = body(&answer);
        assert_eq!(body["statusCode"], answer["statusCode"]);
        assert_eq!(body["requestId"], event["requestContext"]["requestId"], "as it stands in the gateway's log");
        (answer["statusCode"].as_u64().expect("a status"), body["code"].as_str().expect("a code").to_owned(), body)
    };
    let mut without = connect("a=", &one);
    without["queryStringParameters"].as_object_mut().expect("a query").remove("token");
    without["multiValueQueryStringParameters"].as_object_mut().expect("a query").remove("token");
    let mut forged = connect("a=", &one);
    forged["multiValueQueryStringParameters"]["token"] = json!(["x.y.z"]);
    let mut elsewhere = connect("a=", &one);
    elsewhere["multiValueQueryStringParameters"]["sessionId"] = json!([other["id"]]);
    let mut of_container = connect("a=", &one);
    of_container["multiValueQueryStringParameters"]["token"] = json!([container_token("ctr-a")]);
    let mut playwright = connect("a=", &one);
    playwright["headers"]["User-Agent"] = json!("Playwright/1.65.1 (x64; debian 12) node/20.19");
    playwright["multiValueHeaders"]["User-Agent"] = json!(["Playwright/1.65.1 (x64; debian 12) node/20.19"]);
    for (event, status, code) in [
        (&without, 401, "missing_token"),
        (&forged, 401, "invalid_token"),
        (&of_container, 401, "invalid_token"),
        (&elsewhere, 404, "session_not_found"),
        (&playwright, 400, "client_not_supported"),
    ] {
        let (given, given_code, _) = refusal(event).await;
        assert_eq!((given, given_code.as_str()), (status, code));
    }
    let (.., told) = refusal(&playwright).await;
    let told = told["message"].as_str().expect("a message");
    for word in ["32 KB", "CDP_ENDPOINT", "ALB_DNS_NAME", "Puppeteer"] {
        assert!(told.contains(word), "{told}");
    }
    let delete = http("DELETE", &format!("/sessions/{}", one["id"].as_str().expect("an id")), &[], &Value::Null);
    scene.ok(&delete).await;
    let (status, code, told) = refusal(&connect("a=", &one)).await;
    assert_eq!((status, code.as_str()), (410, "session_ended"));
    assert!(told["message"].as_str().is_some_and(|message| message.contains("released")), "{told}");
    let contents = scene.home.contents().await;
    assert!(!contents.hashes.keys().any(|key| key.starts_with("connection:")), "nobody was let in");
    contents.check();
}

#[tokio::test]
async fn what_a_client_sends_before_there_is_a_browser_is_handed_over_with_the_answer_to_ready() {
    let scene = Scene::new(&[]).await;
    let session = scene.create().await;
    scene.ok(&connect("a=", &session)).await;
    scene.ok(&message("a=", 1)).await;
    assert_eq!(scene.claim("ctr-a").await["claimedCount"], 1);
    scene.ok(&message("a=", 2)).await;
    scene.ok(&connect("b=", &session)).await;
    scene.check().await;
    assert_eq!(scene.listener.asked(), [], "it cannot be reached yet");

    let ready = scene.ready("ctr-a", &session, 1).await;
    let mut connections = ready["connections"].as_array().expect("connections").clone();
    connections.sort_by_key(|connection| connection["connectionId"].to_string());
    let kept = |id: u64| json!({ "messageId": format!("msg-a=-{id}="), "text": message("a=", id)["body"] });
    let expected = json!([
        { "connectionId": "a=", "messages": [kept(1), kept(2)] },
        { "connectionId": "b=", "messages": [] },
    ]);
    assert_eq!(json!(connections), expected);
    assert_eq!(scene.ready("ctr-a", &session, 1).await["connections"].as_array().map(Vec::len), Some(2), "repeated");

    // From now on each message is brought.
    scene.ok(&message("a=", 3)).await;
    let brought = Asked {
        what: format!("POST {}", path(&session, "a%3D/messages")),
        message_id: Some("msg-a=-3=".to_owned()),
        body: message("a=", 3)["body"].as_str().expect("a text").to_owned(),
    };
    assert_eq!(scene.listener.asked(), [brought]);
    scene.check().await;
}

#[tokio::test]
async fn a_container_learns_of_a_client_that_comes_and_of_one_that_goes() {
    let scene = Scene::new(&[("DISCONNECT_GRACE_SECONDS", "60")]).await;
    let session = scene.create().await;
    scene.claim("ctr-a").await;
    scene.ready("ctr-a", &session, 1).await;
    scene.ok(&connect("a=", &session)).await;
    assert_eq!(scene.get(&session).await["activeConnections"], 1);
    for _ in 0..2 {
        // A gateway may tell it twice.
        scene.ok(&disconnect("a=")).await;
    }
    let asked: Vec<String> = scene.listener.asked().into_iter().map(|asked| asked.what).collect();
    assert_eq!(asked, ["PUT", "DELETE"].map(|method| format!("{method} {}", path(&session, "a%3D"))));
    let session = scene.get(&session).await;
    assert_eq!((&session["activeConnections"], &session["status"]), (&json!(0), &json!("active")));
    scene.check().await;
}

#[tokio::test]
async fn a_message_is_brought_again_until_its_container_takes_it() {
    let scene = Scene::new(&[]).await;
    let session = scene.create().await;
    scene.claim("ctr-a").await;
    scene.ready("ctr-a", &session, 1).await;
    scene.ok(&connect("a=", &session)).await;
    scene.listener.asked();
    scene.listener.answer(&[503, 404, 202]);
    scene.ok(&message("a=", 1)).await;
    let asked = scene.listener.asked();
    assert_eq!(asked.len(), 3);
    let one = Asked {
        what: format!("POST {}", path(&session, "a%3D/messages")),
        message_id: Some("msg-a=-1=".to_owned()),
        body: message("a=", 1)["body"].as_str().expect("a text").to_owned(),
    };
    assert!(asked.iter().all(|asked| *asked == one), "{asked:?}");
    scene.check().await;
}

#[tokio::test]
async fn a_client_that_nobody_has_answered_keeps_its_place_and_its_messages_when_the_container_is_lost() {
    let scene = Scene::new(&[]).await;
    let session = scene.create().await;
    scene.ok(&connect("a=", &session)).await;
    scene.ok(&message("a=", 1)).await;
    scene.claim("ctr-a").await;
    scene.ready("ctr-a", &session, 1).await;
    scene.ok(&message("a=", 2)).await;
    assert_eq!(scene.listener.asked().len(), 1, "the second was brought");
    scene
        .by_container(
            "ctr-a",
            "/sessions/claim",
            &json!({
                "containerId": "ctr-a", "currentSessions": 0, "maxSessions": 9, "phase": "leaving",
            }),
        )
        .await;
    let pending = scene.get(&session).await;
    assert_eq!((&pending["status"], &pending["activeConnections"]), (&json!("pending"), &json!(1)));
    scene.ok(&message("a=", 3)).await;
    scene.check().await;
    assert_eq!(scene.claim("ctr-b").await["claimedCount"], 1);
    let ready = scene.ready("ctr-b", &session, 2).await;
    let ids: Vec<&str> = ready["connections"][0]["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| message["messageId"].as_str().expect("an id"))
        .collect();
    assert_eq!(ids, ["msg-a=-1=", "msg-a=-2=", "msg-a=-3="], "all of them, the brought one too");
    scene.check().await;
}

#[tokio::test]
async fn a_warm_function_asks_redis_nothing_for_a_message_once_the_browser_has_answered() {
    let scene = Scene::new(&[]).await;
    let redis = scene.home.redis.client().await;
    let store = &scene.home.app.store;
    let container = "ctr-a".parse().expect("an id");
    // The first round loads the scripts, which is done once per Redis; the second counts.
    for (counted, id) in [(false, "a="), (true, "b=")] {
        let session = scene.create().await;
        scene.claim("ctr-a").await;
        scene.ready("ctr-a", &session, 1).await;
        scene.listener.asked();
        let (connected, _) = cost(&redis, scene.ok(&connect(id, &session))).await;
        let (kept, _) = cost(&redis, scene.ok(&message(id, 1))).await;
        let delivered = store.deliver(&id.parse().expect("an id"), &container).await;
        assert_eq!(delivered.expect("redis answers"), Some(0), "the browser has answered");
        let (settled, _) = cost(&redis, scene.ok(&message(id, 2))).await;
        let (warm, _) = cost(&redis, async {
            for number in 3..10 {
                scene.ok(&message(id, number)).await;
            }
        })
        .await;
        assert_eq!(scene.listener.asked().len(), 10, "the connection, and nine messages");
        let (disconnected, _) = cost(&redis, scene.ok(&disconnect(id))).await;
        if counted {
            assert_eq!([connected, kept, settled, warm, disconnected], [1, 1, 1, 0, 1]);
        }
    }
    scene.check().await;
}
