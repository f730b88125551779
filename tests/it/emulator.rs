//! What plays API Gateway, on a real port, with a scripted function behind it: that it is as strict as the real one.

#[cfg(feature = "lambda")]
mod management;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, Uri};
use futures_util::future::BoxFuture;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wallcrawler::error::ApiError;
use wallcrawler::ids::ConnectionId;
use wallcrawler::native::{ServeOptions, serve};
use wallcrawler::protocol::{GATEWAY_FRAME_BYTES, GATEWAY_MESSAGE_BYTES};
use wallcrawler::push::{Push as _, Pushed};
use wallcrawler::server::Server;
use wallcrawler::ws::emulator::{Emulator, EmulatorOptions, Integration};

use crate::world::{Redis, config, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Connect(ConnectionId),
    /// What a message that was sent during `$connect` came to.
    Early(Pushed, u16),
    Message(ConnectionId, String, String),
    Finished(String),
    Disconnect(ConnectionId),
}

/// The function behind the gateway. What it does is said by the query, and by the messages.
struct Script {
    emulator: Emulator,
    address: SocketAddr,
    seen: Mutex<Vec<Seen>>,
}

impl Script {
    fn note(&self, seen: Seen) {
        self.seen.lock().expect("not poisoned").push(seen);
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    fn disconnects(&self) -> usize {
        self.seen().iter().filter(|seen| matches!(seen, Seen::Disconnect(_))).count()
    }

    fn texts(&self) -> Vec<String> {
        let text = |seen| if let Seen::Message(_, _, text) = seen { Some(text) } else { None };
        self.seen().into_iter().filter_map(text).collect()
    }
}

impl Integration for Script {
    fn connect<'a>(
        &'a self,
        connection: &'a ConnectionId,
        uri: &'a Uri,
        _: &'a HeaderMap,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            self.note(Seen::Connect(connection.clone()));
            match uri.query().unwrap_or_default() {
                "refuse" => return Err(ApiError::new(StatusCode::IM_A_TEAPOT, "a_teapot", "no coffee here")),
                "break" => panic!("as the test wants it"),
                "slow" => sleep(Duration::from_millis(400)).await,
                "early" => {
                    let pushed = self.emulator.send(connection, "too early").await.expect("an answer");
                    let posted = signed_post(self.address, connection, "too early").await;
                    self.note(Seen::Early(pushed, posted));
                }
                _ => {}
            }
            Ok(())
        })
    }

    fn message<'a>(
        &'a self,
        connection: &'a ConnectionId,
        message_id: &'a str,
        text: &'a str,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            self.note(Seen::Message(connection.clone(), message_id.to_owned(), text.to_owned()));
            match text.split_once(' ').unwrap_or((text, "")) {
                ("say", what) => {
                    self.emulator.send(connection, what).await.expect("an answer");
                }
                ("fail", _) => return Err(ApiError::internal("as the test wants it")),
                ("break", _) => panic!("as the test wants it"),
                ("slow", _) => sleep(Duration::from_millis(400)).await,
                _ => {}
            }
            self.note(Seen::Finished(text.to_owned()));
            Ok(())
        })
    }

    fn disconnect<'a>(&'a self, connection: &'a ConnectionId) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            self.note(Seen::Disconnect(connection.clone()));
            Ok(())
        })
    }
}

/// The gateway on a port.
struct Gateway {
    emulator: Emulator,
    script: Arc<Script>,
    address: SocketAddr,
    sockets: TaskTracker,
    stopping: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.serving.abort();
    }
}

type Client = WebSocketStream<TcpStream>;

impl Gateway {
    async fn new(options: EmulatorOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let emulator = Emulator::new(options);
        let script = Arc::new(Script { emulator: emulator.clone(), address, seen: Mutex::default() });
        let (sockets, stopping) = (TaskTracker::new(), CancellationToken::new());
        let router = emulator.routes(script.clone(), sockets.clone(), stopping.clone());
        let router = router.layer(axum::middleware::from_fn(wallcrawler::telemetry::observe));
        let serving = tokio::spawn(async move {
            serve(listener, router, ServeOptions::default(), std::future::pending()).await.expect("serves");
        });
        Self { emulator, script, address, sockets, stopping, serving }
    }

    async fn connect(&self) -> (Client, ConnectionId) {
        let stream = TcpStream::connect(self.address).await.expect("connects");
        self.connect_on(stream, "").await
    }

    async fn connect_on(&self, stream: TcpStream, query: &str) -> (Client, ConnectionId) {
        let before = self.script.seen().len();
        let url = format!("ws://{}/gateway/prod?{query}", self.address);
        // A client that takes no larger frames than the gateway itself.
        let limits = WebSocketConfig::default().max_frame_size(Some(GATEWAY_FRAME_BYTES));
        let (client, _) = client_async_with_config(url, stream, Some(limits)).await.expect("is let in");
        let connected = |seen| if let Seen::Connect(id) = seen { Some(id) } else { None };
        let id = self.script.seen().into_iter().skip(before).find_map(connected).expect("it was told");
        // The handshake is over here a little before it is there.
        eventually(PATIENCE, async || match self.emulator.send(&id, "hello").await {
            Ok(Pushed::Sent) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        let mut client = client;
        assert_eq!(text(&mut client).await, "hello");
        (client, id)
    }

    async fn eventually_seen(&self, wanted: impl Fn(&[Seen]) -> bool) {
        eventually(PATIENCE, async || {
            let seen = self.script.seen();
            if wanted(&seen) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }

    /// `$disconnect` comes, once, and no second one.
    async fn disconnected_once(&self) {
        self.eventually_seen(|seen| seen.iter().any(|seen| matches!(seen, Seen::Disconnect(_)))).await;
        self.sockets.close();
        timeout(PATIENCE, self.sockets.wait()).await.expect("nothing is left to be done");
        assert_eq!(self.script.disconnects(), 1, "{:?}", self.script.seen());
    }
}

async fn next(client: &mut Client) -> Message {
    timeout(PATIENCE, client.next()).await.expect("in time").expect("not ended").expect("a message")
}

async fn text(client: &mut Client) -> String {
    match next(client).await {
        Message::Text(text) => text.to_string(),
        other => panic!("not a text: {other:?}"),
    }
}

/// The code that the gateway closes with, whatever comes before.
async fn close_code(client: &mut Client) -> u16 {
    loop {
        if let Message::Close(frame) = next(client).await {
            return frame.expect("a code").code.into();
        }
    }
}

async fn say(client: &mut Client, text: impl Into<String>) {
    client.send(Message::text(text.into())).await.expect("sends");
}

/// A message of `bytes` in frames of at most as many as a frame may have.
async fn say_in_frames(client: &mut Client, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let part = left.min(GATEWAY_FRAME_BYTES);
        let kind = if left == bytes { Data::Text } else { Data::Continue };
        left -= part;
        let frame = Frame::message(Bytes::from(vec![b'x'; part]), OpCode::Data(kind), left == 0);
        if client.feed(Message::Frame(frame)).await.is_err() {
            return;
        }
    }
    let _ = client.flush().await;
}

/// Asks for an upgrade and reads the refusal.
async fn refused(address: SocketAddr, path: &str) -> (u16, Value) {
    let response = reqwest::Client::new()
        .get(format!("http://{address}{path}"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .send()
        .await
        .expect("an answer");
    (response.status().as_u16(), response.json().await.expect("a JSON body"))
}

/// Looks signed, which is all that can be looked at.
async fn signed_post(address: SocketAddr, id: &ConnectionId, text: &str) -> u16 {
    let now = wallcrawler::clock::rfc3339(wallcrawler::clock::now_ms()).replace(['-', ':'], "");
    let date = format!("{}Z", &now[..15]);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKID/{}/eu-west-1/execute-api/aws4_request, SignedHeaders=host;x-amz-date, \
         Signature={}",
        &date[..8],
        "00".repeat(32)
    );
    let url = format!("http://{address}/gateway/prod/@connections/{}", id.in_path());
    let request = reqwest::Client::new().post(url).header("authorization", authorization).header("x-amz-date", date);
    request.body(text.to_owned()).send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn what_connect_refuses_with_is_what_the_upgrade_is_answered_with() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (status, body) = refused(gateway.address, "/gateway/prod?refuse").await;
    assert_eq!((status, &body["code"], &body["message"]), (418, &"a_teapot".into(), &"no coffee here".into()));
    assert!(body["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
    assert_eq!(refused(gateway.address, "/gateway/test").await, (403, serde_json::json!({"message": "Forbidden"})));
    let long = format!("/gateway/prod?token={}", "x".repeat(4_096));
    assert_eq!(refused(gateway.address, &long).await.0, 414);
    assert_eq!(gateway.script.seen().len(), 1, "{:?}", gateway.script.seen());
}

#[tokio::test]
async fn a_connect_that_breaks_off_is_502_and_one_that_takes_too_long_504() {
    let call = Duration::from_millis(100);
    let gateway = Gateway::new(EmulatorOptions { call, ..EmulatorOptions::default() }).await;
    for (path, status, message) in [
        ("/gateway/prod?break", 502, "Internal server error"),
        ("/gateway/prod?slow", 504, "Endpoint request timed out"),
    ] {
        let answer = refused(gateway.address, path).await;
        assert_eq!((answer.0, &answer.1["message"]), (status, &message.into()), "{path}");
    }
    // Neither was ever let in.
    gateway.sockets.close();
    gateway.sockets.wait().await;
    assert_eq!(gateway.script.disconnects(), 0);
}

#[tokio::test]
async fn nothing_can_be_posted_before_connect_was_answered() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let stream = TcpStream::connect(gateway.address).await.expect("connects");
    // It is told "hello" first: what was posted before is not there.
    let (_client, _) = gateway.connect_on(stream, "early").await;
    assert!(gateway.script.seen().contains(&Seen::Early(Pushed::Gone, 410)), "{:?}", gateway.script.seen());
}

#[tokio::test]
async fn a_client_that_vanishes_during_connect_is_disconnected_after_it() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let mut socket = TcpStream::connect(gateway.address).await.expect("connects");
    let upgrade = "GET /gateway/prod?slow HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.expect("sends");
    gateway.eventually_seen(|seen| matches!(seen, [Seen::Connect(_)])).await;
    drop(socket);
    gateway.disconnected_once().await;
    assert!(matches!(&gateway.script.seen()[..], [Seen::Connect(one), Seen::Disconnect(two)] if one == two));
}

#[tokio::test]
async fn a_frame_may_have_32_kb_and_a_message_128() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, _) = gateway.connect().await;
    say(&mut client, "x".repeat(GATEWAY_FRAME_BYTES)).await;
    say_in_frames(&mut client, GATEWAY_MESSAGE_BYTES).await;
    gateway.eventually_seen(|seen| seen.iter().filter(|seen| matches!(seen, Seen::Message(..))).count() == 2).await;
    let mut sizes: Vec<usize> = gateway.script.texts().iter().map(String::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [GATEWAY_FRAME_BYTES, GATEWAY_MESSAGE_BYTES]);

    say(&mut client, "x".repeat(GATEWAY_FRAME_BYTES + 1)).await;
    assert_eq!(close_code(&mut client).await, 1009);
    let (mut client, _) = gateway.connect().await;
    say_in_frames(&mut client, GATEWAY_MESSAGE_BYTES + 1).await;
    assert_eq!(close_code(&mut client).await, 1009);
    // Much more than that: what is not wanted any more is read all the same, or the goodbye would be lost.
    let (mut client, _) = gateway.connect().await;
    say(&mut client, "x".repeat(8_000_000)).await;
    assert_eq!(close_code(&mut client).await, 1009);
    assert_eq!(gateway.script.texts().len(), 2);
}

#[tokio::test]
async fn binary_messages_are_refused() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, _) = gateway.connect().await;
    client.send(Message::binary(vec![1, 2, 3])).await.expect("sends");
    assert_eq!(close_code(&mut client).await, 1003);
    gateway.disconnected_once().await;
    assert!(gateway.script.texts().is_empty());
}

#[tokio::test]
async fn a_connection_without_a_message_is_closed_and_pings_are_no_messages() {
    let idle = Duration::from_secs(1);
    let gateway = Gateway::new(EmulatorOptions { idle, ..EmulatorOptions::default() }).await;
    let (mut pinging, _) = gateway.connect().await;
    let (mut told, id) = gateway.connect().await;
    let (mut telling, _) = gateway.connect().await;
    for _ in 0..10 {
        sleep(idle / 5).await;
        let _ = pinging.send(Message::Ping(Bytes::from_static(b"there?"))).await;
        assert_eq!(gateway.emulator.send(&id, "still here").await.expect("an answer"), Pushed::Sent);
        say(&mut telling, "still here").await;
    }
    assert_eq!(next(&mut pinging).await, Message::Pong(Bytes::from_static(b"there?")), "pings are answered");
    assert_eq!(close_code(&mut pinging).await, 1001);
    // Twice as long as allowed without a message, and it is there.
    assert_eq!(text(&mut told).await, "still here");
    say(&mut telling, "say so").await;
    assert_eq!(text(&mut telling).await, "so");
    assert!(gateway.script.texts().iter().all(|text| !text.contains("there?")));
    assert_eq!(close_code(&mut told).await, 1001);
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_closed_however_busy() {
    let age = Duration::from_millis(500);
    let gateway = Gateway::new(EmulatorOptions { age, ..EmulatorOptions::default() }).await;
    let (mut client, id) = gateway.connect().await;
    let since = Instant::now();
    while gateway.emulator.send(&id, "more").await.expect("an answer") == Pushed::Sent {
        assert!(since.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    assert!(since.elapsed() >= age - Duration::from_millis(100), "closed after {:?}", since.elapsed());
    assert_eq!(close_code(&mut client).await, 1001);
    gateway.disconnected_once().await;
}

#[tokio::test]
async fn messages_are_handled_at_the_same_time_each_under_its_own_id() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, _) = gateway.connect().await;
    for text in ["slow one", "slow two", "say quick"] {
        say(&mut client, text).await;
    }
    assert_eq!(text(&mut client).await, "quick");
    let finished = |seen: &[Seen]| seen.iter().filter(|seen| matches!(seen, Seen::Finished(_))).count();
    assert!(finished(&gateway.script.seen()) <= 1, "the slow ones are still at it");
    gateway.eventually_seen(|seen| finished(seen) == 3).await;
    let id = |seen| if let Seen::Message(_, id, _) = seen { Some(id) } else { None };
    let mut ids: Vec<String> = gateway.script.seen().into_iter().filter_map(id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn delayed_messages_overtake_each_other_and_none_is_delayed_for_long() {
    let delay = Some(Duration::from_millis(200));
    let gateway = Gateway::new(EmulatorOptions { delay, ..EmulatorOptions::default() }).await;
    let (mut client, _) = gateway.connect().await;
    let sent: Vec<String> = (0..40).map(|number| format!("message {number}")).collect();
    let since = Instant::now();
    for text in &sent {
        say(&mut client, text.clone()).await;
    }
    gateway.eventually_seen(|seen| seen.iter().filter(|seen| matches!(seen, Seen::Message(..))).count() == 40).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    let mut seen = gateway.script.texts();
    assert_ne!(seen, sent);
    seen.sort_unstable();
    let mut all = sent;
    all.sort_unstable();
    assert_eq!(seen, all, "and none is lost");
}

#[tokio::test]
async fn a_client_is_told_of_a_message_that_came_to_nothing() {
    let call = Duration::from_millis(100);
    let gateway = Gateway::new(EmulatorOptions { call, ..EmulatorOptions::default() }).await;
    let (mut client, id) = gateway.connect().await;
    for (sent, message) in
        [("fail", "Internal server error"), ("break", "Internal server error"), ("slow", "Endpoint request timed out")]
    {
        say(&mut client, sent).await;
        let told = text(&mut client).await;
        let start = format!(r#"{{"message": "{message}", "connectionId":"{id}", "requestId":""#);
        assert!(told.starts_with(&start) && told.ends_with("=\"}"), "{told}");
    }
    // Nobody waits for it, but it goes on.
    gateway.eventually_seen(|seen| seen.contains(&Seen::Finished("slow".to_owned()))).await;
    say(&mut client, "say and so does the connection").await;
    assert_eq!(text(&mut client).await, "and so does the connection");
}

#[tokio::test]
async fn a_client_that_closes_is_disconnected_once() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, id) = gateway.connect().await;
    client.close(None).await.expect("sends");
    assert_eq!(next(&mut client).await, Message::Close(None), "its goodbye is answered");
    gateway.disconnected_once().await;
    assert_eq!(gateway.emulator.send(&id, "anyone?").await.expect("an answer"), Pushed::Gone);
}

#[tokio::test]
async fn a_client_that_is_cut_off_is_disconnected_once() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (client, id) = gateway.connect().await;
    drop(client);
    gateway.disconnected_once().await;
    assert_eq!(gateway.emulator.send(&id, "anyone?").await.expect("an answer"), Pushed::Gone);
}

#[tokio::test]
async fn a_client_that_is_closed_reads_what_was_sent_before_and_is_disconnected_once() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, id) = gateway.connect().await;
    for number in 0..100 {
        let text = format!("{number} {}", "x".repeat(4_000));
        assert_eq!(gateway.emulator.send(&id, &text).await.expect("an answer"), Pushed::Sent);
    }
    gateway.emulator.close(&id).await.expect("an answer");
    gateway.emulator.close(&id).await.expect("is closed already");
    assert_eq!(gateway.emulator.send(&id, "anyone?").await.expect("an answer"), Pushed::Gone);
    for number in 0..100 {
        assert!(text(&mut client).await.starts_with(&format!("{number} ")));
    }
    assert_eq!(close_code(&mut client).await, 1000);
    gateway.disconnected_once().await;
}

#[tokio::test]
async fn the_end_of_the_server_ends_its_connections() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, _) = gateway.connect().await;
    gateway.stopping.cancel();
    assert_eq!(close_code(&mut client).await, 1001);
    gateway.disconnected_once().await;
}

#[tokio::test]
async fn a_disconnect_can_be_lost() {
    let gateway = Gateway::new(EmulatorOptions { lose_disconnect: true, ..EmulatorOptions::default() }).await;
    let (client, id) = gateway.connect().await;
    drop(client);
    eventually(PATIENCE, async || match gateway.emulator.send(&id, "anyone?").await {
        Ok(Pushed::Gone) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    gateway.sockets.close();
    gateway.sockets.wait().await;
    assert_eq!(gateway.script.disconnects(), 0);
}

#[tokio::test]
async fn what_is_sent_arrives_in_order_and_in_frames_that_a_client_may_take() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (mut client, id) = gateway.connect().await;
    let emulator = gateway.emulator.clone();
    // Characters of several bytes, so that frames end within some.
    let large = "\u{20ac}".repeat(GATEWAY_MESSAGE_BYTES / 3);
    let sent: Vec<String> = (0..60).map(|n| if n % 10 == 0 { large.clone() } else { format!("{n}") }).collect();
    let sending = sent.clone();
    let sender = tokio::spawn(async move {
        for text in sending {
            assert_eq!(emulator.send(&id, &text).await.expect("an answer"), Pushed::Sent);
        }
    });
    for expected in sent {
        assert!(text(&mut client).await == expected);
    }
    sender.await.expect("all was sent");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_senders_back() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8 * 1024).expect("a small buffer");
    let stream = socket.connect(gateway.address).await.expect("connects");
    let (mut client, id) = gateway.connect_on(stream, "").await;
    let large = "x".repeat(GATEWAY_MESSAGE_BYTES - 10);
    let mut sent = 0;
    let error = loop {
        match gateway.emulator.send(&id, &format!("{sent:>8} {large}")).await {
            Ok(pushed) => assert_eq!(pushed, Pushed::Sent),
            Err(error) => break error,
        }
        sent += 1;
        assert!(sent < 200, "25 MB were taken for a client that reads nothing");
    };
    assert!(std::error::Error::source(&error).is_some_and(|cause| cause.to_string().contains("LimitExceeded")));
    assert_eq!(signed_post(gateway.address, &id, &large).await, 429, "and at once over HTTP");
    // Its own messages are still taken.
    say(&mut client, "hear me").await;
    gateway.eventually_seen(|seen| seen.iter().any(|seen| matches!(seen, Seen::Finished(_)))).await;
    for number in 0..sent {
        assert!(text(&mut client).await.starts_with(&format!("{number:>8} ")));
    }
    assert_eq!(gateway.emulator.send(&id, "again").await.expect("there is room"), Pushed::Sent);
    assert_eq!(text(&mut client).await, "again");
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let gateway = Gateway::new(EmulatorOptions::default()).await;
    let (client, _) = gateway.connect().await;
    let mut socket = client.into_inner();
    // Not masked, as every frame of a client must be.
    socket.write_all(&[0x81, 0x02, b'h', b'i']).await.expect("sends");
    let mut client = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
    assert_eq!(close_code(&mut client).await, 1002);
    let (client, _) = gateway.connect().await;
    let mut socket = client.into_inner();
    socket.write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).await.expect("sends");
    let mut client = WebSocketStream::from_raw_socket(socket, Role::Client, None).await;
    assert_eq!(close_code(&mut client).await, 1007);
    let mut rest = Vec::new();
    client.into_inner().read_to_end(&mut rest).await.expect("the socket is closed, too");
    assert!(gateway.script.texts().is_empty());
}

#[tokio::test]
async fn a_server_that_is_configured_to_plays_the_gateway_beside_its_own_routes() {
    let redis = Redis::start();
    let vars = [("WEBSOCKET_API_ID", "local"), ("WEBSOCKET_STAGE", "v1")];
    let mut config = config(&redis, &vars);
    config.tmp_dir = redis.dir.clone();
    let server = Server::start(config, "true".into()).await.expect("starts");
    let (address, app) = (server.address, server.app.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone().cancelled_owned()));

    let create = reqwest::Client::new().post(format!("http://{address}/sessions")).header("x-api-key", "key-one");
    let session: Value = create.send().await.expect("an answer").json().await.expect("a session");
    let url = session["connectUrl"].as_str().expect("a URL");
    let id = session["id"].as_str().expect("an id");
    assert!(url.starts_with(&format!("ws://{address}/gateway/v1?sessionId={id}&token=")), "{url}");
    assert_eq!(refused(address, "/gateway/prod").await, (403, serde_json::json!({"message": "Forbidden"})));
    let unsigned = format!("http://{address}/gateway/v1/@connections/L0SM9cOFvHcCIhw%3D");
    let answer = reqwest::Client::new().post(unsigned).body("hi").send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 403);
    let push = app.push.as_ref().expect("somebody to push through");
    let nobody: ConnectionId = "L0SM9cOFvHcCIhw=".parse().expect("an id");
    assert_eq!(push.send(&nobody, "hi").await.expect("an answer"), Pushed::Gone);

    stop.cancel();
    running.await.expect("no panic").expect("ends well");
}
