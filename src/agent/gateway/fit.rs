//! What the WebSocket API of API Gateway does not carry, and what is sent instead. Pure.
//!
//! It closes the socket of a client that is sent more than 128 KB, so nothing larger is handed to it; and nothing is
//! dropped in silence: a command is answered with an error, and an event without which the client can go on is
//! replaced by a warning in its log.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::protocol::GATEWAY_MESSAGE_BYTES;

/// What a piece of a stream may measure. In base64 it becomes a third larger, but Chrome writes a control character
/// of a text as `\u0001`: six times as large (20 KiB of them made an answer of 122,994 bytes, 32 KiB one of
/// 196,722). An answer that does not fit would be lost for good: the stream has moved on.
pub const IO_READ_BYTES: u64 = 20 * 1024;
/// To what a URL is cut in an event that does not fit. One that long carries its content (`data:`).
const URL_BYTES: usize = 1024;
/// A page can paint sixty frames a second that do not fit. They are not dropped in silence, but the client's log is
/// not flooded either.
const FRAME_WARNINGS: Duration = Duration::from_secs(60);

const WAY_OUT: &str = "Connect directly: with CDP_ENDPOINT or ALB_DNS_NAME configured, the control plane gives \
    sessions a connectUrl without such limits.";

#[derive(Deserialize)]
struct Envelope<'a> {
    id: Option<i64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "sessionId")]
    session: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

/// What becomes of a message of the browser that is too large.
#[derive(Debug, PartialEq)]
pub struct Instead {
    pub to_client: Option<String>,
    /// A command to the browser, without its `id`.
    pub to_browser: Option<Value>,
}

/// Remembers, for one connection, when the client was last warned of a frame.
#[derive(Default)]
pub struct Fit {
    frame_warning: Option<Instant>,
}

impl Fit {
    pub fn fits(text: &str) -> bool {
        text.len() <= GATEWAY_MESSAGE_BYTES
    }

    /// What is sent instead of a message that does not fit. `None` if it is not a message of the protocol.
    pub fn instead(&mut self, text: &str, now: Instant, now_ms: u64) -> Option<Instead> {
        let message: Envelope<'_> = serde_json::from_str(text).ok()?;
        let only = |to_client: String| Some(Instead { to_client: Some(to_client), to_browser: None });
        if let Some(id) = message.id {
            return only(error(id, message.session.as_deref(), text.len()));
        }
        let method = message.method.as_deref()?;
        if method == "Page.screencastFrame" {
            let warned = self.frame_warning.is_some_and(|last| now < last + FRAME_WARNINGS);
            if !warned {
                self.frame_warning = Some(now);
            }
            return Some(Instead {
                to_client: (!warned).then(|| warning(&message, method, text.len(), now_ms)),
                to_browser: acknowledgement(&message),
            });
        }
        only(smaller(&message, method).unwrap_or_else(|| warning(&message, method, text.len(), now_ms)))
    }
}

fn error(id: i64, session: Option<&str>, bytes: usize) -> String {
    let message = format!(
        "the browser's answer has {bytes} bytes, and the WebSocket API of API Gateway carries at most \
         {GATEWAY_MESSAGE_BYTES} (128 KB). {WAY_OUT} Or ask for less, such as a JPEG or a clip of a screenshot."
    );
    with_session(json!({ "id": id, "error": { "code": -32_000, "message": message } }), session).to_string()
}

fn warning(message: &Envelope<'_>, method: &str, bytes: usize, now_ms: u64) -> String {
    let text = format!(
        "An event {method} of {bytes} bytes was left out: the WebSocket API of API Gateway carries at most \
         {GATEWAY_MESSAGE_BYTES} (128 KB). {WAY_OUT}"
    );
    let entry = json!({ "source": "other", "level": "warning", "text": text, "timestamp": now_ms });
    let event = json!({ "method": "Log.entryAdded", "params": { "entry": entry } });
    with_session(event, message.session.as_deref()).to_string()
}

/// Without it Chrome sends no further frame.
fn acknowledgement(message: &Envelope<'_>) -> Option<Value> {
    #[derive(Deserialize)]
    struct Frame {
        /// The number of the frame, in spite of its name.
        #[serde(rename = "sessionId")]
        number: i64,
    }
    let frame: Frame = serde_json::from_str(message.params?.get()).ok()?;
    let command = json!({ "method": "Page.screencastFrameAck", "params": { "sessionId": frame.number } });
    Some(with_session(command, message.session.as_deref()))
}

/// The event without what the protocol allows to be left out, if it fits then.
fn smaller(message: &Envelope<'_>, method: &str) -> Option<String> {
    let mut params: Value = serde_json::from_str(message.params?.get()).ok()?;
    let render = |params: &Value| {
        let event = json!({ "method": method, "params": params });
        Some(with_session(event, message.session.as_deref()).to_string()).filter(|text| Fit::fits(text))
    };
    if matches!(method, "Fetch.requestPaused" | "Network.requestWillBeSent")
        && let Some(request) = params.get_mut("request").and_then(Value::as_object_mut)
    {
        // "Omitted when the data is too long"; `hasPostData` tells the client that it can ask for it.
        request.shift_remove("postData");
        request.shift_remove("postDataEntries");
        if let Some(text) = render(&params) {
            return Some(text);
        }
    }
    shorten_urls(&mut params);
    render(&params)
}

fn shorten_urls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match value {
                    Value::String(url) if key.to_ascii_lowercase().ends_with("url") => {
                        let end = (0..=URL_BYTES.min(url.len())).rev().find(|&at| url.is_char_boundary(at));
                        url.truncate(end.unwrap_or(0));
                    }
                    value => shorten_urls(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(shorten_urls),
        _ => {}
    }
}

fn with_session(mut message: Value, session: Option<&str>) -> Value {
    if let Some(session) = session {
        message["sessionId"] = session.into();
    }
    message
}

/// The number of a client's command, if it has one that is a whole number.
pub fn number(text: &str) -> Option<i64> {
    #[derive(Deserialize)]
    struct Numbered {
        id: i64,
    }
    serde_json::from_str::<Numbered>(text).ok().map(|command| command.id)
}

/// A client's command as it is passed on: what it reads from a stream has to come in pieces that fit.
pub fn asked_for_in_pieces(text: String) -> String {
    // Hardly a message has to be looked at more closely.
    if !text.contains("\"IO.read\"") {
        return text;
    }
    let Ok(mut command) = serde_json::from_str::<Value>(&text) else { return text };
    if command["method"] != "IO.read" || !command["params"].is_object() {
        return text;
    }
    let size = &mut command["params"]["size"];
    match size {
        Value::Number(asked) if asked.as_u64().is_none_or(|asked| asked <= IO_READ_BYTES) => return text,
        Value::Null | Value::Number(_) => *size = IO_READ_BYTES.into(),
        // Chrome tells the client that this is no size.
        _ => return text,
    }
    command.to_string()
}

#[cfg(test)]
mod tests;
