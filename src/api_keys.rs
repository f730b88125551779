//! API keys: who may do what with them. Kept only as hashes, compared in constant time.
//!
//! They come as text, from the environment or from a secret: keys separated by commas, or JSON, which is a list or
//! an object that has one as `API_KEYS`. A list holds keys and records, mixed as one likes. What is wrong with them
//! is told by place and field and never by value: a value may be a key.

mod item;

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::{constant_time, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::item::Item;
use crate::hex;
use crate::ids::{ProjectId, UserId};

const MAX_NAME: usize = 128;

/// What a key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sessions, one's own.
    Client,
    /// What concerns all users: how the fleet does.
    Operator,
}

/// What is known of a key, apart from the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub user: UserId,
    pub project: Option<ProjectId>,
    /// What people call it.
    pub name: Option<String>,
    /// Instead of what holds for everybody.
    pub max_sessions: Option<u64>,
    pub creates_per_minute: Option<u64>,
    pub project_limits: ProjectLimits,
    pub roles: Vec<Role>,
    pub expires_at_ms: Option<u64>,
}

/// What all keys of a project may have together. Any of their records may say it, and holds for all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProjectLimits {
    pub max_sessions: Option<u64>,
    pub creates_per_minute: Option<u64>,
}

struct Entry {
    sha256: Vec<u8>,
    key: ApiKey,
}

/// The API keys that are accepted, each only as its SHA-256.
#[derive(Default)]
pub struct ApiKeys(Vec<Entry>);

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKeys").field(&self.0.len()).finish()
    }
}

/// All that is wrong with the keys: a sentence each, which begins with `API_KEYS` and the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct KeyFaults(pub Vec<String>);

impl ApiKeys {
    pub fn parse(text: &str) -> Result<Self, KeyFaults> {
        let mut faults = Vec::new();
        let mut known: Vec<(usize, Entry)> = Vec::new();
        for (index, item) in items(text).map_err(|fault| KeyFaults(vec![fault]))?.into_iter().enumerate() {
            let called = |field: &str| format!("API_KEYS[{index}]{field}");
            let Some(entry) = (Item { called: &called, faults: &mut faults }).read(item) else { continue };
            match known.iter().find(|(_, other)| other.sha256 == entry.sha256) {
                None => known.push((index, entry)),
                Some((_, other)) if other.key == entry.key => {}
                Some((first, _)) => {
                    faults.push(format!(
                        "API_KEYS[{index}] is the same key as API_KEYS[{first}], but says otherwise of it"
                    ));
                }
            }
        }
        share_limits(&mut known, &mut faults);
        if faults.is_empty() {
            Ok(Self(known.into_iter().map(|(_, entry)| entry).collect()))
        } else {
            Err(KeyFaults(faults))
        }
    }

    /// One key that may do everything.
    pub fn development(key: &str) -> Self {
        let mut entry = Entry::of(sha256(key));
        entry.key.roles.push(Role::Operator);
        Self(vec![entry])
    }

    /// Takes the same time whichever key it is, and whether it is one.
    pub fn find(&self, key: &str) -> Option<&ApiKey> {
        let sha256 = sha256(key);
        let mut found = None;
        for entry in &self.0 {
            if constant_time::verify_slices_are_equal(&entry.sha256, &sha256).is_ok() {
                found = Some(&entry.key);
            }
        }
        found
    }
}

/// Gives each key the limits that any record of its project says.
fn share_limits(keys: &mut [(usize, Entry)], faults: &mut Vec<String>) {
    type Limit = fn(&mut ProjectLimits) -> &mut Option<u64>;
    let fields: [(&str, Limit); 2] = [
        ("projectMaxSessions", |limits| &mut limits.max_sessions),
        ("projectCreatesPerMinute", |limits| &mut limits.creates_per_minute),
    ];
    for (name, limit) in fields {
        let mut said: HashMap<ProjectId, (usize, u64)> = HashMap::new();
        for (index, Entry { key, .. }) in &mut *keys {
            let (Some(project), Some(most)) = (&key.project, *limit(&mut key.project_limits)) else { continue };
            let (first, other) = said.entry(project.clone()).or_insert((*index, most));
            if *other != most {
                faults.push(format!("API_KEYS[{index}].{name} is another than API_KEYS[{first}] says of its project"));
            }
        }
        for (_, Entry { key, .. }) in &mut *keys {
            let of_project = key.project.as_ref().and_then(|project| said.get(project));
            *limit(&mut key.project_limits) = of_project.map(|(_, most)| *most);
        }
    }
}

impl Entry {
    /// A key of which nothing else is said.
    fn of(sha256: Vec<u8>) -> Self {
        let key = ApiKey {
            user: user_of(&sha256),
            project: None,
            name: None,
            max_sessions: None,
            creates_per_minute: None,
            project_limits: ProjectLimits::default(),
            roles: vec![Role::Client],
            expires_at_ms: None,
        };
        Self { sha256, key }
    }
}

/// The record of a key, as [`ApiKeys::parse`] reads it, with what else is said of the key.
pub fn record_of(key: &str, says: &Map<String, Value>) -> Map<String, Value> {
    let mut record = Map::from_iter([("sha256".to_owned(), hex::encode(&sha256(key)).into())]);
    record.extend(says.clone());
    record
}

/// What a record says, if it can be one; or else what is wrong with it, a sentence for each fault. `called`: what a field
/// is called where people have written it.
pub fn check(record: Map<String, Value>, called: &dyn Fn(&str) -> String) -> Result<ApiKey, KeyFaults> {
    let mut faults = Vec::new();
    match (Item { called, faults: &mut faults }).record(record) {
        Some(entry) => Ok(entry.key),
        None => Err(KeyFaults(faults)),
    }
}

/// Whether a key may be called so.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn sha256(key: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, key.as_bytes()).as_ref().to_vec()
}

fn hash_in_hex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).filter(|hash| hash.len() == 32)
}

/// A hash of the key's hash: the id is shown and logged, and says nothing about either.
fn user_of(sha256: &[u8]) -> UserId {
    let hash = digest::digest(&digest::SHA256, &[b"wallcrawler user ", sha256].concat());
    format!("user_{}", hex::encode(&hash.as_ref()[..12])).parse().expect("hexadecimal digits make an id")
}

fn items(text: &str) -> Result<Vec<Value>, String> {
    let text = text.trim();
    if !text.starts_with(['[', '{']) {
        return Ok(text.split(',').map(|key| Value::from(key.trim())).collect());
    }
    let json: Value = serde_json::from_str(text)
        .map_err(|error| format!("API_KEYS is not valid JSON (line {}, column {})", error.line(), error.column()))?;
    let list = match json {
        // What else is in there may be somebody else's: one secret can hold more than the keys.
        Value::Object(mut whole) => whole.remove("API_KEYS").unwrap_or_default(),
        list => list,
    };
    match list {
        Value::Array(items) => Ok(items),
        // The console of Secrets Manager writes objects of texts only.
        Value::String(text) => items(&text),
        _ => Err(r#"API_KEYS must be keys separated by commas, a JSON list, or {"API_KEYS": a JSON list}"#.to_owned()),
    }
}

#[cfg(test)]
mod tests;
