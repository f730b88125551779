//! Handshakes with an independent implementation at the other end, over real sockets.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Request as AxumRequest;
use axum::response::IntoResponse;
use axum::routing::any;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use super::*;
use crate::native::{ServeOptions, serve};

const SOON: Duration = Duration::from_secs(5);

/// The example of RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn opening() -> Request<()> {
    let mut request = Request::builder()
        .uri("/cdp")
        .header("Connection", "keep-alive, UPGRADE")
        .header("Upgrade", "WebSocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY)
        .body(())
        .expect("valid");
    // hyper leaves one in each request that could be upgraded.
    let socket = hyper::upgrade::on(Response::new(()));
    request.extensions_mut().insert(socket);
    request
}

/// A server that accepts every upgrade and hands the legs out.
async fn server() -> (SocketAddr, mpsc::UnboundedReceiver<Leg>) {
    let (legs, accepted) = mpsc::unbounded_channel();
    let app = Router::new()
        .route(
            "/cdp",
            any(|mut request: AxumRequest| async move {
                match Upgrade::from_request(&mut request) {
                    Ok(upgrade) => {
                        let (response, leg) = upgrade.accept();
                        tokio::spawn(async move { legs.send(leg.await.expect("a plain socket")) });
                        response
                    }
                    Err(refusal) => (refusal.status(), refusal.headers(), refusal.to_string()).into_response(),
                }
            }),
        )
        .route("/refused", any(|| async { (StatusCode::FORBIDDEN, "no") }))
        .route("/impostor", any(impostor))
        .route("/held", any(std::future::pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve(listener, app, ServeOptions::default(), std::future::pending()));
    (address, accepted)
}

/// Switches protocols, but does not know what to.
async fn impostor() -> Response<Body> {
    Response::builder()
        .status(101)
        .header("Connection", "upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        .body(Body::empty())
        .expect("valid")
}

#[test]
fn the_answer_to_the_standards_own_example_is_right() {
    assert_eq!(accept_value(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let upgrade = Upgrade::from_request(&mut opening()).expect("valid");
    assert_eq!(upgrade.key(), KEY);
    let (response, _) = upgrade.accept();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert!(!response.headers().contains_key("sec-websocket-extensions"));
}

#[test]
fn a_request_that_is_no_valid_opening_is_refused_for_what_is_wrong_with_it() {
    type Spoil = fn(&mut Request<()>);
    fn set(request: &mut Request<()>, name: &'static str, value: &'static str) {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let cases: [(Spoil, NotAnUpgrade, u16); 12] = [
        (|r| set(r, "connection", "keep-alive"), NotAnUpgrade::NotWebSocket, 426),
        (|r| set(r, "connection", "upgraded"), NotAnUpgrade::NotWebSocket, 426),
        (|r| set(r, "upgrade", "h2c"), NotAnUpgrade::NotWebSocket, 426),
        (|r| drop(r.headers_mut().remove("upgrade")), NotAnUpgrade::NotWebSocket, 426),
        (|r| *r.method_mut() = Method::POST, NotAnUpgrade::NotGet, 405),
        (|r| set(r, "sec-websocket-version", "8"), NotAnUpgrade::UnsupportedVersion, 426),
        (|r| drop(r.headers_mut().remove("sec-websocket-version")), NotAnUpgrade::UnsupportedVersion, 426),
        (|r| drop(r.headers_mut().remove("sec-websocket-key")), NotAnUpgrade::InvalidKey, 400),
        (|r| set(r, "sec-websocket-key", "dGhlIHNhbXBsZSBub25j"), NotAnUpgrade::InvalidKey, 400),
        (|r| set(r, "sec-websocket-key", "not base 64 at all!!"), NotAnUpgrade::InvalidKey, 400),
        (
            |r| assert!(r.headers_mut().append("sec-websocket-key", HeaderValue::from_static(KEY))),
            NotAnUpgrade::InvalidKey,
            400,
        ),
        (|r| r.extensions_mut().clear(), NotAnUpgrade::NoSocket, 501),
    ];
    for (index, (spoil, expected, status)) in cases.into_iter().enumerate() {
        let mut request = opening();
        spoil(&mut request);
        let refusal = Upgrade::from_request(&mut request).expect_err("spoilt");
        assert_eq!((refusal, refusal.status().as_u16()), (expected, status), "case {index}");
        assert_eq!(refusal.headers().contains_key("sec-websocket-version"), status == 426);
    }
}

#[tokio::test]
async fn a_client_of_another_make_gets_its_socket_and_nothing_is_lost_or_negotiated() {
    let (address, mut accepted) = server().await;
    let mut raw = TcpStream::connect(address).await.expect("connects");
    // The first frame comes in one piece with the request, and compression is offered.
    let request = format!(
        "GET /cdp HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: chat\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n\
         \u{1}\u{5}eager"
    );
    raw.write_all(request.as_bytes()).await.expect("sent");
    let leg = accepted.recv().await.expect("accepted");
    assert_eq!(leg.read_ahead.as_ref(), b"\x01\x05eager");
    let mut head = [0; 512];
    let read = raw.read(&mut head).await.expect("an answer");
    let head = String::from_utf8_lossy(&head[..read]).to_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(!head.contains("extensions") && !head.contains("protocol:"), "{head}");

    let (mut client, _) = tokio_tungstenite::connect_async(format!("ws://{address}/cdp")).await.expect("accepted");
    let leg = accepted.recv().await.expect("accepted");
    assert!(leg.stream.nodelay().expect("asked"));
    let mut server = WebSocketStream::from_raw_socket(leg.stream, Role::Server, None).await;
    client.send(Message::text("hello")).await.expect("sent");
    assert_eq!(server.next().await.expect("open").expect("valid"), Message::text("hello"));
}

#[tokio::test]
async fn a_dialled_server_sees_the_address_as_host_the_headers_given_and_no_origin() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut seen = HeaderMap::new();
        #[allow(clippy::result_large_err, reason = "the callback's type is not ours")]
        let mut socket = tokio_tungstenite::accept_hdr_async(
            stream,
            |request: &tokio_tungstenite::tungstenite::handshake::server::Request, response| {
                seen = request.headers().clone();
                assert_eq!(request.uri(), "/devtools/browser/1?a=b");
                Ok(response)
            },
        )
        .await
        .expect("a valid opening");
        // At once, so that it may arrive together with the handshake's answer.
        socket.send(Message::text("first")).await.expect("sent");
        (seen, socket)
    });
    let secret = (HeaderName::from_static("x-secret"), HeaderValue::from_static("s"));
    let leg = dial(&address, "/devtools/browser/1?a=b", &[secret], SOON).await.expect("accepted");
    let (seen, _socket) = server.await.expect("no panic");
    assert_eq!(
        (&seen["host"], &seen["x-secret"]),
        (&HeaderValue::from_str(&address).expect("plain"), &HeaderValue::from_static("s"))
    );
    assert!(!seen.contains_key("origin") && !seen.contains_key("sec-websocket-extensions"));
    let mut socket =
        WebSocketStream::from_partially_read(leg.stream, leg.read_ahead.to_vec(), Role::Client, None).await;
    let first = tokio::time::timeout(SOON, socket.next()).await.expect("in time");
    assert_eq!(first.expect("open").expect("valid"), Message::text("first"));
}

#[tokio::test]
async fn a_dial_that_fails_says_how() {
    let (address, _accepted) = server().await;
    let address = address.to_string();
    assert!(dial(&address, "/cdp", &[], SOON).await.is_ok());
    let refused = dial(&address, "/refused", &[], SOON).await.expect_err("refused");
    assert!(matches!(refused, DialError::Refused { status: StatusCode::FORBIDDEN }), "{refused:?}");
    assert!(matches!(dial(&address, "/missing", &[], SOON).await, Err(DialError::Refused { status }) if status == 404));
    let impostor = dial(&address, "/impostor", &[], SOON).await.expect_err("not for this key");
    assert!(matches!(impostor, DialError::NotWebSocket), "{impostor:?}");
    let held = dial(&address, "/held", &[], Duration::from_millis(50)).await.expect_err("no answer");
    assert!(matches!(held, DialError::TimedOut(_)), "{held:?}");
    assert!(matches!(dial(&address, "no path", &[], SOON).await, Err(DialError::InvalidRequest(_))));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let hanging_up = tokio::spawn(async move { drop(listener.accept().await) });
    let broken = dial(&address, "/cdp", &[], SOON).await.expect_err("hung up");
    assert!(matches!(broken, DialError::Broken(_)), "{broken:?}");
    hanging_up.await.expect("no panic");
    let closed = dial(&address, "/cdp", &[], SOON).await.expect_err("nobody listens any more");
    assert!(matches!(closed, DialError::Unreachable(_)), "{closed:?}");
}
