//! What was said, as entries of a log. It takes what there is: of a message without its middle, or that is no message of the
//! protocol, as much as can be told.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Speaker;
use super::ring::{Said, messages};
use crate::ids::SessionId;
use crate::session_log::{LogRequest, LogResponse, SessionLog};

/// `all` and `attached` are copies of rings.
pub fn entries(all: &[u8], attached: &[u8], session: &SessionId, most: usize) -> Vec<u8> {
    let pages = pages(attached);
    let texts: Vec<Text<'_>> = messages(all).map(Text::of).collect();
    let mut entries: Vec<SessionLog<'_>> = Vec::new();
    // Commands without an answer. Their numbers are their connection's own, and may be used again in another session.
    let mut unanswered = HashMap::new();
    for text in &texts {
        let parts = text.parts();
        let said = &text.said;
        match (parts.method, parts.id) {
            (Some(method), id) => {
                if let (Speaker::Client, Some(id)) = (said.by, id) {
                    unanswered.insert((said.connection, parts.session.clone(), id), entries.len());
                }
                let place = parts.params.map(Place::of).unwrap_or_default();
                entries.push(SessionLog {
                    method,
                    page_id: parts.session.and_then(|session| pages.get(&session).copied()).unwrap_or(0),
                    session_id: session,
                    frame_id: place.frame_id,
                    loader_id: place.loader_id,
                    timestamp: said.at_ms,
                    request: LogRequest { params: parts.params, raw_body: text.body(), timestamp: said.at_ms },
                    response: None,
                });
            }
            (None, Some(id)) => {
                // Without its command nobody could tell what it answers.
                let Some(at) = unanswered.remove(&(said.connection, parts.session, id)) else { continue };
                let entry = &mut entries[at];
                let place = parts.result.map(Place::of).unwrap_or_default();
                entry.frame_id = entry.frame_id.take().or(place.frame_id);
                entry.loader_id = entry.loader_id.take().or(place.loader_id);
                entry.response =
                    Some(LogResponse { result: parts.result, raw_body: text.body(), timestamp: said.at_ms });
            }
            (None, None) => {}
        }
    }
    newest(&entries, most)
}

/// As many of the last ones as fit.
fn newest(entries: &[SessionLog<'_>], most: usize) -> Vec<u8> {
    let (mut written, mut bytes) = (Vec::new(), 2);
    for entry in entries.iter().rev() {
        let json = serde_json::to_vec(entry).expect("it can be written");
        bytes += json.len() + 1;
        if bytes > most {
            break;
        }
        written.push(json);
    }
    written.reverse();
    [&b"["[..], &written.join(&b','), b"]"].concat()
}

/// Which page the protocol's sessions belong to. What a page has brought (frames of other sites, workers) belongs to it.
fn pages(attached: &[u8]) -> HashMap<String, u32> {
    let (mut numbers, mut pages) = (HashMap::new(), HashMap::new());
    for said in messages(attached) {
        let text = Text::of(said);
        // What Chrome knows of it comes first, and what the page says of itself later.
        let value = |name: &str| {
            let (_, rest) = text.head.split_once(&format!("\"{name}\":\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let (Some(session), Some(target)) = (value("sessionId"), value("targetId")) else { continue };
        let page = if value("type") == Some("page") {
            let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
            *numbers.entry(target.to_owned()).or_insert(next)
        } else {
            text.parts().session.and_then(|parent| pages.get(&parent).copied()).unwrap_or(0)
        };
        pages.insert(session.to_owned(), page);
    }
    pages
}

/// A message as a text, whatever it is.
struct Text<'a> {
    said: Said<'a>,
    head: Cow<'a, str>,
    tail: Cow<'a, str>,
}

impl<'a> Text<'a> {
    fn of(said: Said<'a>) -> Self {
        Self { said, head: String::from_utf8_lossy(said.head), tail: String::from_utf8_lossy(said.tail) }
    }

    fn body(&self) -> Cow<'_, str> {
        if self.tail.is_empty() {
            return Cow::Borrowed(&self.head);
        }
        let left_out = self.said.length - self.said.head.len() - self.said.tail.len();
        format!("{} [.. {left_out} bytes are left out here ..] {}", self.head, self.tail).into()
    }

    fn parts(&self) -> Parts<'_> {
        let mut parts = Parts::default();
        // Where it breaks off is where there is no more to be told.
        let _ = parts.take(&self.head);
        if !self.tail.is_empty() {
            parts.take_from_end(&self.tail);
        }
        parts
    }
}

/// The outermost parts of a message.
#[derive(Default)]
struct Parts<'a> {
    id: Option<i64>,
    method: Option<String>,
    session: Option<String>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
}

impl<'a> Parts<'a> {
    /// Takes what stands there, until something is no JSON.
    fn take(&mut self, text: &'a str) -> Result<(), serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_str(text);
        reader.deserialize_map(&mut *self)?;
        reader.end()
    }

    /// Takes what stands at the end, after the last value that is more than a name or a number. Within a text there is no
    /// `"` without a `\` before it, so that none is mistaken for a part.
    fn take_from_end(&mut self, text: &str) {
        let Some(mut rest) = text.trim_end().strip_suffix('}') else { return };
        while let Some((before, part)) = rest.rsplit_once(',') {
            let part = format!("{{{part}}}");
            let mut parts = Parts::default();
            if parts.take(&part).is_err() {
                return;
            }
            self.id = self.id.or(parts.id);
            self.method = self.method.take().or(parts.method);
            self.session = self.session.take().or(parts.session);
            rest = before;
        }
    }
}

impl<'de: 'a, 'a> Visitor<'de> for &mut Parts<'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let text = |value: Value| value.as_str().map(str::to_owned);
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            match &*name {
                "id" => self.id = map.next_value::<Value>()?.as_i64(),
                "method" => self.method = text(map.next_value()?),
                "sessionId" => self.session = text(map.next_value()?),
                "params" => self.params = Some(map.next_value()?),
                "result" => self.result = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The frame that a message is about, as it says itself.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    frame_id: Option<String>,
    loader_id: Option<String>,
}

impl Place {
    fn of(told: &RawValue) -> Self {
        serde_json::from_str(told.get()).unwrap_or_default()
    }
}
