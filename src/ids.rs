//! Identifiers: one newtype each, so that a session's id can never be handed where a container's is
//! wanted, and a strict parser, so that nothing unchecked reaches a Redis key, a path or a log line.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{digest, rand};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::hex;

/// Why a text is not an identifier. It never repeats the text: what was sent may have been a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id")]
pub struct InvalidId {
    pub kind: &'static str,
}

/// 128 random bits in lower-case base 32: 26 characters that survive URLs, file names and double clicks.
fn random_suffix() -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bytes = [0u8; 16];
    rand::fill(&mut bytes).expect("the operating system has randomness");
    let mut bits = u128::from_be_bytes(bytes);
    let mut text = String::with_capacity(26);
    for _ in 0..26 {
        text.push(char::from(ALPHABET[(bits & 31) as usize]));
        bits >>= 5;
    }
    text
}

/// `[A-Za-z0-9]` first, then also `_ . -`: nothing that means something to Redis, a path or a shell.
fn is_plain(text: &str, max_len: usize) -> bool {
    let mut bytes = text.bytes();
    text.len() <= max_len
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Connection ids of API Gateway are base64 (`L0SM9cOFvHcCIhw=`).
fn is_base64ish(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'=' | b'+' | b'/'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $pattern:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { kind: $kind })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// One browser session: `ses_` and 26 characters.
    SessionId, "session", "^ses_[A-Za-z0-9_.-]{1,60}$", |text| text.len() > 4 && text.starts_with("ses_") && is_plain(text, 64)
);
id!(
    /// One browser container, whoever started it. Ours are `ctr_` and 26 characters; a container that
    /// somebody starts by hand may have any plain name of at most 64 characters.
    ContainerId, "container", "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", |text| is_plain(text, 64)
);
id!(
    /// Who creates sessions: as the record of the API key says, or else derived from a hash of the key.
    UserId, "user", "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", |text| is_plain(text, 64)
);
id!(
    /// What several API keys, of one user or of many, may have in common: sessions, and limits.
    ProjectId, "project", "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", |text| is_plain(text, 64)
);
id!(
    /// What outlives a browser of its cookies and storage, to be had again by another.
    ContextId, "context", "^ctx_[A-Za-z0-9_.-]{1,60}$", |text| text.len() > 4 && text.starts_with("ctx_") && is_plain(text, 64)
);
id!(
    /// One client socket on a session, whatever carries it.
    ConnectionId, "connection", "^[A-Za-z0-9_=+/-]{1,128}$", is_base64ish
);
id!(
    /// One process that carries client sockets. Its connections die with it.
    ServerId, "server", "^srv_[A-Za-z0-9_.-]{1,60}$", |text| text.len() > 4 && text.starts_with("srv_") && is_plain(text, 64)
);
id!(
    /// An extension that somebody uploaded: `ext_` and 26 characters.
    ExtensionId, "extension", "^ext_[A-Za-z0-9_.-]{1,60}$", |text| text.len() > 4 && text.starts_with("ext_") && is_plain(text, 64)
);
id!(
    /// What is in an archive: its SHA-256, in lower-case hexadecimal digits.
    ArchiveHash, "archive", "^[0-9a-f]{64}$", |text| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);

id!(
    /// Which deployment a token is for.
    Audience, "audience", "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", |text| is_plain(text, 64)
);

/// Whose a session is: its project's, or without one its user's. All keys of a project share its sessions, whoever has
/// them, and nobody else sees them: not even a key of the same user that is of another project, or of none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Project(ProjectId),
    User(UserId),
}

impl Owner {
    pub fn of(user: &UserId, project: Option<&ProjectId>) -> Self {
        project.map_or_else(|| Self::User(user.clone()), |project| Self::Project(project.clone()))
    }

    /// Its name, which says nothing of what it is.
    pub fn id(&self) -> &str {
        match self {
            Self::Project(project) => project.as_str(),
            Self::User(user) => user.as_str(),
        }
    }
}

/// As the store names it.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Project(_)) { "project" } else { "user" };
        write!(f, "{kind}:{}", self.id())
    }
}

impl FromStr for Owner {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.split_once(':') {
            Some(("project", id)) => id.parse().map(Self::Project),
            Some(("user", id)) => id.parse().map(Self::User),
            _ => Err(InvalidId { kind: "owner" }),
        }
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Owner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Of a container that a service of ECS runs: its task's id follows.
const TASK_PREFIX: &str = "task-";

impl ContainerId {
    /// What the container of such a task is called. `None` if that is no task's name.
    pub fn of_task(task_arn: &str) -> Option<Self> {
        let (_, id) = task_arn.rsplit_once('/').filter(|_| task_arn.starts_with("arn:"))?;
        format!("{TASK_PREFIX}{id}").parse().ok()
    }

    /// Whether a service of ECS runs it, and would start another in its place.
    pub fn is_of_service(&self) -> bool {
        self.0.starts_with(TASK_PREFIX)
    }
}

impl SessionId {
    pub fn random() -> Self {
        Self(format!("ses_{}", random_suffix()))
    }
}

impl ContainerId {
    pub fn random() -> Self {
        Self(format!("ctr_{}", random_suffix()))
    }
}

impl ContextId {
    pub fn random() -> Self {
        Self(format!("ctx_{}", random_suffix()))
    }
}

impl ConnectionId {
    pub fn random() -> Self {
        Self(format!("con_{}", random_suffix()))
    }
}

impl ConnectionId {
    /// As it stands in a URL's path.
    pub fn in_path(&self) -> String {
        self.0.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D")
    }
}

impl ServerId {
    pub fn random() -> Self {
        Self(format!("srv_{}", random_suffix()))
    }
}

impl ExtensionId {
    pub fn random() -> Self {
        Self(format!("ext_{}", random_suffix()))
    }
}

impl ArchiveHash {
    pub fn of(content: &[u8]) -> Self {
        Self(hex::encode(digest::digest(&digest::SHA256, content).as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_id_is_parsed_back_and_no_two_are_alike() {
        let id = SessionId::random();
        assert_eq!(id.as_str().parse::<SessionId>().as_ref(), Ok(&id));
        assert_eq!(id.as_str().len(), 30);
        assert_ne!(id, SessionId::random());
    }

    fn agree<T: JsonSchema + FromStr>(text: &str) {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>();
        let told = jsonschema::is_valid(schema.as_value(), &text.into());
        assert_eq!(told, text.parse::<T>().is_ok(), "{} {text:?}", T::schema_name());
    }

    #[test]
    fn what_is_described_as_an_id_is_one_and_nothing_else_is() {
        let longest = "a".repeat(128);
        for text in
            ["", "a", "ses_", "ses_a", "srv_", "srv_a.b-c_", ".a", "-a", "_a", "a/b", "a=+", "a\n", "ses_é", "\n"]
        {
            for text in [text, &format!("{text}{}", &longest[..60]), &format!("{text}{}", &longest[..64]), &longest] {
                agree::<SessionId>(text);
                agree::<ContainerId>(text);
                agree::<UserId>(text);
                agree::<ConnectionId>(text);
                agree::<ServerId>(text);
            }
        }
    }

    #[test]
    fn what_could_mean_something_to_redis_a_path_or_a_shell_is_refused() {
        for text in ["", "ses_", "x", "ses_a/b", "ses_a b", "ses_a\n", "ses_a:b", "ses_{a}", "../ses_a", "sés_a"] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?}");
        }
        for text in ["", ".hidden", "-flag", "a/b", "a:b", &"a".repeat(65)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text:?}");
        }
        for text in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &"a".repeat(65), &"g".repeat(64)] {
            assert!(text.parse::<ArchiveHash>().is_err(), "{text:?}");
        }
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(nothing.parse::<ArchiveHash>(), Ok(ArchiveHash::of(b"")));
        assert!("my-laptop.1".parse::<ContainerId>().is_ok());
        assert!("L0SM9cOFvHcCIhw=".parse::<ConnectionId>().is_ok());
    }
}
