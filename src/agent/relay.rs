//! The container's listener: lets the proxy through to a session's Chrome, and nobody else.
//!
//! After both handshakes the bytes are relayed as they are. Frames are not looked at here: the proxy on
//! the other side follows them, and tells a client why its session ended.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::browser::Endpoint;
use crate::ids::SessionId;
use crate::protocol::CDP_SECRET_HEADER;

/// Half the CPU time per byte of tokio's default 8 KiB, for twice 64 KiB a connection.
const COPY_BUFFER: usize = 64 * 1024;
/// How long a socket may go on delivering what Chrome said last, once its session has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(30);

struct Route {
    secret: String,
    endpoint: Endpoint,
    open: watch::Receiver<()>,
}

/// The sessions that can be reached, and where.
#[derive(Clone, Default)]
pub struct Routes(Arc<Mutex<HashMap<SessionId, Route>>>);

/// A session is reachable while this lives; its sockets are closed when it is dropped.
pub struct Open {
    routes: Routes,
    session: SessionId,
    /// Tells this opening from a later one of the same session.
    closing: watch::Sender<()>,
}

impl Routes {
    pub fn open(&self, session: SessionId, secret: String, endpoint: Endpoint) -> Open {
        let (closing, open) = watch::channel(());
        self.lock().insert(session.clone(), Route { secret, endpoint, open });
        Open { routes: self.clone(), session, closing }
    }

    /// Unknown session and wrong secret are one answer: it must not tell which sessions exist.
    fn find(&self, session: &str, secret: &[u8]) -> Option<(Endpoint, watch::Receiver<()>)> {
        let routes = self.lock();
        let route = routes.get(&session.parse::<SessionId>().ok()?)?;
        verify_slices_are_equal(route.secret.as_bytes(), secret).ok()?;
        Some((route.endpoint.clone(), route.open.clone()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut routes = self.routes.lock();
        if routes.get(&self.session).is_some_and(|route| route.open.same_channel(&self.closing.subscribe())) {
            routes.remove(&self.session);
        }
    }
}

/// Serves the listener for as long as it is polled; every connection ends with it.
pub async fn serve(listener: TcpListener, routes: Routes) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    // Out of file descriptors, most likely: those in use must be given time to close.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let routes = routes.clone();
        connections.spawn(async move {
            // The upgraded socket outlives hyper's connection, and is spliced in this same task.
            let (upgrades, mut upgraded) = tokio::sync::mpsc::channel::<Splice>(1);
            let _ = stream.set_nodelay(true);
            keep_alive(&stream);
            let service = service_fn(|request| {
                let (routes, upgrades) = (routes.clone(), upgrades.clone());
                async move { Ok::<_, Infallible>(answer(request, &routes, &upgrades).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if served.is_ok()
                && let Ok(splice) = upgraded.try_recv()
            {
                splice.run().await;
            }
        });
    }
}

async fn answer(
    mut request: Request<Incoming>,
    routes: &Routes,
    upgrades: &tokio::sync::mpsc::Sender<Splice>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "only GET is served here");
    }
    if path == "/health" {
        return Response::new(Full::from("{\"status\":\"ok\"}"));
    }
    let Some(session) = path.strip_prefix("/sessions/").and_then(|rest| rest.strip_suffix("/cdp")) else {
        return refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path");
    };
    let secret = request.headers().get(CDP_SECRET_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
    let Some((endpoint, open)) = routes.find(session, secret) else {
        return refuse(StatusCode::NOT_FOUND, "session_not_found", "this container serves no such session to you");
    };
    let upgrade = request.headers().get(UPGRADE).map(HeaderValue::as_bytes);
    let key = request.headers().get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).map(str::to_owned);
    let Some(key) = key.filter(|_| upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))) else {
        return refuse(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "this path speaks WebSocket only");
    };
    let chrome = match dial_chrome(&endpoint, &key).await {
        Ok(chrome) => chrome,
        Err(error) => {
            tracing::info!(session.id = session, error = %error, "the browser did not take a connection");
            return refuse(StatusCode::BAD_GATEWAY, "browser_unreachable", "the session's browser does not answer");
        }
    };
    let mut switching = Response::new(Full::default());
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = switching.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, chrome.accept.clone());
    // One upgrade a connection: there is always room.
    let _ = upgrades.try_send(Splice { client: hyper::upgrade::on(&mut request), chrome, open });
    switching
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response<Full<Bytes>> {
    let error = status.canonical_reason().unwrap_or_default();
    let body = json!({ "statusCode": status.as_u16(), "error": error, "code": code, "message": message });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A socket Chrome has already said 101 on.
pub struct Dialled {
    pub stream: TcpStream,
    /// What it said right after.
    pub read_ahead: Bytes,
    /// `Sec-WebSocket-Accept`
    pub accept: HeaderValue,
}

/// Opens a WebSocket to Chrome with the client's own key, so that Chrome's answer is the client's answer.
/// No `Origin` (Chrome refuses those), no extensions (nobody here could undo a compression).
pub async fn dial_chrome(endpoint: &Endpoint, key: &str) -> io::Result<Dialled> {
    let stream = TcpStream::connect(("127.0.0.1", endpoint.port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(&endpoint.path)
        .header("host", format!("127.0.0.1:{}", endpoint.port))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header(SEC_WEBSOCKET_KEY, key)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    // It ends by itself: with the upgrade, or when sender and response are dropped after a refusal.
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).cloned();
    let Some(accept) = accept.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) else {
        return Err(io::Error::other(format!("the browser answered {}", response.status())));
    };
    let (stream, read_ahead) = into_socket(hyper::upgrade::on(response).await.map_err(io::Error::other)?)?;
    Ok(Dialled { stream, read_ahead, accept })
}

/// The socket under an upgrade, and what hyper had read of it: its buffers are not needed any more.
fn into_socket(upgraded: Upgraded) -> io::Result<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| io::Error::other("not a TCP socket"))?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

struct Splice {
    client: hyper::upgrade::OnUpgrade,
    chrome: Dialled,
    open: watch::Receiver<()>,
}

impl Splice {
    async fn run(self) {
        let Ok(client) = self.client.await else { return };
        if let Ok(client) = into_socket(client) {
            relay(client, (self.chrome.stream, self.chrome.read_ahead), self.open).await;
        }
    }
}

/// Relays until both sides have ended, or the session has: then Chrome's last words may still be delivered.
pub async fn relay(client: (TcpStream, Bytes), chrome: (TcpStream, Bytes), mut open: watch::Receiver<()>) {
    let ((mut client, from_client), (mut chrome, from_chrome)) = (client, chrome);
    let splice = async {
        chrome.write_all(&from_client).await?;
        client.write_all(&from_chrome).await?;
        copy_bidirectional_with_sizes(&mut client, &mut chrome, COPY_BUFFER, COPY_BUFFER).await
    };
    tokio::pin!(splice);
    tokio::select! {
        // A socket that broke is a socket that ended.
        _ = &mut splice => return,
        // Nothing is ever sent: it resolves when the session's `Open` is dropped.
        _ = open.changed() => {}
    }
    let _ = tokio::time::timeout(LAST_WORDS, splice).await;
}

/// A proxy whose machine vanished says nothing; its sockets must not wait for the session's end.
fn keep_alive(stream: &TcpStream) {
    let probes = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&probes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint { port: 1, path: "/devtools/browser/x".into() }
    }

    #[test]
    fn a_session_is_found_only_with_its_own_secret_and_only_while_it_is_open() {
        let routes = Routes::default();
        let (one, other) = (SessionId::random(), SessionId::random());
        let open = routes.open(one.clone(), "secret".into(), endpoint());
        let _other = routes.open(other.clone(), "another".into(), endpoint());
        assert!(routes.find(one.as_str(), b"secret").is_some());
        for (session, secret) in [(&one, &b"another"[..]), (&one, b""), (&one, b"secre"), (&other, b"secret")] {
            assert!(routes.find(session.as_str(), secret).is_none());
        }
        drop(open);
        assert!(routes.find(one.as_str(), b"secret").is_none());
    }

    #[test]
    fn an_old_opening_does_not_close_a_newer_one_of_the_same_session() {
        let routes = Routes::default();
        let session = SessionId::random();
        let old = routes.open(session.clone(), "old".into(), endpoint());
        let _new = routes.open(session.clone(), "new".into(), endpoint());
        drop(old);
        assert!(routes.find(session.as_str(), b"new").is_some());
    }
}
