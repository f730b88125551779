//! What a client may not say to its browser. One CDP message in, a verdict out: pure but for the paths it looks up, and
//! for the ways out that it opens to the proxies of contexts.
//!
//! Whoever speaks CDP to a browser can have it read, and list, what its user can: `file:` pages, files to upload,
//! extensions from the disk, ports of the machine. That is taken out here, on both ways into the browser (`relay`,
//! `gateway`). The other direction is not looked at, and what a page may do is not decided here: a page has no CDP.
//!
//! Chrome takes what is no JSON (measured, 156: a vertical tab between two tokens, a line break within a text), and
//! of a parameter that is given twice the last. So nothing passes that was not understood: what is no JSON is refused,
//! and what could be read in two ways is written anew, as it was read here.
//!
//! What it does not close: a page of the whole browser's own PDF viewer, or of an extension, may open any tab
//! (`chrome.tabs.create`), `file:` included, and its client can then read it there. Against that only the browser's
//! user and a policy (`URLBlocklist`) help.

mod files;
mod proxy;
#[cfg(test)]
mod tests;
mod urls;

pub use self::files::{DOWNLOADS, UPLOADS, own_dir};

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::browser::Endpoint;
use super::egress::Egress;
use super::logs::Logs;

/// JSON-RPC's, and Chrome's: the message could not be read.
const NOT_JSON: i64 = -32_700;
const NOT_A_COMMAND: i64 = -32_600;
/// Chrome's, for a command that was understood and not carried out.
const REFUSED: i64 = -32_000;

/// Of an answer's text, so that large commands do not make large answers: several of them may wait for a client.
const MAX_REASON: usize = 600;
/// Chrome's have 32 characters. What is longer names no session.
const MAX_SESSION: usize = 256;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the browser byte for byte.
    Pass,
    /// This goes to the browser instead.
    Rewrite(String),
    /// The browser does not hear of it; this is the answer.
    Refuse(String),
}

/// The rules of one session.
#[derive(Debug)]
pub struct Filter {
    /// The browser's directory.
    home: PathBuf,
    /// The browser's way out, and so that to any proxy.
    egress: Egress,
}

/// The only way into a session's browser: where it listens, what may be said to it there, and where that is kept.
#[derive(Debug, Clone)]
pub struct Door {
    pub endpoint: Endpoint,
    pub filter: Arc<Filter>,
    pub logs: Logs,
}

/// What must be looked at in a command.
enum Rule {
    Url(&'static str),
    /// Paths in the list of that name.
    Files,
    DraggedFiles,
    /// Whether the command knows downloads that are named by the browser.
    Downloads {
        named: bool,
    },
    Proxy,
    /// A command within the command.
    Nested,
    Never(&'static str),
}

/// `None`: whatever it says, it passes.
fn rule(method: &str) -> Option<Rule> {
    Some(match method {
        "Page.navigate"
        | "Target.createTarget"
        | "Network.loadNetworkResource"
        | "Fetch.continueRequest"
        | "PWA.launch" => Rule::Url("url"),
        "PWA.install" => Rule::Url("installUrlOrBundleUrl"),
        "DOM.setFileInputFiles" | "Page.handleFileChooser" | "PWA.launchFilesInApp" => Rule::Files,
        "Input.dispatchDragEvent" => Rule::DraggedFiles,
        "Browser.setDownloadBehavior" => Rule::Downloads { named: true },
        "Page.setDownloadBehavior" => Rule::Downloads { named: false },
        "Target.createBrowserContext" => Rule::Proxy,
        "Target.sendMessageToTarget" => Rule::Nested,
        "Target.setRemoteLocations" => Rule::Never("it would make the browser connect to addresses of the container"),
        "Target.exposeDevToolsProtocol" => Rule::Never("it would give a page the whole protocol"),
        // Its page may load what the browser itself may: `devtools:` is refused as a URL too.
        "Target.openDevTools" => Rule::Never("the DevTools' own page may read files"),
        // Stagehand looks for its extension with the first.
        "Extensions.getExtensions" | "Extensions.getStorageItems" | "Extensions.triggerAction" => return None,
        _ if method.starts_with("Extensions.") => {
            Rule::Never("extensions are chosen when the session is created, with extensionId")
        }
        _ if method.starts_with("Tethering.") => Rule::Never("it would open ports on the container"),
        _ => return None,
    })
}

/// A command, with its parts as they were written.
#[derive(Default)]
struct Envelope<'a> {
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    session: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    /// One of them is there more than once; the last was kept.
    ambiguous: bool,
}

/// The same as it is written anew.
#[derive(Serialize)]
struct Command<'a, P> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(rename = "sessionId", skip_serializing_if = "Option::is_none")]
    session: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<P>,
}

impl Filter {
    pub fn new(home: PathBuf, egress: Egress) -> Self {
        Self { home, egress }
    }

    /// Of a message as it came, text or not.
    pub fn judge_bytes(&self, message: &[u8]) -> Verdict {
        match std::str::from_utf8(message) {
            Ok(text) => self.judge(text),
            Err(_) => Verdict::Refuse(Envelope::default().error(NOT_JSON, "the message is not UTF-8")),
        }
    }

    pub fn judge(&self, text: &str) -> Verdict {
        let envelope: Envelope<'_> = match serde_json::from_str(text) {
            Ok(envelope) => envelope,
            Err(error) => {
                let what = format!("the message is not a JSON object: {error}");
                return Verdict::Refuse(Envelope::default().error(NOT_JSON, &what));
            }
        };
        let Some(method) = envelope.method.and_then(|method| text_of(method.get())) else {
            return Verdict::Refuse(envelope.error(NOT_A_COMMAND, "the message has no method"));
        };
        let Some(rule) = rule(&method) else {
            return if envelope.ambiguous { envelope.anew(&method, envelope.params) } else { Verdict::Pass };
        };
        match self.params(&rule, envelope.params) {
            Ok(params) => envelope.anew(&method, params),
            Err(why) => Verdict::Refuse(envelope.error(REFUSED, &format!("{method} is refused here: {why}"))),
        }
    }

    /// The parameters as the browser gets them, or why it does not.
    fn params(&self, rule: &Rule, params: Option<&RawValue>) -> Result<Option<Value>, String> {
        if let Rule::Never(why) = rule {
            return Err((*why).to_owned());
        }
        let Some(params) = params else { return Ok(None) };
        let params = serde_json::from_str(params.get()).map_err(|error| format!("its params cannot be read: {error}"));
        let Value::Object(mut params) = params? else { return Err("its params are not an object".to_owned()) };
        match rule {
            Rule::Url(name) => urls::check(params.get(*name))?,
            Rule::Files => self.files(params.get_mut("files"))?,
            Rule::DraggedFiles => self.files(params.get_mut("data").and_then(|data| data.get_mut("files")))?,
            Rule::Downloads { named } => self.downloads(&mut params, *named)?,
            Rule::Proxy => proxy::take_over(&mut params, &self.egress)?,
            Rule::Nested => self.nested(&mut params)?,
            Rule::Never(_) => {}
        }
        Ok(Some(Value::Object(params)))
    }

    fn nested(&self, params: &mut Map<String, Value>) -> Result<(), String> {
        let Some(message) = params.get_mut("message") else { return Ok(()) };
        let Some(text) = message.as_str() else { return Err("its message is not a text".to_owned()) };
        match self.judge(text) {
            Verdict::Pass => {}
            Verdict::Rewrite(anew) => *message = anew.into(),
            Verdict::Refuse(answer) => {
                let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
                return Err(answer["error"]["message"].as_str().unwrap_or_default().to_owned());
            }
        }
        Ok(())
    }
}

impl Envelope<'_> {
    fn anew(&self, method: &str, params: Option<impl Serialize>) -> Verdict {
        let command = Command { id: self.id, method, session: self.session, params };
        Verdict::Rewrite(serde_json::to_string(&command).expect("what was JSON is JSON"))
    }

    /// An answer as Chrome gives it, so that a client rejects the call that it belongs to.
    fn error(&self, code: i64, message: &str) -> String {
        let mut answer = Map::new();
        if let Some(id) = self.id.and_then(|id| id.get().parse::<i64>().ok()) {
            answer.insert("id".to_owned(), id.into());
        }
        let cut = (0..=MAX_REASON.min(message.len())).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        answer.insert("error".to_owned(), json!({ "code": code, "message": &message[..cut] }));
        let session = self.session.filter(|session| session.get().len() <= MAX_SESSION);
        if let Some(session) = session.and_then(|session| text_of(session.get())) {
            answer.insert("sessionId".to_owned(), session.into());
        }
        Value::Object(answer).to_string()
    }
}

fn text_of(json: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    serde_json::from_str::<Text<'_>>(json).ok().map(|text| text.0)
}

impl<'de: 'a, 'a> Deserialize<'de> for Envelope<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;

        impl<'de> Visitor<'de> for Parts {
            type Value = Envelope<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a command")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope<'de>, A::Error> {
                let mut envelope = Envelope::default();
                while let Some(name) = map.next_key_seed(Name)? {
                    let part = match name {
                        Part::Id => &mut envelope.id,
                        Part::Method => &mut envelope.method,
                        Part::Session => &mut envelope.session,
                        Part::Params => &mut envelope.params,
                        Part::Other => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    envelope.ambiguous |= part.replace(map.next_value()?).is_some();
                }
                Ok(envelope)
            }
        }

        deserializer.deserialize_map(Parts)
    }
}

enum Part {
    Id,
    Method,
    Session,
    Params,
    Other,
}

/// A name as it reads once its escapes are resolved.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Part;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Part, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Part;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Part, E> {
        Ok(match name {
            "id" => Part::Id,
            "method" => Part::Method,
            "sessionId" => Part::Session,
            "params" => Part::Params,
            _ => Part::Other,
        })
    }
}
