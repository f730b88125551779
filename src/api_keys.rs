//! API keys: who may do what with them. Kept only as hashes, compared in constant time.
//!
//! They come as text, from the environment or from a secret: keys separated by commas, or JSON, which is a list or
//! an object that has one as `API_KEYS`. A list holds keys and records, mixed as one likes. What is wrong with them
//! is told by place and field and never by value: a value may be a key.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock;
use crate::hex;
use crate::ids::{ProjectId, UserId};

/// More would be no limit any more.
const MAX_SESSIONS: u64 = 10_000_000;
const MAX_CREATES_PER_MINUTE: u64 = 1_000_000;
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
    pub roles: Vec<Role>,
    pub expires_at_ms: Option<u64>,
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
            let Some(entry) = Item { index, faults: &mut faults }.read(item) else { continue };
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

impl Entry {
    /// A key of which nothing else is said.
    fn of(sha256: Vec<u8>) -> Self {
        let key = ApiKey {
            user: user_of(&sha256),
            project: None,
            name: None,
            max_sessions: None,
            creates_per_minute: None,
            roles: vec![Role::Client],
            expires_at_ms: None,
        };
        Self { sha256, key }
    }
}

/// The record of a key, as [`ApiKeys::parse`] reads it. Without `roles` it is a client's.
pub fn record_of(key: &str, user: Option<&UserId>, name: Option<&str>, roles: &[Role]) -> Value {
    let mut record = json!({ "sha256": hex::encode(&sha256(key)) });
    if let Some(user) = user {
        record["userId"] = user.as_str().into();
    }
    if let Some(name) = name {
        record["name"] = name.into();
    }
    if !roles.is_empty() {
        record["roles"] = json!(roles);
    }
    record
}

/// Whether a key may be called so.
pub fn is_name(text: &str) -> bool {
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

/// One item of the list, on its way to being a key.
struct Item<'a> {
    index: usize,
    faults: &'a mut Vec<String>,
}

impl Item<'_> {
    fn read(&mut self, item: Value) -> Option<Entry> {
        match item {
            Value::String(key) => self.key(key.trim()),
            Value::Object(record) => self.record(record),
            _ => self.fault("", "must be a key or a record"),
        }
    }

    fn fault<T>(&mut self, field: &str, problem: &str) -> Option<T> {
        self.faults.push(format!("API_KEYS[{}]{field} {problem}", self.index));
        None
    }

    /// The key itself, or `sha256:` and its hash.
    fn key(&mut self, key: &str) -> Option<Entry> {
        match key.strip_prefix("sha256:").map(hash_in_hex) {
            None if key.is_empty() => self.fault("", "is empty"),
            None => Some(Entry::of(sha256(key))),
            Some(Some(hash)) => Some(Entry::of(hash)),
            Some(None) => self.fault("", "begins with sha256: but 64 hexadecimal digits do not follow"),
        }
    }

    fn record(&mut self, mut record: Map<String, Value>) -> Option<Entry> {
        let faults_before = self.faults.len();
        let hash =
            self.field(&mut record, "sha256", "must be the 64 hexadecimal digits of the key's SHA-256", |value| {
                hash_in_hex(value.as_str()?)
            });
        if hash.is_none() && self.faults.len() == faults_before {
            self.fault::<()>(".sha256", "must be given");
        }
        let an_id = "must be at most 64 letters, digits, _, . and -, and begin with a letter or digit";
        let user = self.field(&mut record, "userId", an_id, |value| value.as_str()?.parse().ok());
        let project = self.field(&mut record, "projectId", an_id, |value| value.as_str()?.parse().ok());
        let name = self.field(&mut record, "name", "must be a text of 1 to 128 characters", |value| {
            value.as_str().filter(|name| is_name(name)).map(str::to_owned)
        });
        let max_sessions = self.count(&mut record, "maxSessions", MAX_SESSIONS);
        let creates_per_minute = self.count(&mut record, "createsPerMinute", MAX_CREATES_PER_MINUTE);
        let roles = self.field(&mut record, "roles", "must be a list of client, operator or both", |value| {
            Vec::<Role>::deserialize(value).ok().filter(|roles| !roles.is_empty())
        });
        let expires_at_ms =
            self.field(&mut record, "expiresAt", "must be a time as in 2026-12-31T23:59:59Z", |value| {
                clock::parse_rfc3339(value.as_str()?)
            });
        for (name, _) in record {
            // What stands where a field's name should may be a key. No key is as short and plain as this.
            if name.len() <= 20 && name.bytes().all(|b| b.is_ascii_alphabetic()) {
                self.fault::<()>(&format!(".{name}"), "is not a field of a record");
            } else {
                self.fault::<()>("", "has a field that a record does not have");
            }
        }
        if self.faults.len() > faults_before {
            return None;
        }
        let plain = Entry::of(hash?);
        let key = ApiKey {
            user: user.unwrap_or(plain.key.user),
            project,
            name,
            max_sessions,
            creates_per_minute,
            roles: roles.unwrap_or(plain.key.roles),
            expires_at_ms,
        };
        Some(Entry { key, ..plain })
    }

    /// `None` if it is not there, and if it is not what it must be, which is a fault.
    fn field<T>(
        &mut self,
        record: &mut Map<String, Value>,
        name: &str,
        problem: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = record.remove(name).filter(|value| !value.is_null())?;
        read(&value).or_else(|| self.fault(&format!(".{name}"), problem))
    }

    fn count(&mut self, record: &mut Map<String, Value>, name: &str, most: u64) -> Option<u64> {
        let problem = format!("must be a whole number from 1 to {most}");
        self.field(record, name, &problem, |value| value.as_u64().filter(|count| (1..=most).contains(count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &str) -> String {
        hex::encode(&sha256(key))
    }

    fn faults(text: &str) -> Vec<String> {
        ApiKeys::parse(text).err().map(|faults| faults.0).unwrap_or_default()
    }

    #[test]
    fn a_key_and_its_hash_are_the_same_user_and_the_id_shows_neither() {
        let hash = hash("wc_secret");
        let plain = ApiKeys::parse("other, wc_secret").expect("valid");
        let hashed = ApiKeys::parse(&format!("sha256:{hash}")).expect("valid");
        let key = plain.find("wc_secret").expect("known");
        assert_eq!(hashed.find("wc_secret"), Some(key));
        assert_ne!(plain.find("other").expect("known").user, key.user);
        assert_eq!(plain.find("wc_secre"), None);
        assert_eq!(hashed.find(&format!("sha256:{hash}")), None);
        assert!(!key.user.as_str().contains("wc_secret") && !key.user.as_str().contains(&hash[..8]));
        assert_eq!(key.roles, [Role::Client]);
    }

    #[test]
    fn keys_come_in_every_published_shape() {
        let record = json!({"sha256": hash("b")});
        for text in [
            "a,b".to_owned(),
            " a , b \n".to_owned(),
            json!(["a", "b"]).to_string(),
            json!({"API_KEYS": ["a", "b"]}).to_string(),
            json!({"API_KEYS": "a,b"}).to_string(),
            json!({"API_KEYS": "[\"a\", \"b\"]", "JWE_SECRET": "x"}).to_string(),
            json!(["a", record]).to_string(),
            json!({"API_KEYS": ["a", record, record]}).to_string(),
            json!({"API_KEYS": [format!("sha256:{}", hash("a")), record]}).to_string(),
        ] {
            let keys = ApiKeys::parse(&text).expect(&text);
            assert!(keys.find("a").is_some() && keys.find("b").is_some() && keys.0.len() == 2, "{text}");
            assert_eq!(keys.find("b"), ApiKeys::parse("b").expect("valid").find("b"), "{text}");
        }
    }

    #[test]
    fn a_record_says_what_its_key_may() {
        let all = json!([{
            "sha256": hash("a").to_uppercase(), "userId": "alice", "projectId": "9c1f-7", "name": "Alice's laptop",
            "maxSessions": 3, "createsPerMinute": 10, "roles": ["operator", "client"],
            "expiresAt": "2026-01-01T01:00:00+01:00",
        }, {"sha256": hash("b"), "userId": null, "roles": ["operator"]}]);
        let keys = ApiKeys::parse(&all.to_string()).expect("valid");
        let expected = ApiKey {
            user: "alice".parse().expect("an id"),
            project: Some("9c1f-7".parse().expect("an id")),
            name: Some("Alice's laptop".to_owned()),
            max_sessions: Some(3),
            creates_per_minute: Some(10),
            roles: vec![Role::Operator, Role::Client],
            expires_at_ms: Some(1_767_225_600_000),
        };
        assert_eq!(keys.find("a"), Some(&expected));
        let other = keys.find("b").expect("known");
        assert_eq!((&other.user, other.roles.as_slice()), (&user_of(&sha256("b")), &[Role::Operator][..]));
        let development = ApiKeys::development("wc_dev");
        assert_eq!(development.find("wc_dev").expect("known").roles, [Role::Client, Role::Operator]);
    }

    #[test]
    fn what_cannot_be_a_key_is_named_by_its_place_and_field_and_never_by_its_value() {
        let hash = hash("a");
        let with = |field: &str, value: Value| json!([{"sha256": hash, field: value}]).to_string();
        for (text, fault) in [
            ("a, ".to_owned(), "API_KEYS[1] is empty"),
            ("sha256:hunter2".to_owned(), "API_KEYS[0] begins with sha256: but 64 hexadecimal digits do not follow"),
            ("{\"API_KEYS\": [hunter2]}".to_owned(), "API_KEYS is not valid JSON (line 1, column 15)"),
            ("{}".to_owned(), "API_KEYS must be keys separated by commas"),
            (json!({"API_KEYS": 7}).to_string(), "API_KEYS must be keys separated by commas"),
            (json!({"API_KEYS": {"hunter2": 7}}).to_string(), "API_KEYS must be keys separated by commas"),
            (json!(["a", 7]).to_string(), "API_KEYS[1] must be a key or a record"),
            (json!(["a", ["hunter2"]]).to_string(), "API_KEYS[1] must be a key or a record"),
            (json!(["a", {"userId": "b"}]).to_string(), "API_KEYS[1].sha256 must be given"),
            (json!([{"sha256": "hunter2"}]).to_string(), "API_KEYS[0].sha256 must be the 64"),
            (json!([{"sha256": 7}]).to_string(), "API_KEYS[0].sha256 must be the 64"),
            (with("userId", json!("hunter2!")), "API_KEYS[0].userId must be"),
            (with("userId", json!("")), "API_KEYS[0].userId must be"),
            (with("projectId", json!("hunter2/..")), "API_KEYS[0].projectId must be"),
            (with("name", json!("")), "API_KEYS[0].name must be"),
            (with("name", json!("hunter2\n")), "API_KEYS[0].name must be"),
            (with("name", json!("x".repeat(129))), "API_KEYS[0].name must be"),
            (with("maxSessions", json!(0)), "API_KEYS[0].maxSessions must be a whole number from 1 to 10000000"),
            (with("maxSessions", json!("hunter2")), "API_KEYS[0].maxSessions must be"),
            (with("maxSessions", json!(1.5)), "API_KEYS[0].maxSessions must be"),
            (with("createsPerMinute", json!(-1)), "API_KEYS[0].createsPerMinute must be"),
            (with("roles", json!([])), "API_KEYS[0].roles must be a list of client, operator or both"),
            (with("roles", json!(["client", "hunter2"])), "API_KEYS[0].roles must be"),
            (with("roles", json!("client")), "API_KEYS[0].roles must be"),
            (with("expiresAt", json!("tomorrow, hunter2")), "API_KEYS[0].expiresAt must be"),
            (with("expiresAt", json!(1_767_225_600)), "API_KEYS[0].expiresAt must be"),
            (with("maxSession", json!("hunter2")), "API_KEYS[0].maxSession is not a field of a record"),
            (with("hunter2", json!(1)), "API_KEYS[0] has a field that a record does not have"),
            (
                json!([{"sha256": hash}, {"sha256": hash, "userId": "b"}]).to_string(),
                "API_KEYS[1] is the same key as API_KEYS[0], but says otherwise of it",
            ),
        ] {
            let found = faults(&text);
            assert!(found.len() == 1 && found[0].starts_with(fault), "{text}: {found:?}");
            assert!(!found[0].contains("hunter2"), "{found:?}");
        }
        let many = json!(["", {"sha256": "x", "roles": 1, "maxSessions": 0}, {}]).to_string();
        assert_eq!(faults(&many).len(), 5, "all at once: {:?}", faults(&many));
    }
}
