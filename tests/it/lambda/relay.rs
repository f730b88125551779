//! The whole way of a gateway's client: its socket at the gateway, several environments of the built program behind
//! it, a container, and back through the real SDK to `@connections`.

use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, USER_AGENT};
use axum::http::{HeaderMap, StatusCode, Uri};
use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wallcrawler::error::ApiError;
use wallcrawler::ids::ConnectionId;
use wallcrawler::protocol::{HELD_MESSAGES, MESSAGE_ID_HEADER};
use wallcrawler::ws::emulator::{Emulator, EmulatorOptions, Integration};

use super::bootstrap::bootstrap;
use super::websocket::{Asked, Listener, SECRET, connect, disconnect};
use super::{TASK_STOPPED, WEBSOCKET_MESSAGE, body, event, http};
use crate::audit::Contents;
use crate::runtime_api::{PATIENCE, RuntimeApi};
use crate::world::{self, Redis, container_token, eventually};

const ENVIRONMENTS: usize = 3;

/// What API Gateway does between its sockets and the function: makes events of what happens, and reads the answers.
struct Invocations(RuntimeApi);

impl Invocations {
    async fn invoke(&self, event: &Value) -> Result<(), ApiError> {
        let answer = self.0.invoke(event).await.map_err(|error| ApiError::internal(error.to_string()))?;
        let status = answer["statusCode"].as_u64().expect("a status");
        if (200..300).contains(&status) {
            return Ok(());
        }
        let status = StatusCode::from_u16(u16::try_from(status).expect("a status")).expect("a status");
        Err(ApiError::new(status, "refused", body(&answer)["message"].as_str().expect("a message")))
    }
}

impl Integration for Invocations {
    fn connect<'a>(
        &'a self,
        connection: &'a ConnectionId,
        uri: &'a Uri,
        headers: &'a HeaderMap,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            let query: Value = query.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
            let mut event = connect(connection.as_str(), &query);
            let text = |value: &axum::http::HeaderValue| value.to_str().expect("a text").to_owned();
            for (name, shown) in [(HOST, "Host"), (USER_AGENT, "User-Agent")] {
                if let Some(value) = headers.get(name) {
                    event["headers"][shown] = json!(text(value));
                    event["multiValueHeaders"][shown] = json!([text(value)]);
                }
            }
            self.invoke(&event).await
        })
    }

    fn message<'a>(
        &'a self,
        connection: &'a ConnectionId,
        message_id: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let mut event = event(WEBSOCKET_MESSAGE);
            event["requestContext"]["connectionId"] = json!(connection);
            event["requestContext"]["messageId"] = json!(message_id);
            event["body"] = json!(text);
            self.invoke(&event).await
        })
    }

    fn disconnect<'a>(&'a self, connection: &'a ConnectionId) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move { self.invoke(&disconnect(connection.as_str())).await })
    }
}

/// Everything between a client and a container.
struct Cloud {
    api: RuntimeApi,
    environments: Vec<Child>,
    redis: Redis,
    gateway: String,
    listener: Listener,
    address: String,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        for environment in &mut self.environments {
            let _ = environment.kill();
            let _ = environment.wait();
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Cloud {
    async fn new(options: EmulatorOptions) -> Self {
        Self::with_connections(options, None).await
    }

    /// With something else than the gateway's own API as `@connections`.
    async fn with_connections(options: EmulatorOptions, connections: Option<String>) -> Self {
        let redis = Redis::start();
        let (api, runtime_api) = RuntimeApi::start().await;
        let emulator = Emulator::new(options);
        let routes = emulator.routes(Arc::new(Invocations(api.clone())), TaskTracker::new(), CancellationToken::new());
        let routes = routes.layer(axum::middleware::from_fn(wallcrawler::telemetry::observe));
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gateway = format!("{}/gateway", socket.local_addr().expect("bound"));
        let serve = wallcrawler::native::serve(socket, routes, Default::default(), std::future::pending());
        tokio::spawn(async move { serve.await.expect("serves") });
        let (url, endpoint) = (redis.url(), connections.unwrap_or_else(|| format!("http://{gateway}")));
        let vars = [
            ("ENVIRONMENT", "prod"),
            ("REDIS_ENDPOINT", url.as_str()),
            ("API_KEYS", "key-one"),
            ("JWE_SECRET", world::SECRET),
            ("WEBSOCKET_API_ID", "q1w2e3r4t5"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            ("DISCONNECT_GRACE_SECONDS", "600"),
        ];
        let start = |_| bootstrap(&runtime_api, &vars).spawn().expect("the program is built");
        let environments = (0..ENVIRONMENTS).map(start).collect();
        let (listener, address) = Listener::start().await;
        Self { api, environments, redis, gateway, listener, address }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], request: &Value) -> (u64, Value) {
        let answer = self.api.invoke(&http(method, path, headers, request)).await.expect("an answer");
        (answer["statusCode"].as_u64().expect("a status"), body(&answer))
    }

    async fn by_container(&self, container: &str, path: &str, request: &Value) -> (u64, Value) {
        let token = format!("Bearer {}", container_token(container));
        self.call("POST", path, &[("authorization", &token)], request).await
    }

    async fn create(&self) -> Value {
        let (status, session) = self.call("POST", "/sessions", &[], &json!({})).await;
        assert_eq!(status, 201, "{session}");
        session
    }

    async fn get(&self, session: &Value) -> Value {
        self.call("GET", &of(session, ""), &[], &Value::Null).await.1
    }

    /// A session with a browser in the container `ctr-a`.
    async fn ready(&self) -> Value {
        let session = self.create().await;
        let request = json!({
            "containerId": "ctr-a", "currentSessions": 0, "maxSessions": 9, "address": self.address,
        });
        let (status, claimed) = self.by_container("ctr-a", "/sessions/claim", &request).await;
        assert_eq!((status, &claimed["claimedCount"]), (200, &json!(1)));
        let report = json!({ "lease": 1, "cdpSecret": SECRET });
        assert_eq!(self.by_container("ctr-a", &of(&session, "/ready"), &report).await.0, 200);
        session
    }

    async fn connect(&self, session: &Value) -> Socket {
        let token = session["token"].as_str().expect("a token");
        let id = session["id"].as_str().expect("an id");
        let url = format!("ws://{}/prod?sessionId={id}&token={token}", self.gateway);
        connect_async(url).await.expect("it is let in").0
    }

    /// The one client of a ready session, and the name of its connection.
    async fn client(&self) -> (Value, Socket, ConnectionId) {
        let session = self.ready().await;
        self.listener.asked();
        let socket = self.connect(&session).await;
        let opened = self.listener.asked().into_iter().next().expect("the container is told");
        let prefix = format!("PUT {}", of(&session, "/connections/"));
        let id = opened.what.strip_prefix(&prefix).expect("a connection is opened").replace("%3D", "=");
        (session, socket, id.parse().expect("an id"))
    }

    async fn deliver(&self, container: &str, connection: &ConnectionId, request: &Value) -> (u64, Value) {
        self.by_container(container, &format!("/connections/{}/messages", connection.in_path()), request).await
    }

    async fn check(&self) -> Contents {
        let contents = Contents::read(&self.redis.client().await).await;
        contents.check();
        contents
    }
}

/// The HTTP API before the same function: makes an event of each request.
async fn front(State(api): State<RuntimeApi>, request: Request) -> (StatusCode, String) {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
    let bearer = parts.headers.get(AUTHORIZATION).map(|value| value.to_str().expect("a text")).unwrap_or_default();
    let event = http(parts.method.as_str(), parts.uri.path(), &[("authorization", bearer)], &body);
    match api.invoke(&event).await {
        Ok(answer) => {
            let status = u16::try_from(answer["statusCode"].as_u64().expect("a status")).expect("a status");
            let body = answer["body"].as_str().expect("a text").to_owned();
            (StatusCode::from_u16(status).expect("a status"), body)
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

fn of(session: &Value, rest: &str) -> String {
    format!("/sessions/{}{rest}", session["id"].as_str().expect("an id"))
}

async fn next(socket: &mut Socket) -> Message {
    timeout(PATIENCE, socket.next()).await.expect("in time").expect("it is open").expect("a message")
}

async fn text(socket: &mut Socket) -> Value {
    let Message::Text(text) = next(socket).await else { panic!("no text") };
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_to_the_container_and_come_back_in_order() {
    // So late that the gateway's messages overtake each other on their way to the environments.
    let options = EmulatorOptions { delay: Some(Duration::from_millis(30)), ..EmulatorOptions::default() };
    let cloud = Cloud::new(options).await;
    let (_session, mut socket, connection) = cloud.client().await;
    for id in 1..=30 {
        let command = json!({ "id": id, "method": "Runtime.evaluate", "params": { "expression": "é\u{1f600}" } });
        socket.send(Message::text(command.to_string())).await.expect("sent");
    }
    let mut brought: Vec<Asked> = Vec::new();
    eventually(PATIENCE, async || {
        brought.extend(cloud.listener.asked());
        if brought.len() >= 30 { Ok(()) } else { Err(format!("{} messages", brought.len())) }
    })
    .await;
    let mut ids: Vec<u64> = Vec::new();
    for asked in &brought {
        let command: Value = serde_json::from_str(&asked.body).expect("JSON");
        assert_eq!(command["params"]["expression"], "é\u{1f600}");
        assert!(asked.message_id.is_some(), "{MESSAGE_ID_HEADER} tells it from others");
        ids.push(command["id"].as_u64().expect("an id"));
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=30).collect::<Vec<_>>(), "each of them once");

    // Spaces and the order of fields are the browser's.
    let answers: Vec<Value> = (0..100).map(|id| json!({ "result": { "text": "é" }, "id": id })).collect();
    for (first, batch) in [(0, &answers[..60]), (60, &answers[60..])] {
        let request = json!({ "first": first, "messages": batch });
        let (status, delivered) = cloud.deliver("ctr-a", &connection, &request).await;
        assert_eq!((status, &delivered["delivered"]), (200, &json!(batch.len())), "{delivered}");
    }
    for expected in &answers {
        assert_eq!(&text(&mut socket).await, expected);
    }
    cloud.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_is_not_delivered_again_when_the_answer_to_it_was_lost() {
    let cloud = Cloud::new(EmulatorOptions::default()).await;
    let (session, mut socket, connection) = cloud.client().await;
    let event = |number: u64| json!({ "method": "Test.event", "params": { "number": number } });
    let first = json!({ "first": 0, "messages": [event(0), event(1)] });
    assert_eq!(cloud.deliver("ctr-a", &connection, &first).await.1["delivered"], 2);
    // As its container sees it, nothing has arrived; and meanwhile there is more.
    let again = json!({ "first": 0, "again": true, "messages": [event(0), event(1), event(2)] });
    assert_eq!(cloud.deliver("ctr-a", &connection, &again).await.1["delivered"], 3);
    let other = json!({ "first": 3, "messages": [event(3)] });
    // Not from a container that does not hold the session, and not on any environment.
    for _ in 0..ENVIRONMENTS * 2 {
        assert_eq!(cloud.deliver("ctr-b", &connection, &other).await.0, 410);
        assert_eq!(cloud.deliver("ctr-a", &"nobody=".parse().expect("an id"), &other).await.0, 410);
    }
    assert_eq!(cloud.deliver("ctr-a", &connection, &other).await.1["delivered"], 1);
    for number in 0..4 {
        assert_eq!(text(&mut socket).await, event(number));
    }
    assert_eq!(cloud.get(&session).await["activeConnections"], 1);
    cloud.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_end_was_not_told_is_found_gone_by_what_is_said_to_it() {
    let cloud = Cloud::new(EmulatorOptions { lose_disconnect: true, ..EmulatorOptions::default() }).await;
    let (session, mut socket, connection) = cloud.client().await;
    let request = |first: u64| json!({ "first": first, "messages": [{ "method": "Test.event", "params": {} }] });
    assert_eq!(cloud.deliver("ctr-a", &connection, &request(0)).await.0, 200);
    assert_eq!(text(&mut socket).await["method"], "Test.event");
    assert_eq!(cloud.get(&session).await["activeConnections"], 1);
    cloud.listener.asked();
    drop(socket);
    // Until the gateway itself has seen it, it takes what it gets.
    let mut first = 1;
    eventually(PATIENCE, async || match cloud.deliver("ctr-a", &connection, &request(first)).await.0 {
        410 => Ok(()),
        status => {
            first += 1;
            Err(format!("it is answered {status}"))
        }
    })
    .await;
    assert_eq!(cloud.get(&session).await["activeConnections"], 0);
    let told: Vec<String> = cloud.listener.asked().into_iter().map(|asked| asked.what).collect();
    assert_eq!(told, [format!("DELETE {}", of(&session, &format!("/connections/{}", connection.in_path())))]);
    cloud.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_takes_its_connections_along_and_says_why() {
    let cloud = Cloud::new(EmulatorOptions::default()).await;
    let (session, mut socket, connection) = cloud.client().await;
    let mut second = cloud.connect(&session).await;
    let (status, _) = cloud.call("DELETE", &of(&session, ""), &[], &Value::Null).await;
    assert_eq!(status, 200);
    for socket in [&mut socket, &mut second] {
        let told = text(socket).await;
        assert_eq!(told["method"], "Inspector.detached");
        assert!(told["params"]["reason"].as_str().is_some_and(|reason| reason.starts_with("released")), "{told}");
        assert!(matches!(next(socket).await, Message::Close(_)));
    }
    let request = json!({ "first": 0, "messages": [{ "method": "Test.event", "params": {} }] });
    assert_eq!(cloud.deliver("ctr-a", &connection, &request).await.0, 410);
    let contents = cloud.check().await;
    assert!(!contents.hashes.keys().any(|key| key.starts_with("connection:")), "{contents:?}");
    assert!(!contents.sorted.contains_key("connections-closing"), "nothing is left to be closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_hangs_delays_the_end_of_a_session_for_seconds_and_what_is_open_stays_noted() {
    // It takes connections, and says nothing.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", hanging.local_addr().expect("bound"));
    let cloud = Cloud::with_connections(EmulatorOptions::default(), Some(endpoint)).await;
    let session = cloud.create().await;
    let mut sockets = Vec::new();
    for _ in 0..4 {
        sockets.push(cloud.connect(&session).await);
    }
    let asked = std::time::Instant::now();
    let (status, ended) = cloud.call("DELETE", &of(&session, ""), &[], &Value::Null).await;
    let took = asked.elapsed();
    assert_eq!((status, &ended["status"]), (200, &json!("ended")));
    // One that could not be told, and could not be closed: four seconds each.
    assert!(took < Duration::from_secs(14), "{took:?}");
    let contents = cloud.check().await;
    assert_eq!(contents.sorted["connections-closing"].len(), 4, "the next look closes them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_container_is_lost_is_told_at_once() {
    let cloud = Cloud::new(EmulatorOptions::default()).await;
    let (_session, mut socket, connection) = cloud.client().await;
    let request = json!({ "first": 0, "messages": [{ "method": "Test.event", "params": {} }] });
    assert_eq!(cloud.deliver("ctr-a", &connection, &request).await.0, 200);
    assert_eq!(text(&mut socket).await["method"], "Test.event");
    let mut stopped = event(TASK_STOPPED);
    let environment = &mut stopped["detail"]["overrides"]["containerOverrides"][0]["environment"];
    *environment = json!([{ "name": "CONTAINER_ID", "value": "ctr-a" }]);
    cloud.api.invoke(&stopped).await.expect("done");
    let told = text(&mut socket).await;
    assert!(told["params"]["reason"].as_str().is_some_and(|reason| reason.starts_with("container_lost")), "{told}");
    assert!(matches!(next(&mut socket).await, Message::Close(_)));
    cloud.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_command_is_answered_with_an_error_and_a_settled_one_is_brought() {
    let mut cloud = Cloud::new(EmulatorOptions::default()).await;
    let (session, mut socket, connection) = cloud.client().await;
    let mut other = cloud.connect(&session).await;
    let request = json!({ "first": 0, "messages": [{ "method": "Test.event", "params": {} }] });
    assert_eq!(cloud.deliver("ctr-a", &connection, &request).await.0, 200);
    assert_eq!(text(&mut socket).await["method"], "Test.event");
    cloud.listener.asked();
    // Until each environment has learned of the connection.
    for id in 1..=ENVIRONMENTS * 3 {
        socket.send(Message::text(json!({ "id": id, "method": "Test.warm" }).to_string())).await.expect("sent");
        eventually(PATIENCE, async || match cloud.listener.asked().len() {
            0 => Err("nothing was brought".to_owned()),
            _ => Ok(()),
        })
        .await;
    }
    cloud.redis.kill();
    other.send(Message::text(r#"{"id":7,"method":"Browser.getVersion"}"#)).await.expect("sent");
    let answer = text(&mut other).await;
    assert_eq!((&answer["id"], &answer["error"]["message"]), (&json!(7), &json!("the session store is not available")));
    // On a busy machine an environment may not have had its turn before: another one will have it now.
    for id in 99.. {
        let command = json!({ "id": id, "method": "Browser.getVersion" });
        socket.send(Message::text(command.to_string())).await.expect("sent");
        let asked = async || cloud.listener.asked().pop().ok_or("nothing was brought".to_owned());
        let brought = tokio::select! {
            brought = eventually(PATIENCE, asked) => brought,
            answer = text(&mut socket) => {
                assert!(id < 99 + 10 * ENVIRONMENTS, "nothing is brought: {answer}");
                continue;
            }
        };
        assert_eq!(brought.body, command.to_string());
        break;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_for_a_session_without_a_browser_is_answered() {
    let cloud = Cloud::new(EmulatorOptions::default()).await;
    let session = cloud.create().await;
    let mut socket = cloud.connect(&session).await;
    let command = |id: usize| json!({ "id": id, "method": "Browser.getVersion", "sessionId": "S" }).to_string();
    for id in 1..=HELD_MESSAGES + 1 {
        socket.send(Message::text(command(id))).await.expect("sent");
    }
    let answer = text(&mut socket).await;
    assert_eq!((&answer["sessionId"], &answer["error"]["code"]), (&json!("S"), &json!(-32_000)));
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains("no browser yet") && message.contains(&HELD_MESSAGES.to_string()), "{message}");
    assert!(answer["id"].as_u64().is_some_and(|id| id <= HELD_MESSAGES as u64 + 1), "{answer}");
    cloud.check().await;
    let request = json!({ "containerId": "ctr-a", "currentSessions": 0, "maxSessions": 9, "address": cloud.address });
    cloud.by_container("ctr-a", "/sessions/claim", &request).await;
    let (_, ready) =
        cloud.by_container("ctr-a", &of(&session, "/ready"), &json!({ "lease": 1, "cdpSecret": SECRET })).await;
    assert_eq!(ready["connections"][0]["messages"].as_array().map(Vec::len), Some(HELD_MESSAGES));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_its_container_has_closed_is_closed() {
    let cloud = Cloud::new(EmulatorOptions::default()).await;
    let (session, mut socket, _) = cloud.client().await;
    cloud.listener.answer(&[410]);
    socket.send(Message::text(r#"{"id":1,"method":"Browser.getVersion"}"#)).await.expect("sent");
    assert!(matches!(next(&mut socket).await, Message::Close(_)));
    eventually(PATIENCE, async || match cloud.get(&session).await["activeConnections"].as_u64() {
        Some(0) => Ok(()),
        count => Err(format!("{count:?} connections")),
    })
    .await;
    cloud.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_refused_by_name() {
    let cloud = Cloud::new(EmulatorOptions::default()).await;
    let connection: ConnectionId = "a=".parse().expect("an id");
    let large = json!({ "id": 1, "result": { "data": "x".repeat(128 * 1024) } });
    for (request, status, named) in [
        (json!({ "first": 0, "messages": vec![json!({}); 101] }), 400, "messages: must be at most 100"),
        (json!({ "first": 0, "messages": [{}, large] }), 413, "messages[1]: must be at most 131072 bytes"),
        (json!({ "messages": [] }), 400, "missing field `first`"),
        (json!({ "first": -1, "messages": [] }), 400, "first: "),
    ] {
        let (given, refusal) = cloud.deliver("ctr-a", &connection, &request).await;
        let message = refusal["message"].as_str().expect("a message");
        assert!(given == status && message.contains(named), "{given} {message}");
    }
    let (status, _) = cloud.call("POST", "/connections/a=/messages", &[], &json!({})).await;
    assert_eq!(status, 401, "a client's key opens nothing here");
}

/// Everything is real but AWS: a client of the gateway drives a browser in a container that knows the function alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_driven_through_the_built_function() {
    let cloud = Cloud::new(EmulatorOptions::default()).await;
    let session = cloud.create().await;
    let mut socket = cloud.connect(&session).await;
    // Before there is any container.
    socket.send(Message::text(r#"{"id":1,"method":"Target.getTargets"}"#)).await.expect("sent");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let router = Router::new().fallback(front).with_state(cloud.api.clone());
    let serve = wallcrawler::native::serve(listener, router, Default::default(), std::future::pending());
    tokio::spawn(async move { serve.await.expect("serves") });
    let mut container = std::process::Command::new(env!("CARGO_BIN_EXE_wallcrawler"))
        .arg("container")
        .env("CONTAINER_ID", "ctr-real")
        .env("CONTAINER_TOKEN", container_token("ctr-real"))
        .env("API_ENDPOINT", endpoint)
        .env("CONTAINER_WORKDIR", cloud.redis.dir.join("container"))
        .env("WARM_BROWSERS", "0")
        .env("RUST_LOG", "warn")
        .stdin(std::process::Stdio::null())
        .spawn()
        .expect("the program is built");

    let targets = text(&mut socket).await;
    assert_eq!(targets["id"], 1);
    let pages = targets["result"]["targetInfos"].as_array().expect("targets");
    let page = pages.iter().find(|target| target["type"] == "page").expect("a page");
    let attach = json!({
        "id": 2, "method": "Target.attachToTarget", "params": { "targetId": page["targetId"], "flatten": true },
    });
    socket.send(Message::text(attach.to_string())).await.expect("sent");
    let attached = loop {
        let message = text(&mut socket).await;
        if message["id"] == 2 {
            break message["result"]["sessionId"].clone();
        }
    };
    let evaluate = json!({
        "id": 3, "method": "Runtime.evaluate", "params": { "expression": "6 * 7" }, "sessionId": attached,
    });
    socket.send(Message::text(evaluate.to_string())).await.expect("sent");
    let answer = text(&mut socket).await;
    assert_eq!((&answer["id"], &answer["result"]["result"]["value"]), (&json!(3), &json!(42)), "{answer}");
    let seen = cloud.get(&session).await;
    assert_eq!((&seen["status"], &seen["containerId"]), (&json!("active"), &json!("ctr-real")));
    cloud.check().await;

    let (status, _) = cloud.call("DELETE", &of(&session, ""), &[], &Value::Null).await;
    assert_eq!(status, 200);
    loop {
        match next(&mut socket).await {
            Message::Close(_) => break,
            message => assert!(message.is_text(), "{message:?}"),
        }
    }
    let pid = rustix::process::Pid::from_raw(container.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let status = tokio::task::spawn_blocking(move || container.wait()).await.expect("waited").expect("waited");
    assert!(status.success(), "{status}");
    let contents = cloud.check().await;
    assert!(!contents.hashes.contains_key("container:ctr-real"), "it has taken its leave");
}
