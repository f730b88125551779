//! One who watches: gets a page's pictures, and can do nothing to it.
//!
//! A viewer speaks three commands of CDP, each written anew from what was understood of it; all others are answered
//! with an error, and the browser does not hear of them. Of what the browser says it gets the pictures, and what
//! concerns them. `Page.enable` is not among the commands: with it Chrome would have the page's dialogs wait for an
//! answer of this client. Pictures come without it.
//!
//! Nothing is read from either side while something is written to the viewer, and no picture is acknowledged that was
//! not taken: who reads slowly, or not at all, has the browser make fewer pictures, and costs no memory.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::agent::relay::{LAST_WORDS, keep_alive};
use crate::upgrade::Leg;

/// Chrome's, for a command that is not carried out; and JSON-RPC's, for what is none.
const REFUSED: i64 = -32_000;
const NOT_A_COMMAND: i64 = -32_600;

/// What a viewer may have to say is short.
const MAX_SAID: usize = 8 * 1024;
const MAX_PICTURE: usize = 32 << 20;
/// In either direction. A picture of noise at that size has 5 MB.
const MAX_SIDE: u32 = 2_560;
/// A viewer that takes nothing for so long makes place for another.
const STALL: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TcpStream>;

/// Serves a viewer until it leaves, its page is closed, or the session has ended. Why that was a viewer is told by the
/// proxy, on the other side; here only that the page is gone.
pub async fn serve(client: Leg, page: Leg, mut open: watch::Receiver<()>) {
    keep_alive(&client);
    let client = socket(client, Role::Server, MAX_SAID).await;
    let page = socket(page, Role::Client, MAX_PICTURE).await;
    let mut viewer = Viewer { client, page, owed: Owed::default(), detached: false };
    let watched = viewer.run();
    tokio::pin!(watched);
    tokio::select! {
        // A socket that broke is a socket that ended.
        _ = &mut watched => return,
        _ = open.changed() => {}
    }
    let _ = timeout(LAST_WORDS, watched).await;
}

async fn socket(Leg { stream, read_ahead }: Leg, role: Role, largest: usize) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest));
    WebSocketStream::from_partially_read(stream, read_ahead.to_vec(), role, Some(config)).await
}

struct Viewer {
    client: Socket,
    page: Socket,
    owed: Owed,
    /// The page has said that it goes.
    detached: bool,
}

impl Viewer {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            tokio::select! {
                said = self.client.next() => match said {
                    Some(Ok(Message::Text(text))) => match judge(&text, &mut self.owed) {
                        Ok(command) => self.page.send(Message::text(command)).await?,
                        Err(answer) => self.tell(Message::text(answer)).await?,
                    },
                    Some(Ok(Message::Binary(_))) => self.tell(Message::text(error(None, NOT_A_COMMAND, "it is no text"))).await?,
                    // Pings are answered as the next message is read.
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return self.page.close(None).await,
                },
                shown = self.page.next() => match shown {
                    Some(Ok(Message::Text(text))) => self.show(text.as_str()).await?,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return self.page_gone().await,
                },
            }
        }
    }

    async fn show(&mut self, text: &str) -> Result<(), Error> {
        match kind(text) {
            Kind::Picture(number) => {
                self.tell(Message::text(text)).await?;
                self.owed.taken(number);
            }
            Kind::Detached => self.detached = true,
            Kind::Other => self.tell(Message::text(text)).await?,
            Kind::NotForViewers => {}
        }
        Ok(())
    }

    async fn tell(&mut self, message: Message) -> Result<(), Error> {
        timeout(STALL, self.client.send(message)).await.unwrap_or(Err(Error::ConnectionClosed))
    }

    /// Without a word if the whole browser is: then the session's end has its own.
    async fn page_gone(&mut self) -> Result<(), Error> {
        if self.detached {
            let close = CloseFrame { code: CloseCode::Normal, reason: "the page was closed".into() };
            self.tell(Message::Close(Some(close))).await?;
            // Until the viewer has heard it.
            let _ = timeout(LAST_WORDS, async { while let Some(Ok(_)) = self.client.next().await {} }).await;
        }
        Ok(())
    }
}

/// The pictures that a viewer has taken and not acknowledged. Chrome numbers each run of them, and heeds only what
/// acknowledges those of the run that is on; to it one is as good as another.
#[derive(Debug, Default)]
struct Owed {
    run: i64,
    count: u32,
}

impl Owed {
    fn taken(&mut self, run: i64) {
        let before = if self.run == run { self.count } else { 0 };
        *self = Self { run, count: before.saturating_add(1) };
    }

    /// Whether one of them is now acknowledged.
    fn acknowledge(&mut self, run: i64) -> bool {
        let owed = self.run == run && self.count > 0;
        self.count -= u32::from(owed);
        owed
    }
}

/// What the browser says.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Of that run.
    Picture(i64),
    Detached,
    /// An answer, or whether the page is visible at all, or has crashed.
    Other,
    NotForViewers,
}

fn kind(text: &str) -> Kind {
    #[derive(Deserialize)]
    struct Head<'a> {
        id: Option<i64>,
        #[serde(borrow)]
        method: Option<Cow<'a, str>>,
        #[serde(default)]
        params: Params,
    }
    #[derive(Deserialize, Default)]
    struct Params {
        #[serde(rename = "sessionId")]
        run: Option<i64>,
    }
    match serde_json::from_str(text) {
        Ok(Head { id: Some(_), .. }) => Kind::Other,
        Ok(Head { method: Some(method), params, .. }) => match (&*method, params.run) {
            ("Page.screencastFrame", Some(run)) => Kind::Picture(run),
            ("Inspector.detached", _) => Kind::Detached,
            (
                "Page.screencastVisibilityChanged" | "Inspector.targetCrashed" | "Inspector.targetReloadedAfterCrash",
                _,
            ) => Kind::Other,
            _ => Kind::NotForViewers,
        },
        _ => Kind::NotForViewers,
    }
}

/// Twice the same field is none that is understood.
#[derive(Deserialize)]
struct Said<'a> {
    id: i64,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(default)]
    params: Value,
    #[serde(rename = "sessionId")]
    session: Option<Value>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Start {
    #[serde(default)]
    format: Format,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quality: Option<u8>,
    max_width: Option<u32>,
    max_height: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every_nth_frame: Option<u16>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Jpeg,
    Png,
    Webp,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ack {
    session_id: i64,
}

/// What a viewer said as the browser gets it, or the answer that it gets instead.
fn judge(text: &str, owed: &mut Owed) -> Result<String, String> {
    let Said { id, method, params, session } =
        serde_json::from_str(text).map_err(|_| error(None, NOT_A_COMMAND, "it is no command with an id"))?;
    let refuse = |why: &str| error(Some(id), REFUSED, &format!("{method} is refused here: {why}"));
    if session.is_some() {
        return Err(refuse("a viewer has one page, and no sessions"));
    }
    let params = if params.is_null() { json!({}) } else { params };
    let unreadable = |_| refuse("its params cannot be read");
    let side = |wanted: Option<u32>| Some(wanted.unwrap_or(MAX_SIDE).clamp(1, MAX_SIDE));
    match &*method {
        "Page.startScreencast" => {
            let start: Start = serde_json::from_value(params).map_err(unreadable)?;
            let start = Start { max_width: side(start.max_width), max_height: side(start.max_height), ..start };
            Ok(command(id, &method, &start))
        }
        "Page.stopScreencast" => Ok(command(id, &method, &json!({}))),
        "Page.screencastFrameAck" => {
            let ack: Ack = serde_json::from_value(params).map_err(unreadable)?;
            if owed.acknowledge(ack.session_id) {
                Ok(command(id, &method, &ack))
            } else {
                Err(refuse("no picture waits for it"))
            }
        }
        _ => Err(refuse("who watches can do nothing else than watch")),
    }
}

fn command(id: i64, method: &str, params: &impl Serialize) -> String {
    json!({ "id": id, "method": method, "params": params }).to_string()
}

fn error(id: Option<i64>, code: i64, message: &str) -> String {
    let error = json!({ "code": code, "message": message });
    match id {
        Some(id) => json!({ "id": id, "error": error }),
        None => json!({ "error": error }),
    }
    .to_string()
}
