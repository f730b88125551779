//! Reading what a script answered: a word, and then what belongs to it, front to back.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use fred::types::Value as RedisValue;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Route, StoreError};
use crate::container::{Container, FailedStarts, FleetSnapshot, Queue};
use crate::protocol::ProxyCredentials;
use crate::session::{Outlook, Session};

/// What the store keeps about a session and the API does not show as it is.
#[derive(Debug, Clone)]
pub struct Details {
    /// How often it was claimed.
    pub lease: u64,
    /// Its browser's `/json/version`.
    pub version: Map<String, Value>,
    /// What its proxy asks for. Gone when it has ended.
    pub proxy_credentials: Option<ProxyCredentials>,
}

/// What is left to read of an answer.
pub struct Reply(std::vec::IntoIter<RedisValue>);

/// The fields of a hash.
pub struct Fields(HashMap<String, String>);

pub fn parse<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error| StoreError::Unexpected(format!("{what}: {error}")))
}

impl Reply {
    pub fn new(value: RedisValue) -> Result<Self, StoreError> {
        match value {
            RedisValue::Array(values) => Ok(Self(values.into_iter())),
            other => Err(StoreError::Unexpected(format!("{:?} where a list was expected", other.kind()))),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    fn next(&mut self) -> Result<RedisValue, StoreError> {
        self.0.next().ok_or_else(|| StoreError::Unexpected("an answer that ends too early".to_owned()))
    }

    pub fn text(&mut self) -> Result<String, StoreError> {
        let value = self.next()?;
        let kind = value.kind();
        value.into_string().ok_or_else(|| StoreError::Unexpected(format!("{kind:?} where a text was expected")))
    }

    /// The word an answer begins with.
    pub fn word(&mut self) -> Result<String, StoreError> {
        self.text()
    }

    pub fn number(&mut self) -> Result<u64, StoreError> {
        let text = self.text()?;
        parse("number", &text)
    }

    pub fn list(&mut self) -> Result<Reply, StoreError> {
        Reply::new(self.next()?)
    }

    /// All that is left, as ids.
    pub fn ids<T: FromStr<Err: Display>>(mut self) -> Result<Vec<T>, StoreError> {
        let mut ids = Vec::with_capacity(self.0.len());
        while !self.is_empty() {
            ids.push(parse("id", &self.text()?)?);
        }
        Ok(ids)
    }

    /// All that is left, two by two.
    pub fn pairs<A, B>(mut self, what: &str) -> Result<Vec<(A, B)>, StoreError>
    where
        A: FromStr<Err: Display>,
        B: FromStr<Err: Display>,
    {
        let mut pairs = Vec::with_capacity(self.0.len() / 2);
        while !self.is_empty() {
            pairs.push((parse(what, &self.text()?)?, parse(what, &self.text()?)?));
        }
        Ok(pairs)
    }

    /// All that is left, as the fields of a hash.
    pub fn fields(mut self) -> Result<Fields, StoreError> {
        let mut fields = HashMap::with_capacity(self.0.len() / 2);
        while !self.is_empty() {
            fields.insert(self.text()?, self.text()?);
        }
        Ok(Fields(fields))
    }

    /// All that is left, as JSON texts.
    pub fn objects(mut self) -> Result<Vec<Value>, StoreError> {
        let mut objects = Vec::with_capacity(self.0.len());
        while !self.is_empty() {
            let text = self.text()?;
            objects.push(serde_json::from_str(&text).map_err(|error| StoreError::Unexpected(error.to_string()))?);
        }
        Ok(objects)
    }

    /// All that is known of the fleet.
    pub fn fleet(&mut self) -> Result<FleetSnapshot, StoreError> {
        let (watched_since_ms, looked_at_ms) = (self.number()?, self.number()?);
        let (slots, used, mended) = (self.number()?, self.number()?, self.number()? == 1);
        let mut containers = Vec::new();
        let mut list = self.list()?;
        while !list.is_empty() {
            containers.push(list.list()?.fields()?.container()?);
        }
        let (starting, servers) = (self.list()?.pairs("reservation")?, self.list()?.pairs("server")?);
        let mut failed = self.list()?;
        let failed_starts = FailedStarts {
            attempts: failed.number()?,
            hold_until_ms: failed.number()?,
            last_at_ms: failed.number()?,
            last_why: failed.text()?,
            throttled_until_ms: failed.number()?,
        };
        let mut queue = self.list()?;
        let queue = Queue {
            length: queue.number()?,
            users: queue.number()?,
            since_ms: Some(queue.number()?).filter(|ms| *ms > 0),
            outlook: queue.outlook()?,
        };
        Ok(FleetSnapshot {
            watched_since_ms,
            looked_at_ms,
            queue,
            slots,
            used,
            mended,
            containers,
            starting,
            servers,
            failed_starts,
        })
    }

    /// Session, address and secret, or `None` where the address is empty.
    pub fn route(&mut self) -> Result<Option<Route>, StoreError> {
        let (session, address, secret) = (self.text()?, self.text()?, self.text()?);
        if address.is_empty() {
            return Ok(None);
        }
        Ok(Some(Route { session: parse("session", &session)?, address, secret }))
    }

    /// How fast the queue moves, and what is on its way.
    pub fn outlook(&mut self) -> Result<Outlook, StoreError> {
        let mut parts = self.list()?;
        let (lately, at_ms) = (parts.text()?, parts.text()?);
        Ok(Outlook {
            lately: parse("rate", &lately)?,
            at_ms: parse("time", &at_ms)?,
            free: parts.number()?,
            starting: parts.number()?,
            first_deadline_ms: parts.number()?,
            start_took_ms: parts.number()?,
        })
    }

    /// A session as `shared.lua` lays it out: fields, connections, place in the queue from 0, and how fast that moves.
    pub fn session(&mut self) -> Result<(Session, Details), StoreError> {
        let mut parts = self.list()?;
        let mut fields = parts.list()?.fields()?;
        let active_connections = parts.number()?;
        let rank = match parts.next()? {
            RedisValue::Null => None,
            rank => rank.as_u64(),
        };
        let outlook = parts.outlook()?;
        let details = Details {
            lease: fields.optional("lease")?.unwrap_or(0),
            version: if fields.0.contains_key("version") { fields.json("version")? } else { Map::new() },
            proxy_credentials: match fields.0.contains_key("proxyCredentials") {
                true => Some(fields.json("proxyCredentials")?),
                false => None,
            },
        };
        let session = Session {
            id: fields.parse("sessionId")?,
            user_id: fields.parse("userId")?,
            project: fields.optional("projectId")?,
            status: fields.parse("status")?,
            created_at_ms: fields.parse("createdAt")?,
            last_activity_ms: fields.parse("lastActivity")?,
            started_at_ms: fields.optional("claimedAt")?,
            expires_at_ms: fields.parse("expiresAt")?,
            timeout_ms: fields.parse("timeout")?,
            keep_alive: fields.text("keepAlive")? == "1",
            browser_settings: fields.json("browserSettings")?,
            extension: fields.optional("extension")?,
            user_metadata: fields.json("userMetadata")?,
            container_id: fields.optional("containerId")?,
            task_arn: fields.0.remove("taskArn"),
            ready: fields.0.contains_key("ready"),
            active_connections,
            proxy_bytes: fields.optional("proxyBytes")?.unwrap_or(0),
            queue_position: rank.map(|rank| rank + 1),
            outlook,
            ended_at_ms: fields.optional("endedAt")?,
            end_reason: fields.optional("endReason")?,
        };
        Ok((session, details))
    }
}

impl Fields {
    pub fn text(&self, name: &str) -> Result<&str, StoreError> {
        self.0.get(name).map(String::as_str).ok_or_else(|| StoreError::Unexpected(format!("a hash without {name}")))
    }

    pub fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, StoreError> {
        parse(name, self.text(name)?)
    }

    fn container(&self) -> Result<Container, StoreError> {
        Ok(Container {
            id: self.parse("containerId")?,
            active_sessions: self.parse("activeSessions")?,
            max_sessions: self.parse("maxSessions")?,
            last_heartbeat_ms: self.parse("lastHeartbeat")?,
            idle_since_ms: self.parse("idleSince")?,
            started_at_ms: self.parse("startedAt")?,
            draining: self.text("draining")? == "1",
            launched: self.text("launched")? == "1",
            task_arn: self.0.get("taskArn").cloned(),
        })
    }

    fn optional<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, StoreError> {
        self.0.get(name).map(|text| parse(name, text)).transpose()
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        serde_json::from_str(self.text(name)?).map_err(|error| StoreError::Unexpected(format!("{name}: {error}")))
    }
}
