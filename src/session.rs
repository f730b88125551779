//! A session: what it is, the states it may be in, and why it may end. No I/O.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::container::FleetPolicy;
use crate::ids::{ArchiveHash, ContainerId, Owner, ProjectId, SessionId, UserId};
use crate::protocol::ProxyCredentials;

/// How many clients may be connected to one session at a time. Each costs sockets on three machines; a swarm of agents
/// needs some dozens.
pub const MAX_CONNECTIONS: u64 = 100;

/// `pending -> active -> ended`, never backwards, with one exception: a claimed session that no client
/// has reached yet returns to `pending` when its container is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    Pending,
    Active,
    Ended,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The client asked for it, over HTTP or with CDP's `Browser.close`.
    Released,
    /// The last connection closed, and nobody came back within the grace time.
    Disconnected,
    /// Its time was up.
    Timeout,
    /// It was ready, and no client ever connected.
    NeverConnected,
    /// No container became free for it in time.
    QueueTimeout,
    /// The container that ran it died or stopped answering.
    ContainerLost,
    /// The browser ended by itself.
    BrowserCrashed,
    /// No browser could be started for it.
    FailedToStart,
}

impl EndReason {
    pub const ALL: [EndReason; 8] = [
        EndReason::Released,
        EndReason::Disconnected,
        EndReason::Timeout,
        EndReason::NeverConnected,
        EndReason::QueueTimeout,
        EndReason::ContainerLost,
        EndReason::BrowserCrashed,
        EndReason::FailedToStart,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Released => "released",
            EndReason::Disconnected => "disconnected",
            EndReason::Timeout => "timeout",
            EndReason::NeverConnected => "never_connected",
            EndReason::QueueTimeout => "queue_timeout",
            EndReason::ContainerLost => "container_lost",
            EndReason::BrowserCrashed => "browser_crashed",
            EndReason::FailedToStart => "failed_to_start",
        }
    }

    /// The WebSocket close code a connected client is told, and the sentence that goes with it.
    pub fn close_code(self) -> (u16, &'static str) {
        match self {
            EndReason::Timeout => (4001, "timeout: the session's time is up"),
            EndReason::Released => (4002, "released: the session was released"),
            EndReason::Disconnected => (4002, "disconnected: the session ended after its last connection closed"),
            EndReason::ContainerLost => (4003, "container_lost: the container that ran the session is gone"),
            EndReason::BrowserCrashed => (4003, "browser_crashed: the browser ended by itself"),
            EndReason::NeverConnected => (4004, "never_connected: no client connected in time"),
            EndReason::QueueTimeout => (4004, "queue_timeout: no container became free in time"),
            EndReason::FailedToStart => (4004, "failed_to_start: no browser could be started"),
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no status or reason.
#[derive(Debug, thiserror::Error)]
#[error("unknown {kind} {word:?}")]
pub struct UnknownWord {
    kind: &'static str,
    word: String,
}

impl FromStr for EndReason {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        EndReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == word)
            .ok_or_else(|| UnknownWord { kind: "end reason", word: word.to_owned() })
    }
}

impl SessionStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            SessionStatus::Pending => "pending",
            SessionStatus::Active => "active",
            SessionStatus::Ended => "ended",
        }
    }
}

impl FromStr for SessionStatus {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        [SessionStatus::Pending, SessionStatus::Active, SessionStatus::Ended]
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| UnknownWord { kind: "session status", word: word.to_owned() })
    }
}

/// A session as the store knows it. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub id: SessionId,
    pub user_id: UserId,
    /// That of the API key that created it.
    pub project: Option<ProjectId>,
    pub status: SessionStatus,
    pub created_at_ms: u64,
    /// The last time a client connected, disconnected or otherwise touched it.
    pub last_activity_ms: u64,
    /// When the container took it that it is in, or ended in.
    pub started_at_ms: Option<u64>,
    pub expires_at_ms: u64,
    pub timeout_ms: u64,
    pub keep_alive: bool,
    /// As the client sent them, but for what is secret.
    pub browser_settings: Map<String, Value>,
    /// The archive of the extension that they name. It is known from the start: what is uploaded is deleted again, too.
    pub extension: Option<ArchiveHash>,
    pub user_metadata: Map<String, Value>,
    pub container_id: Option<ContainerId>,
    pub task_arn: Option<String>,
    /// Whether its browser answers.
    pub ready: bool,
    pub active_connections: u64,
    /// How much has gone through its proxies, in both directions, as far as its containers have said.
    pub proxy_bytes: u64,
    /// From 1, while pending. Users take turns, so it can also grow.
    pub queue_position: Option<u64>,
    /// How long it may have to wait.
    pub outlook: Outlook,
    pub ended_at_ms: Option<u64>,
    pub end_reason: Option<EndReason>,
}

impl Session {
    pub fn owner(&self) -> Owner {
        Owner::of(&self.user_id, self.project.as_ref())
    }
}

/// What can be said of how long somebody will wait in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outlook {
    /// How many sessions left the queue for a container lately. Each counts for less as time goes by: to a third after a
    /// minute.
    pub lately: f64,
    /// When that was noted.
    pub at_ms: u64,
    /// Slots that are free: whoever finds one is served at once.
    pub free: u64,
    /// Containers that are on their way.
    pub starting: u64,
    /// When the first of them must have come.
    pub first_deadline_ms: u64,
    /// How long containers have taken to come lately; 0: none has.
    pub start_took_ms: u64,
}

impl Outlook {
    /// In which time what has been counted counts for a third of it (more exactly, 1/e).
    const FADES_MS: f64 = 60_000.0;
    /// When less than this is left, nothing is known any more.
    const UNKNOWN: f64 = 0.5;

    /// How long it takes until whoever has that place in the queue (from 1) has left it, in milliseconds: as long as the
    /// containers that are on their way still need, if they have room for it and come as others have come; or if it
    /// goes on like lately. `None` if there is nothing to go by.
    pub fn wait_ms(self, place: u64, policy: &FleetPolicy, now_ms: u64) -> Option<u64> {
        let before = place.saturating_sub(self.free);
        if before == 0 {
            return Some(0);
        }
        let fits = before <= self.starting.saturating_mul(policy.sessions_per_container);
        let began_ms = self.first_deadline_ms.saturating_sub(policy.start_wait_ms);
        let start = (fits && self.start_took_ms > 0).then(|| (began_ms + self.start_took_ms).saturating_sub(now_ms));
        [start, self.at_the_rate(before, now_ms)].into_iter().flatten().min()
    }

    fn at_the_rate(self, before: u64, now_ms: u64) -> Option<u64> {
        let age_ms = now_ms.saturating_sub(self.at_ms) as f64;
        // What comes in at a steady rate adds up to the rate times the fading time.
        let lately = self.lately * (-age_ms / Self::FADES_MS).exp();
        (lately >= Self::UNKNOWN).then(|| (before as f64 * Self::FADES_MS / lately) as u64)
    }
}

/// What a new session is made of.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub id: SessionId,
    pub user_id: UserId,
    pub project: Option<ProjectId>,
    pub timeout_ms: u64,
    pub keep_alive: bool,
    pub browser_settings: Map<String, Value>,
    /// What was taken out of them.
    pub proxy_credentials: Option<ProxyCredentials>,
    pub extension: Option<ArchiveHash>,
    pub user_metadata: Map<String, Value>,
}

impl NewSession {
    pub fn owner(&self) -> Owner {
        Owner::of(&self.user_id, self.project.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> FleetPolicy {
        FleetPolicy {
            sessions_per_container: 10,
            warm_slots: 0,
            min_containers: 0,
            max_containers: 10,
            start_wait_ms: 30_000,
            idle_ms: 300_000,
            lost_after_ms: 15_000,
            blind_after_ms: 5_000,
        }
    }

    #[test]
    fn a_queue_that_moves_steadily_is_reckoned_with_at_its_rate() {
        // Two a second, for ten minutes.
        let (mut lately, step_ms) = (0.0f64, 500u64);
        for _ in 0..1_200 {
            lately = lately * (-(step_ms as f64) / 60_000.0).exp() + 1.0;
        }
        let outlook = Outlook { lately, at_ms: 1_000_000, ..Outlook::default() };
        let policy = policy();
        let wait = outlook.wait_ms(10, &policy, 1_000_000).expect("known");
        assert!((4_800..5_200).contains(&wait), "{wait} ms for ten places");
        // While nobody is served the estimate grows, and in the end there is none.
        assert!(outlook.wait_ms(10, &policy, 1_060_000).expect("known") > 2 * wait);
        assert_eq!(outlook.wait_ms(10, &policy, 1_600_000), None);
        assert_eq!(Outlook::default().wait_ms(1, &policy, 1_000_000), None);
        let free = Outlook { free: 3, ..outlook };
        assert_eq!((free.wait_ms(3, &policy, 1_000_000), free.wait_ms(13, &policy, 1_000_000)), (Some(0), Some(wait)));
    }

    #[test]
    fn who_has_a_place_in_a_container_on_its_way_waits_as_long_as_others_took_to_come() {
        let policy = policy();
        // Asked for at 970 s, to be there by 1,000 s; the last ones took 20.
        let starting = Outlook { starting: 2, first_deadline_ms: 1_000_000, ..Outlook::default() };
        assert_eq!(starting.wait_ms(1, &policy, 975_000), None, "none has come yet: who knows");
        let outlook = Outlook { start_took_ms: 20_000, ..starting };
        assert_eq!(outlook.wait_ms(1, &policy, 975_000), Some(15_000));
        assert_eq!(outlook.wait_ms(20, &policy, 975_000), Some(15_000));
        assert_eq!(outlook.wait_ms(21, &policy, 975_000), None, "there is no room for it");
        assert_eq!(outlook.wait_ms(1, &policy, 995_000), Some(0), "at any moment");
        // Where others leave sooner, that is how it is served.
        let moving = Outlook { lately: 60.0, at_ms: 975_000, ..outlook };
        assert_eq!(moving.wait_ms(1, &policy, 975_000), Some(1_000));
    }

    #[test]
    fn every_end_reason_is_read_back_and_has_a_close_reason_that_fits_its_frame() {
        for reason in EndReason::ALL {
            assert_eq!(reason.as_str().parse::<EndReason>().ok(), Some(reason));
            let (code, text) = reason.close_code();
            assert!((4000..5000).contains(&code));
            // RFC 6455, 5.5: a control frame's payload holds at most 125 bytes, two of them the code.
            assert!(text.len() <= 123);
            assert!(text.starts_with(reason.as_str()));
        }
    }
}
