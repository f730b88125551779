//! Reads a whole Redis and checks that everything in it fits together: every index agrees with what it
//! indexes, every counter with what it counts, and no key is there that nothing accounts for.

use std::collections::{BTreeMap, BTreeSet};

use fred::prelude::Client as RedisClient;
use fred::types::Value;

use crate::world::redis_command;

type Hash = BTreeMap<String, String>;

/// All that one Redis holds, by key.
#[derive(Debug, Default)]
pub struct Contents {
    pub hashes: BTreeMap<String, Hash>,
    pub sets: BTreeMap<String, BTreeSet<String>>,
    pub sorted: BTreeMap<String, Vec<(String, f64)>>,
    pub lists: BTreeMap<String, Vec<String>>,
    pub texts: BTreeSet<String>,
}

fn texts(value: Value) -> Vec<String> {
    value.into_array().into_iter().map(|item| item.into_string().expect("a text")).collect()
}

fn pairs(value: Value) -> Vec<(String, String)> {
    match value {
        Value::Map(map) => map
            .inner()
            .into_iter()
            .map(|(key, value)| (key.into_string().expect("a text"), value.into_string().expect("a text")))
            .collect(),
        other => {
            let flat = texts(other);
            flat.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        }
    }
}

impl Contents {
    pub async fn read(redis: &RedisClient) -> Self {
        Self::read_below(redis, "").await
    }

    /// What one control plane of several has there, by its keys without their prefix.
    pub async fn read_below(redis: &RedisClient, prefix: &str) -> Self {
        let mut contents = Self::default();
        for whole in texts(redis_command(redis, &["KEYS", "*"]).await) {
            let Some(key) = whole.strip_prefix(prefix).map(str::to_owned) else { continue };
            match redis_command(redis, &["TYPE", &whole]).await.into_string().expect("a type").as_str() {
                "hash" => {
                    let hash = pairs(redis_command(redis, &["HGETALL", &whole]).await).into_iter().collect();
                    contents.hashes.insert(key, hash);
                }
                "set" => {
                    let members = texts(redis_command(redis, &["SMEMBERS", &whole]).await).into_iter().collect();
                    contents.sets.insert(key, members);
                }
                "zset" => {
                    let members = pairs(redis_command(redis, &["ZRANGE", &whole, "0", "-1", "WITHSCORES"]).await);
                    let members =
                        members.into_iter().map(|(member, score)| (member, score.parse().expect("a score"))).collect();
                    contents.sorted.insert(key, members);
                }
                "list" => {
                    contents.lists.insert(key, texts(redis_command(redis, &["LRANGE", &whole, "0", "-1"]).await));
                }
                "string" => {
                    contents.texts.insert(key);
                }
                // It expired between the two questions.
                "none" => {}
                other => panic!("{whole} is a {other}"),
            }
        }
        contents
    }

    fn set(&self, key: &str) -> BTreeSet<String> {
        self.sets.get(key).cloned().unwrap_or_default()
    }

    pub fn members(&self, key: &str) -> BTreeSet<String> {
        self.sorted
            .get(key)
            .map(|members| members.iter().map(|(member, _)| member.clone()).collect())
            .unwrap_or_default()
    }

    /// The sessions that wait, in the order in which they will be served.
    pub fn queue(&self) -> Vec<String> {
        self.sorted
            .get("pending-order")
            .map(|members| members.iter().map(|(member, _)| member.clone()).collect())
            .unwrap_or_default()
    }

    pub fn sessions(&self) -> BTreeMap<String, &Hash> {
        let is_session = |key: &str| key.strip_prefix("session:").filter(|id| !id.contains(':')).map(str::to_owned);
        self.hashes.iter().filter_map(|(key, hash)| Some((is_session(key)?, hash))).collect()
    }

    /// Panics unless everything fits together.
    pub fn check(&self) {
        let mut accounted: BTreeSet<String> = ["fleet", "usage", "dev-jwe-secret"].map(str::to_owned).into();
        let sessions = self.sessions();
        let with_status = |status: &str| -> BTreeSet<String> {
            sessions.iter().filter(|(_, hash)| hash["status"] == status).map(|(id, _)| id.clone()).collect()
        };
        let (pending, active, ended) = (with_status("pending"), with_status("active"), with_status("ended"));

        // The queue: each pending session stands in the index and in the list.
        assert_eq!(self.members("pending-order"), pending, "the queue's index");
        let listed: BTreeSet<&String> = self.lists.get("pending-sessions").into_iter().flatten().collect();
        assert!(pending.iter().all(|id| listed.contains(id)), "the queue's list has all who wait");
        let mut waiting: Hash = Hash::new();
        for id in &pending {
            let count = waiting.get(&sessions[id]["userId"]).map_or(0, |count| count.parse().expect("a number")) + 1u64;
            waiting.insert(sessions[id]["userId"].clone(), count.to_string());
        }
        assert_eq!(self.hashes.get("pending-users").cloned().unwrap_or_default(), waiting, "who waits how often");
        let turns = self.hashes.get("pending-turns").cloned().unwrap_or_default();
        assert!(turns.keys().all(|user| waiting.contains_key(user)), "who does not wait has no turn");

        for id in &ended {
            let secrets: Vec<_> =
                ["cdpSecret", "proxyCredentials"].into_iter().filter(|name| sessions[id].contains_key(*name)).collect();
            assert!(secrets.is_empty(), "{id} has ended, and {secrets:?} is kept");
        }

        let live: BTreeSet<String> = pending.union(&active).cloned().collect();
        assert_eq!(self.members("session-deadlines"), live, "every live session has a deadline, and no other");
        assert_eq!(self.members("session-retention"), ended, "every ended session will be forgotten");
        // Each session is listed as its project's or else its user's, and what lives of a project's as its user's, too.
        let mut lists: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, hash) in &sessions {
            let user = format!("user:{}", hash["userId"]);
            let project = hash.get("projectId").map(|project| format!("project:{project}"));
            let lives = [Some(&user), project.as_ref()].into_iter().flatten().filter(|_| live.contains(id));
            let listed = lives.map(|owner| format!("{owner}:live"));
            for list in listed.chain([format!("{}:sessions", project.as_ref().unwrap_or(&user))]) {
                lists.entry(list).or_default().insert(id.clone());
            }
        }
        let is_of_an_owner = |key: &&String| key.starts_with("user:") || key.starts_with("project:");
        let listed: BTreeMap<String, BTreeSet<String>> =
            self.sorted.keys().filter(is_of_an_owner).map(|key| (key.clone(), self.members(key))).collect();
        assert_eq!(listed, lists, "the sessions of users and of projects");

        let (mut slots, mut used, mut draining) = (0, 0, 0);
        let mut open = BTreeMap::new();
        let mut held_by_any = BTreeSet::new();
        for id in self.members("containers") {
            let hash = &self.hashes[&format!("container:{id}")];
            let held = self.set(&format!("container:{id}:sessions"));
            assert_eq!(hash["activeSessions"], held.len().to_string(), "{id} counts its sessions");
            if hash["draining"] == "0" {
                slots += hash["maxSessions"].parse::<i64>().expect("a number");
                used += i64::try_from(held.len()).expect("few");
                if held.len() < hash["maxSessions"].parse().expect("a number") {
                    open.insert(id.clone(), held.len());
                }
            } else {
                draining += 1;
            }
            for session in &held {
                assert_eq!(sessions[session].get("containerId"), Some(&id), "{session} knows who holds it");
                assert!(held_by_any.insert(session.clone()), "{session} is held twice");
            }
            accounted.extend([format!("container:{id}"), format!("container:{id}:sessions")]);
        }
        assert_eq!(held_by_any, active, "every active session is held, and no other");
        let noted: BTreeMap<String, usize> = self
            .sorted
            .get("containers-open")
            .into_iter()
            .flatten()
            .map(|(id, held)| (id.clone(), *held as usize))
            .collect();
        assert_eq!(noted, open, "the containers with room, and how many sessions they hold");
        let fleet = self.hashes.get("fleet").cloned().unwrap_or_default();
        let count = |name: &str| fleet.get(name).map_or(0, |count| count.parse::<i64>().expect("a number"));
        assert_eq!((count("slots"), count("used")), (slots, used), "the fleet's slots and used slots");
        assert_eq!(count("draining"), draining, "the containers that drain");

        let mut connections = BTreeSet::new();
        let number = |hash: &Hash, name: &str| hash.get(name).map_or(0, |count| count.parse().expect("a number"));
        for id in &live {
            let mut held: (usize, usize) = (0, 0);
            for connection in self.set(&format!("session:{id}:connections")) {
                let hash = &self.hashes[&format!("connection:{connection}")];
                assert_eq!(&hash["sessionId"], id);
                accounted.insert(format!("connection:{connection}"));
                if hash.contains_key("gateway") {
                    let key = format!("connection:{connection}:messages");
                    let kept = self.lists.get(&key).cloned().unwrap_or_default();
                    let bytes: usize = kept.chunks(2).map(|message| message[1].len()).sum();
                    assert_eq!(number(hash, "heldBytes"), bytes, "{connection} counts what is kept for it");
                    held = (held.0 + kept.len() / 2, held.1 + bytes);
                    accounted.insert(key);
                    continue;
                }
                assert!(self.set(&format!("server:{}:connections", hash["serverId"])).contains(&connection));
                accounted.insert(format!("server:{}:connections", hash["serverId"]));
                connections.insert(connection);
            }
            let counted = (number(sessions[id], "heldMessages"), number(sessions[id], "heldBytes"));
            assert_eq!(counted, held, "{id} counts what is kept for its clients");
            accounted.insert(format!("session:{id}:connections"));
        }
        let carried: BTreeSet<String> =
            self.sets.iter().filter(|(key, _)| key.starts_with("server:")).flat_map(|(_, set)| set.clone()).collect();
        assert_eq!(carried, connections, "the servers' connections");

        accounted.extend(sessions.keys().map(|id| format!("session:{id}")));
        accounted.extend(lists.into_keys());
        let kept_by_time = |key: &&String| key.starts_with("idempotency:") || key.ends_with(":rate");
        accounted.extend(self.hashes.keys().filter(kept_by_time).cloned());
        let repeats = self.sorted.keys().chain(self.hashes.keys()).filter(|key| key.starts_with("repeats:"));
        accounted.extend(repeats.cloned());
        let indexes = ["pending-sessions", "pending-order", "session-deadlines", "session-retention", "containers"];
        accounted.extend(indexes.map(str::to_owned));
        accounted.extend(
            [
                "containers-starting",
                "servers",
                "connections-closing",
                "pending-turns",
                "pending-users",
                "fleet-decisions",
                "containers-open",
            ]
            .map(str::to_owned),
        );
        let all: BTreeSet<&String> = self
            .hashes
            .keys()
            .chain(self.sets.keys())
            .chain(self.sorted.keys())
            .chain(self.lists.keys())
            .chain(&self.texts)
            .collect();
        let stray: Vec<_> = all.into_iter().filter(|key| !accounted.contains(*key)).collect();
        assert!(stray.is_empty(), "keys that nothing accounts for: {stray:?}");
    }
}
