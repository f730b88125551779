//! The little the agent itself says to a browser: is it there, and which page does it show. Everything else is the client's conversation.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::browser::Endpoint;
use super::relay::DIAL_TIMEOUT;
use crate::upgrade::{self, DialError, Leg};

/// How often it is asked whether the first page is there: the port is open a few milliseconds earlier.
const PAGE_POLL: Duration = Duration::from_millis(5);
const MAX_ANSWER: usize = 1 << 20;
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

async fn get(port: u16, path: &str) -> Result<Value, DevtoolsError> {
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
        Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| DevtoolsError::Answer(error.to_string()))
    };
    let (body, _closed) = tokio::join!(exchange, connection);
    serde_json::from_slice(&body?.to_bytes()).map_err(|error| DevtoolsError::Answer(error.to_string()))
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
