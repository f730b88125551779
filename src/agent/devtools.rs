//! The little the agent itself says to a browser: is it there, and which pages does it show. Everything else is the client's
//! conversation.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::browser::Endpoint;
use super::relay::DIAL_TIMEOUT;
use crate::protocol::{Page, PageId};
use crate::upgrade::{self, DialError, Leg};

/// How often it is asked whether the first page is there: the port is open a few milliseconds earlier.
const PAGE_POLL: Duration = Duration::from_millis(5);
const MAX_ANSWER: usize = 1 << 20;
/// A page's address may be all of its content.
const MAX_LIST: usize = 64 << 20;
/// The largest file of the DevTools has 1 MB.
const MAX_FILE: usize = 4 << 20;
/// Of a page's address, title or icon: what is longer nobody reads.
const MAX_TEXT: usize = 2_048;
/// Chrome itself knows no limit, and says 120 MB in one frame if asked to. Beyond this it would cost the container's
/// other sessions their memory, and the socket is given up.
const MAX_MESSAGE: usize = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum DevtoolsError {
    #[error("no connection to the browser's port")]
    Io(#[from] io::Error),
    #[error("the browser's port does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("the browser does not take a socket")]
    Dial(#[from] DialError),
    #[error("the browser's socket broke")]
    Socket(#[from] tokio_tungstenite::tungstenite::Error),
    #[error("the browser's answer is not what DevTools answer: {0}")]
    Answer(String),
}

/// Chrome's own `/json/version`, without the address that holds only on this machine.
pub async fn version(port: u16) -> Result<Map<String, Value>, DevtoolsError> {
    match get(port, "/json/version").await? {
        Value::Object(mut version) => {
            version.remove("webSocketDebuggerUrl");
            Ok(version)
        }
        _ => Err(DevtoolsError::Answer("version is not an object".to_owned())),
    }
}

/// The target id of the page the browser started with, once there is one.
pub async fn first_page(port: u16) -> Result<String, DevtoolsError> {
    loop {
        let targets = get(port, "/json/list").await?;
        let page = targets.as_array().into_iter().flatten().find(|target| target["type"] == "page");
        if let Some(id) = page.and_then(|page| page["id"].as_str()) {
            return Ok(id.to_owned());
        }
        tokio::time::sleep(PAGE_POLL).await;
    }
}

/// The pages it shows, the one that was last active first. Neither its own windows nor workers or frames.
pub async fn pages(port: u16) -> Result<Vec<Page>, DevtoolsError> {
    let list = fetch(port, "/json/list", MAX_LIST).await?.into_body();
    let targets: Vec<Value> = parse(&list)?;
    let pages = targets.into_iter().filter(|target| target["type"] == "page").filter_map(|target| {
        let text = |name: &str| cut(target[name].as_str().unwrap_or_default());
        let id = PageId::try_from(text("id")).ok()?;
        Some(Page { id, url: text("url"), title: text("title"), favicon_url: text("faviconUrl") })
    });
    Ok(pages.collect())
}

fn cut(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..end].to_owned()
}

/// A file of the DevTools' own page, which every Chrome brings. It answers 200 with nothing where it has none.
pub async fn file(port: u16, name: &str) -> Result<Option<Response<Bytes>>, DevtoolsError> {
    let answer = fetch(port, &format!("/devtools/{name}"), MAX_FILE).await?;
    Ok(Some(answer).filter(|answer| answer.status().is_success() && !answer.body().is_empty()))
}

async fn get(port: u16, path: &str) -> Result<Value, DevtoolsError> {
    parse(fetch(port, path, MAX_ANSWER).await?.body())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DevtoolsError> {
    serde_json::from_slice(bytes).map_err(|error| DevtoolsError::Answer(error.to_string()))
}

async fn fetch(port: u16, path: &str, limit: usize) -> Result<Response<Bytes>, DevtoolsError> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header("host", format!("127.0.0.1:{port}"))
        .body(Empty::<Bytes>::new())
        .map_err(|error| DevtoolsError::Answer(error.to_string()))?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        // Let go of the connection, or driving it never ends.
        drop(sender);
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, limit).collect().await;
        let body = body.map_err(|error| DevtoolsError::Answer(error.to_string()))?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let (answer, _closed) = tokio::join!(exchange, connection);
    answer
}

/// A socket to the whole browser.
pub type Socket = WebSocketStream<TcpStream>;

pub async fn dial(endpoint: &Endpoint) -> Result<Socket, DevtoolsError> {
    let Leg { stream, read_ahead } = upgrade::dial(&endpoint.address(), &endpoint.path, &[], DIAL_TIMEOUT).await?;
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    Ok(WebSocketStream::from_partially_read(stream, read_ahead.to_vec(), Role::Client, Some(config)).await)
}

/// A socket on which one command at a time is sent and answered.
pub struct Conversation {
    socket: Socket,
    last_id: u64,
}

impl Conversation {
    pub async fn open(endpoint: &Endpoint) -> Result<Self, DevtoolsError> {
        Ok(Self { socket: dial(endpoint).await?, last_id: 0 })
    }

    pub async fn call(&mut self, session: Option<&str>, method: &str, params: &Value) -> Result<Value, DevtoolsError> {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        self.socket.send(Message::text(command.to_string())).await?;
        while let Some(message) = self.socket.next().await {
            let Ok(mut answer) = serde_json::from_slice::<Value>(&message?.into_data()) else { continue };
            if answer["id"] != self.last_id {
                continue;
            }
            if let Some(error) = answer.get("error") {
                return Err(DevtoolsError::Answer(format!("{method}: {}", error["message"])));
            }
            return Ok(answer["result"].take());
        }
        Err(DevtoolsError::Io(io::ErrorKind::UnexpectedEof.into()))
    }
}
