//! Both ends of a WebSocket opening handshake (RFC 6455, section 4): what turns an HTTP connection into a
//! raw socket. No frames, no payload: once the handshake is done hyper is out of the way, and what is left
//! is a [`Leg`]. Extensions are never negotiated, so that frames can pass between two legs untouched.

use std::future::Future;
use std::io;
use std::time::Duration;

use aws_lc_rs::{digest, rand};
use axum::body::Body;
use axum::http::header::{
    CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request::Parts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::future::{Either, select};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::native::Accepted;

/// The only version of the protocol there is (RFC 6455, section 4.1).
pub const WEBSOCKET_VERSION: &str = "13";

/// One end of a relayed connection: the socket, and what hyper had read from it beyond the handshake.
#[derive(Debug)]
pub struct Leg {
    pub stream: TcpStream,
    pub read_ahead: Bytes,
}

/// Why a request is not the opening of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnUpgrade {
    #[error("this address speaks WebSocket: connect with a WebSocket client")]
    NotWebSocket,
    #[error("the WebSocket version must be 13")]
    UnsupportedVersion,
    #[error("a WebSocket is opened with GET over HTTP/1.1")]
    NotGet,
    #[error("the Sec-WebSocket-Key must be 16 bytes in base64")]
    InvalidKey,
    /// Nothing underneath can be upgraded: HTTP/2, or a request that did not come over a socket.
    #[error("this connection cannot be upgraded")]
    NoSocket,
}

impl NotAnUpgrade {
    pub fn status(self) -> StatusCode {
        match self {
            NotAnUpgrade::NotWebSocket | NotAnUpgrade::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            NotAnUpgrade::NotGet => StatusCode::METHOD_NOT_ALLOWED,
            NotAnUpgrade::InvalidKey => StatusCode::BAD_REQUEST,
            NotAnUpgrade::NoSocket => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// What the refusal must say besides its status: a 426 names the protocol (RFC 9110, section 15.5.22)
    /// and its version (RFC 6455, section 4.4), a 405 the method.
    pub fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            NotAnUpgrade::NotWebSocket | NotAnUpgrade::UnsupportedVersion => {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(WEBSOCKET_VERSION));
            }
            NotAnUpgrade::NotGet => {
                headers.insert(axum::http::header::ALLOW, HeaderValue::from_static("GET"));
            }
            NotAnUpgrade::InvalidKey | NotAnUpgrade::NoSocket => {}
        }
        headers
    }
}

/// Why an accepted upgrade yielded no socket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("the client went away before the handshake was over")]
    Gone(#[source] hyper::Error),
    #[error("the upgraded connection is not a plain TCP socket")]
    NotTcp,
}

/// Why a WebSocket could not be opened at the other side.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("could not connect")]
    Unreachable(#[source] io::Error),
    #[error("the connection broke during the handshake")]
    Broken(#[source] hyper::Error),
    #[error("the upgrade was refused with status {}", .status.as_u16())]
    Refused { status: StatusCode },
    #[error("the answer is not that of a WebSocket server")]
    NotWebSocket,
    #[error("the path or a header cannot be sent")]
    InvalidRequest(#[source] axum::http::Error),
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// A client's wish for a WebSocket, found valid and not answered yet: it can be held until there is
/// something to connect it to.
#[derive(Debug)]
pub struct Upgrade {
    key: String,
    socket: OnUpgrade,
}

impl Upgrade {
    /// Checks the request as RFC 6455, section 4.2.1 wants it. Subprotocols and extensions that are offered
    /// are ignored, which declines them.
    pub fn from_request<B>(request: &mut Request<B>) -> Result<Self, NotAnUpgrade> {
        let valid = check(request.method(), request.version(), request.headers());
        Self::take(valid, request.extensions_mut())
    }

    /// The same for a request that was taken apart already.
    pub fn from_parts(parts: &mut Parts) -> Result<Self, NotAnUpgrade> {
        Self::take(check(&parts.method, parts.version, &parts.headers), &mut parts.extensions)
    }

    fn take(key: Result<String, NotAnUpgrade>, extensions: &mut axum::http::Extensions) -> Result<Self, NotAnUpgrade> {
        let key = key?;
        let socket = extensions.remove::<OnUpgrade>().ok_or(NotAnUpgrade::NoSocket)?;
        Ok(Self { key, socket })
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// The answer that must be returned to the client, and what becomes its socket once hyper has sent it.
    /// The second half does nothing until it is polled, and only ends after the first was returned.
    pub fn accept(self) -> (Response<Body>, impl Future<Output = Result<Leg, UpgradeError>> + Send + 'static) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(
            SEC_WEBSOCKET_ACCEPT,
            HeaderValue::from_str(&accept_value(&self.key)).expect("base64 is a valid header value"),
        );
        let leg = async move { into_leg(self.socket.await.map_err(UpgradeError::Gone)?).ok_or(UpgradeError::NotTcp) };
        (response, leg)
    }
}

/// Opens a WebSocket at `address` (`host:port`) with `headers` besides those of the handshake. `Host` is the
/// address and there is no `Origin`: Chrome answers anything else than an IP address or localhost with 500, and
/// an `Origin` with 403. The deadline covers everything from the name lookup on.
pub async fn dial(
    address: &str,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
    deadline: Duration,
) -> Result<Leg, DialError> {
    tokio::time::timeout(deadline, open(address, path, headers))
        .await
        .unwrap_or_else(|_| Err(DialError::TimedOut(deadline)))
}

async fn open(address: &str, path: &str, headers: &[(HeaderName, HeaderValue)]) -> Result<Leg, DialError> {
    let key = random_key();
    let mut request = Request::builder()
        .uri(path)
        .header(HOST, address)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION)
        .header(SEC_WEBSOCKET_KEY, &key)
        .body(String::new())
        .map_err(DialError::InvalidRequest)?;
    request.headers_mut().extend(headers.iter().cloned());

    let stream = TcpStream::connect(address).await.map_err(DialError::Unreachable)?;
    stream.set_nodelay(true).map_err(DialError::Unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(DialError::Broken)?;

    let exchange = async move {
        let response = sender.send_request(request).await.map_err(DialError::Broken)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(DialError::Refused { status: response.status() });
        }
        let headers = response.headers();
        let is_right = has_token(headers, &UPGRADE, "websocket")
            && has_token(headers, &CONNECTION, "upgrade")
            && headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| value == accept_value(&key).as_str())
            // None was offered; frames of an extension would not be understood at the other end.
            && !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS);
        if !is_right {
            return Err(DialError::NotWebSocket);
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(DialError::Broken)?;
        into_leg(upgraded).ok_or(DialError::NotWebSocket)
    };
    // The exchange only moves while hyper's connection is driven. No task of its own does that: dropping this
    // future then closes the socket.
    let (exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection.with_upgrades()));
    match select(exchange, connection).await {
        Either::Left((leg, _)) => leg,
        // The connection is over once it was upgraded, and when it failed: the exchange knows which.
        Either::Right((_, exchange)) => exchange.await,
    }
}

/// The key's value, if the request is a valid opening handshake.
fn check(method: &Method, version: Version, headers: &HeaderMap) -> Result<String, NotAnUpgrade> {
    if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        return Err(NotAnUpgrade::NotWebSocket);
    }
    if method != Method::GET || version != Version::HTTP_11 {
        return Err(NotAnUpgrade::NotGet);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|value| value != WEBSOCKET_VERSION) {
        return Err(NotAnUpgrade::UnsupportedVersion);
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(NotAnUpgrade::InvalidKey);
    };
    key.to_str()
        .ok()
        .filter(|key| BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16))
        .map(str::to_owned)
        .ok_or(NotAnUpgrade::InvalidKey)
}

/// Whether a header that is a list of words, possibly sent in several lines, holds the word.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case(token))
}

fn accept_value(key: &str) -> String {
    // RFC 6455, section 1.3. SHA-1 proves here that the server speaks WebSocket, nothing more.
    let answered = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, answered.as_bytes()))
}

fn random_key() -> String {
    let mut bytes = [0u8; 16];
    rand::fill(&mut bytes).expect("the operating system has randomness");
    BASE64.encode(bytes)
}

/// Of a socket that was dialled, or accepted.
fn into_leg(upgraded: Upgraded) -> Option<Leg> {
    let (stream, read_buf) = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => (parts.io.into_inner(), parts.read_buf),
        Err(upgraded) => {
            let parts = upgraded.downcast::<TokioIo<Accepted>>().ok()?;
            (parts.io.into_inner().into_inner(), parts.read_buf)
        }
    };
    // Copied even when it is empty: the slice would keep hyper's whole read buffer for as long as the leg lives.
    Some(Leg { stream, read_ahead: Bytes::copy_from_slice(&read_buf) })
}

#[cfg(test)]
mod tests;
