//! What must be true when the dust has settled, whatever has happened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::audit::Contents;
use crate::client::Ledger;
use crate::plan::Script;
use crate::stage::{Stage, directory};

/// After so many containers a session is given up.
const MAX_LEASES: u64 = 3;

/// Two seconds are promised; a machine full of browsers may take longer for once.
const REFUSAL_MS: f64 = 3_000.0;

/// A line of some process's log.
struct Line {
    message: String,
    fields: Value,
}

pub struct Verdict<'a> {
    stage: &'a Stage,
    ledger: &'a Ledger,
    log: Vec<Line>,
    contents: Contents,
}

fn leases(session: &BTreeMap<String, String>) -> u64 {
    session.get("lease").and_then(|lease| lease.parse().ok()).unwrap_or_default()
}

impl<'a> Verdict<'a> {
    pub fn new(stage: &'a Stage, ledger: &'a Ledger, contents: Contents) -> Self {
        let read = |line: &String| {
            let fields: Value = serde_json::from_str(line).ok()?;
            Some(Line { message: fields["message"].as_str()?.to_owned(), fields })
        };
        Self { stage, ledger, log: stage.log_lines().iter().filter_map(read).collect(), contents }
    }

    fn logged(&self, message: &str) -> impl Iterator<Item = (&str, &Value)> {
        let lines = self.log.iter().filter(move |line| line.message == message);
        lines.filter_map(|line| Some((line.fields["session.id"].as_str()?, &line.fields)))
    }

    pub fn reach(&self) {
        self.every_session_is_accounted_for();
        self.every_end_has_its_reason();
        self.nobody_was_served_twice();
        self.refusals_come_in_time();
        self.nothing_is_left_in_redis();
    }

    /// By the servers' own clocks: one that is just being started lets its first clients wait.
    fn refusals_come_in_time(&self) {
        for Line { fields, .. } in self.log.iter().filter(|line| line.message == "request") {
            // These wait before they ask.
            let waits = ["/sessions/claim", "/cdp"].iter().any(|route| fields["route"] == *route);
            if fields["status"] == 503 && !waits && fields["duration_ms"].as_f64() > Some(REFUSAL_MS) {
                self.ledger.violation(None, format!("it was refused late: {fields}"));
            }
        }
    }

    /// Answered, or made by a create whose client never had an answer; and one for each `Idempotency-Key`.
    fn every_session_is_accounted_for(&self) {
        let records = self.ledger.records.lock().expect("not poisoned");
        let sessions = self.contents.sessions();
        for id in records.keys().filter(|id| !sessions.contains_key(*id)) {
            self.ledger.violation(Some(id), "it was answered with 201, and is not in redis".to_owned());
        }
        let mut unanswered = self.ledger.unanswered.lock().expect("not poisoned").clone();
        let mut made: BTreeMap<String, usize> = BTreeMap::new();
        for (id, hash) in &sessions {
            let metadata: Value = serde_json::from_str(&hash["userMetadata"]).unwrap_or_default();
            if let Some(key) = metadata["made"].as_str() {
                *made.entry(key.to_owned()).or_default() += 1;
            } else if !records.contains_key(id) {
                let left = unanswered.entry(metadata["client"].as_str().unwrap_or_default().to_owned()).or_default();
                if *left == 0 {
                    self.ledger.violation(Some(id), "nobody has asked for it".to_owned());
                }
                *left = left.saturating_sub(1);
            }
        }
        for (key, count) in made.iter().filter(|(_, count)| **count > 1) {
            self.ledger.violation(None, format!("the Idempotency-Key {key} made {count} sessions"));
        }
    }

    /// A reason that somebody gave cause for.
    fn every_end_has_its_reason(&self) {
        let homes = self.stage.homes();
        let connected: BTreeSet<&str> = self.logged("client connected").map(|(id, _)| id).collect();
        let sessions = self.contents.sessions();
        for record in self.ledger.records.lock().expect("not poisoned").values() {
            let Some(hash) = sessions.get(&record.id) else { continue };
            let reason = hash.get("endReason").map_or("none", String::as_str);
            let container = hash.get("containerId").map_or("", |container| directory(container));
            let ended_ms = hash.get("endedAt").and_then(|at| at.parse().ok()).unwrap_or_default();
            let browser_hit = || self.stage.browser_was_hit(container, ended_ms);
            let home_hit = || homes.get(container).is_none_or(|home| self.stage.was_hit(home, ended_ms));
            // Who hangs up has perhaps just got through, and nobody was left to tell.
            let reached = connected.contains(record.id.as_str()) || record.script == Script::Impatient;
            let connects = !matches!(record.script, Script::NeverConnects | Script::ThinksBetter);
            let due = match reason {
                "released" => record.asked_for_end,
                // A client on an open socket is told so only by a server that nobody has heard of.
                "disconnected" => {
                    let told = record.told.contains(reason);
                    record.left && reached && (!told || self.stage.was_partitioned(ended_ms))
                }
                "never_connected" => matches!(record.script, Script::NeverConnects | Script::Impatient),
                // Of whom nobody has reached yet another container takes care. When the answer was lost to a server
                // that had noted it, the client was refused, and the note stays.
                "container_lost" => {
                    let noted = reached || (connects && self.stage.answers_were_lost(ended_ms));
                    noted && (self.stage.was_hit(container, ended_ms) || home_hit())
                }
                "browser_crashed" => browser_hit(),
                "failed_to_start" => browser_hit() || leases(hash) >= MAX_LEASES,
                _ => false,
            };
            if !due {
                self.ledger.violation(Some(&record.id), format!("it ended, {reason}, without cause: {record:?}"));
            }
            for told in record.told.iter().filter(|told| *told != reason) {
                self.ledger.violation(Some(&record.id), format!("its client was told {told}, and it ended, {reason}"));
            }
        }
    }

    /// One container for each lease, one browser for each session, and that of the container that holds it.
    fn nobody_was_served_twice(&self) {
        let mut holders: BTreeMap<(&str, u64), BTreeSet<&str>> = BTreeMap::new();
        for (id, fields) in self.logged("session claimed") {
            let (lease, container) = (fields["lease"].as_u64(), fields["container.id"].as_str());
            holders.entry((id, lease.unwrap_or_default())).or_default().insert(container.unwrap_or_default());
        }
        for ((id, lease), containers) in holders.iter().filter(|(_, containers)| containers.len() > 1) {
            self.ledger.violation(Some(id), format!("its lease {lease} was given to {containers:?}"));
        }
        let last: BTreeMap<&str, &str> =
            holders.iter().filter_map(|((id, _), containers)| Some((*id, *containers.first()?))).collect();
        let mut served: BTreeMap<&str, &str> = BTreeMap::new();
        let records = self.ledger.records.lock().expect("not poisoned");
        for record in records.values() {
            if record.browsers.len() > 1 {
                self.ledger.violation(Some(&record.id), format!("several browsers answered: {:?}", record.browsers));
            }
            for browser in &record.browsers {
                let holder = last.get(record.id.as_str()).map(|container| directory(container));
                if holder != browser.split('/').next() {
                    let what = format!("{browser} answered, and {holder:?} was the last to claim it");
                    self.ledger.violation(Some(&record.id), what);
                }
                if let Some(other) = served.insert(browser, &record.id) {
                    self.ledger.violation(Some(&record.id), format!("{browser} has also served {other}"));
                }
            }
        }
        let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
        self.logged("session ended").for_each(|(id, _)| *ended.entry(id).or_default() += 1);
        for (id, count) in ended.into_iter().filter(|(_, count)| *count > 1) {
            self.ledger.violation(Some(id), format!("it ended {count} times"));
        }
    }

    /// Ended sessions, which are kept for a while, and what tells of them.
    fn nothing_is_left_in_redis(&self) {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.contents.check())) {
            let text =
                panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            self.ledger.violation(None, format!("redis does not fit together: {}", text.unwrap_or_default()));
        }
        for (id, hash) in self.contents.sessions() {
            if hash["status"] != "ended" {
                self.ledger.violation(Some(&id), format!("it has not ended: {hash:?}"));
            }
        }
        let kept = |key: &str| {
            (key.starts_with("session:") && key.matches(':').count() == 1)
                || ((key.starts_with("user:") || key.starts_with("project:")) && key.ends_with(":sessions"))
                || key.starts_with("idempotency:")
                || ["fleet", "usage", "fleet-decisions", "session-retention"].contains(&key)
        };
        let contents = &self.contents;
        let keys = contents.hashes.keys().chain(contents.sets.keys()).chain(contents.sorted.keys());
        let left: Vec<_> = keys.chain(contents.lists.keys()).chain(&contents.texts).filter(|key| !kept(key)).collect();
        if !left.is_empty() {
            self.ledger
                .violation(None, format!("left in redis: {left:?}, servers {:?}", contents.sorted.get("servers")));
        }
        let fleet = contents.hashes.get("fleet").cloned().unwrap_or_default();
        for name in ["slots", "used"] {
            if fleet.get(name).is_some_and(|count| count != "0") {
                self.ledger.violation(None, format!("the fleet has {} {name}", fleet[name]));
            }
        }
    }

    /// What became of all sessions, for people.
    pub fn print(&self) {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let sessions = self.contents.sessions();
        for hash in sessions.values() {
            *reasons.entry(hash.get("endReason").cloned().unwrap_or_else(|| hash["status"].clone())).or_default() += 1;
        }
        let records = self.ledger.records.lock().expect("not poisoned");
        let served = records.values().filter(|record| !record.browsers.is_empty()).count();
        let by_real = |record: &&crate::client::Record| record.browsers.iter().any(|name| name.starts_with("ctr-real"));
        let real = records.values().filter(by_real).count();
        let moved = sessions.values().filter(|hash| leases(hash) > 1).count();
        let longest = records.values().filter_map(|record| record.served_after).max().unwrap_or_default();
        println!(
            "\nsessions: {} in redis, {} answered with 201, {served} served ({real} by Chromium), {moved} by their second container or later",
            sessions.len(),
            records.len()
        );
        reasons.iter().for_each(|(reason, count)| println!("  {reason:<16} {count:>6}"));
        println!("  longest wait for a browser: {:.1} s", longest.as_secs_f64());
        println!("\nfaults: (audits of redis under way: {})", self.stage.audits.lock().expect("not poisoned"));
        let struck = self.stage.struck.lock().expect("not poisoned");
        struck.iter().for_each(|(kind, count)| println!("  {:<24} {count:>6}", format!("{kind:?}")));
        println!("\nrequests, by status (0: no answer, the connection broke or was given up):");
        let mut by_request: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let answers = self.ledger.answers.lock().expect("not poisoned");
        for ((request, status), count) in answers.iter() {
            by_request.entry(request).or_default().push(format!("{status}: {count}"));
        }
        by_request.iter().for_each(|(request, counts)| println!("  {request:<24} {}", counts.join(", ")));
        let slowest = self.ledger.slowest_refusal.lock().expect("not poisoned");
        println!("  slowest 503: {:.2} s", slowest.as_secs_f64());
    }

    /// What the logs and the faults say of a session, in order.
    pub fn history(&self, id: &str) {
        println!("\nhistory of {id}:");
        let lines = self.log.iter().filter(|line| line.fields["session.id"] == id);
        lines.for_each(|line| println!("  {}", line.fields));
    }
}
