//! One item of the list of keys, read field by field.

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::{ApiKey, Entry, ProjectLimits, Role, hash_in_hex, is_name, sha256};
use crate::clock;

/// More would be no limit any more.
const MAX_SESSIONS: u64 = 10_000_000;
const MAX_CREATES_PER_MINUTE: u64 = 1_000_000;

/// One item of the list, on its way to being a key.
pub(super) struct Item<'a> {
    /// What a field of it is called where people have written it.
    pub(super) called: &'a dyn Fn(&str) -> String,
    pub(super) faults: &'a mut Vec<String>,
}

impl Item<'_> {
    pub(super) fn read(&mut self, item: Value) -> Option<Entry> {
        match item {
            Value::String(key) => self.key(key.trim()),
            Value::Object(record) => self.record(record),
            _ => self.fault("", "must be a key or a record"),
        }
    }

    fn fault<T>(&mut self, field: &str, problem: &str) -> Option<T> {
        self.faults.push(format!("{} {problem}", (self.called)(field)));
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

    pub(super) fn record(&mut self, mut record: Map<String, Value>) -> Option<Entry> {
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
        let names = ["projectMaxSessions", "projectCreatesPerMinute"];
        for name in names.into_iter().filter(|name| project.is_none() && record.contains_key(*name)) {
            self.fault::<()>(&format!(".{name}"), "is given without a project");
        }
        let project_limits = ProjectLimits {
            max_sessions: self.count(&mut record, names[0], MAX_SESSIONS),
            creates_per_minute: self.count(&mut record, names[1], MAX_CREATES_PER_MINUTE),
        };
        let roles = self.field(&mut record, "roles", "must be a list of client, operator or both", |value| {
            Vec::<Role>::deserialize(value).ok().filter(|roles| !roles.is_empty())
        });
        let expires_at_ms =
            self.field(&mut record, "expiresAt", "must be a time as in 2026-12-31T23:59:59Z", |value| {
                clock::parse_rfc3339(value.as_str()?)
            });
        for (name, _) in record {
            // What stands where a field's name should may be a key. No key is as short and plain as this.
            if name.len() <= 24 && name.bytes().all(|b| b.is_ascii_alphabetic()) {
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
            project_limits,
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
