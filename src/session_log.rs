//! What a session's log says: the messages of CDP that its clients and its browser sent each other, as the clients of
//! Browserbase know them.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::ids::SessionId;

/// The most that is answered at once, in bytes. A function answers with 6 MB, in which every quote and every backslash of
/// ours is escaped once more.
pub const MAX_ANSWERED_BYTES: usize = 3_000_000;

/// A command of a client with the browser's answer, if there was one by then; or an event, which has a request only.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionLog<'a> {
    pub method: String,
    /// Pages have numbers from 1, as they appeared. 0: of the browser itself, or of no page that is known.
    pub page_id: u32,
    pub session_id: &'a SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loader_id: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: u64,
    pub request: LogRequest<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<LogResponse<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogRequest<'a> {
    #[serde(serialize_with = "object")]
    #[schemars(with = "Map<String, Value>")]
    pub params: Option<&'a RawValue>,
    /// The whole message. Of a large one the middle is left out, and `params` is empty.
    pub raw_body: Cow<'a, str>,
    pub timestamp: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogResponse<'a> {
    /// Empty if it is an error, which stands in `rawBody`.
    #[serde(serialize_with = "object")]
    #[schemars(with = "Map<String, Value>")]
    pub result: Option<&'a RawValue>,
    pub raw_body: Cow<'a, str>,
    pub timestamp: u64,
}

/// As it was written. Clients rely on an object.
fn object<S: Serializer>(value: &Option<&RawValue>, serializer: S) -> Result<S::Ok, S::Error> {
    match value.filter(|value| value.get().starts_with('{')) {
        Some(value) => value.serialize(serializer),
        None => Map::new().serialize(serializer),
    }
}
