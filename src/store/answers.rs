//! What the store's moves are given, and what they answer: a refusal is a value here like any other.

use std::time::Duration;

use serde::Serialize;

use super::reply::Details;
use crate::ids::{ContainerId, Owner, SessionId, UserId};
use crate::protocol::WaitingConnection;
use crate::session::{EndReason, Outlook, Session, SessionStatus};

/// The times and limits that sessions live by.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_pending: u64,
    /// 0: no limit.
    pub max_per_user: u64,
    /// How many sessions a user may create in a minute. 0: no limit.
    pub creates_per_minute: u64,
    /// The same of all that one project's keys create together. 0: no limit, as long as no record of a key says one.
    pub max_per_project: u64,
    pub project_creates_per_minute: u64,
    /// How long a session may wait for a container.
    pub queue_wait_ms: u64,
    /// How long a claimed session may wait for its browser.
    pub browser_wait_ms: u64,
    /// How long a ready session may wait for its first client.
    pub connect_wait_ms: u64,
    /// How long a session waits for a client to return.
    pub grace_ms: u64,
    /// How long an ended session is kept.
    pub retention_ms: u64,
    /// How often a session may be handed to a container before it is given up.
    pub max_leases: u64,
}

/// By what a create is known again when it is repeated. Keys and bodies are hashed.
#[derive(Debug, Clone)]
pub enum Idempotency {
    /// An `Idempotency-Key` and what it was sent with.
    Key { key: String, body: String },
    /// A client that sends no key, but says how often it has tried before.
    Attempt { body: String, attempt: u64 },
}

/// Which of an owner's sessions are listed.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub status: Option<SessionStatus>,
    /// Of those that have ended: why they did.
    pub reasons: Option<Vec<EndReason>>,
    pub metadata: Option<MetadataQuery>,
}

/// A text within `userMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MetadataQuery {
    pub path: Vec<String>,
    pub value: String,
}

/// What is left of how much a user, or all of a project, may create in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    pub limit: u64,
    pub left: u64,
    /// How long until all of it is there again.
    pub whole_in_ms: u64,
}

/// Whose limit it is that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    User,
    Project,
}

#[derive(Debug)]
pub enum Created {
    /// `launch` is the container whose start was reserved: start it, or give it back. Of several limits the one is told
    /// of which least is left.
    New {
        session: Session,
        launch: Option<ContainerId>,
        allowance: Option<Allowance>,
    },
    /// As many have been created within a minute as may be.
    TooFast {
        whose: Whose,
        allowance: Allowance,
        retry_ms: u64,
    },
    /// The same request made it before.
    Again(Session),
    /// The key was used with another body.
    Conflict,
    /// The same request made a session that is no longer kept.
    Forgotten,
    QueueFull(Outlook),
    /// As many live as may.
    Full(Whose),
}

/// What an owner's sessions have used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// How long those that have ended had a container.
    pub container_ms: u64,
    /// What went through their proxies, in both directions.
    pub proxy_bytes: u64,
}

/// What a move leaves behind whose answer never came (Redis hung, or the client went away): Redis may carry it
/// out all the same, and then there is a reservation nobody acts on, and perhaps a session nobody knows of.
#[derive(Debug, Clone)]
pub struct Unanswered {
    pub container: ContainerId,
    /// With its owner. None if nobody has created one, or its owner can come back for it: the repeated create is known
    /// again.
    pub unwanted: Option<(SessionId, Owner)>,
}

/// Why a container that was reserved does not come.
#[derive(Debug, Clone, Copy)]
pub enum NotComing<'a> {
    /// Nobody wants it, or ever tried to start it.
    Unwanted,
    /// The fleet was asked for too much, which says nothing of this one.
    Throttled,
    /// It was to come: what is known of why it does not.
    Failed(&'a str),
}

#[derive(Debug, Default)]
pub struct Claimed {
    pub sessions: Vec<(Session, Details)>,
    pub end: Vec<SessionId>,
    pub drain: bool,
    pub turn: Turn,
    /// Nobody waits for this answer any more.
    pub superseded: bool,
    /// Another process has come under the same id.
    pub replaced: bool,
}

/// How soon a waiting claim should look again by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Turn {
    /// The next session will be its container's, as it is the fullest that has room.
    Next,
    /// There is a session that is left to a fuller container, for a moment.
    Yields,
    #[default]
    Waits,
}

/// One of the looks that a claim takes while it waits.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// A name of the claim's own.
    pub claim: &'a str,
    /// Whether it is not the first.
    pub again: bool,
    /// For how long a session is left to a fuller container.
    pub yield_for: Duration,
}

#[derive(Debug)]
pub enum Connect {
    /// The connection is entered; dial `address`, and disconnect it when it ends.
    Ready {
        address: String,
        secret: String,
        expires_at_ms: u64,
        /// Whether a client has got through before; the first one to do so says so by `reach`.
        reached: bool,
    },
    /// Its browser is not there yet.
    Waiting,
    Ended(EndReason),
    Unknown,
    /// As many are connected as may be.
    Crowded,
}

/// A session, for those who only look at it.
#[derive(Debug)]
pub struct View {
    pub owner: Owner,
    /// Who created it.
    pub user: UserId,
    pub at: ViewedAt,
}

#[derive(Debug)]
pub enum ViewedAt {
    Ready {
        route: Route,
        expires_at_ms: u64,
    },
    /// Its browser is not there yet.
    Waiting,
    Ended(EndReason),
}

/// Where a session's container is reached, and what it must be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub session: SessionId,
    /// `host:port`.
    pub address: String,
    pub secret: String,
}

/// A session has a browser.
#[derive(Debug)]
pub struct Readied {
    pub since_created_ms: u64,
    /// The gateway's clients that were there before it.
    pub waiting: Vec<WaitingConnection>,
}

#[derive(Debug)]
pub enum Entered {
    /// With the way to its container, if the session has a browser.
    Now(Option<Route>),
    Ended(EndReason),
    Unknown,
    /// As many are connected as may be.
    Crowded,
}

#[derive(Debug)]
pub enum Routed {
    To {
        route: Route,
        /// The session will be nowhere else any more, and its messages are no longer kept.
        settled: bool,
    },
    /// The container gets it when there is one.
    Held,
    /// There is no container yet, and as much is kept as may be.
    Full,
    Unknown,
}

#[derive(Debug)]
pub enum Ended {
    Now(Session),
    Already(Session),
    /// Its container is being stopped, and another will serve it.
    Requeued,
    Unknown,
}

impl std::str::FromStr for Outcome {
    type Err = <EndReason as std::str::FromStr>::Err;
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        if word == "requeued" { Ok(Outcome::Requeued) } else { word.parse().map(Outcome::Ended) }
    }
}

/// Who wants a session to end.
#[derive(Debug, Clone, Copy)]
pub enum EndedBy<'a> {
    Owner(&'a Owner),
    Holder { container: &'a ContainerId, lease: u64 },
}

/// What became of a session whose container was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Requeued,
    Ended(EndReason),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Lost<T> {
    /// Given up, with what it took along.
    Now(Vec<T>),
    /// It gave a sign of life in the meantime.
    Alive,
    Unknown,
}

/// Where a page of sessions ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEnd {
    pub created_at_ms: u64,
    pub id: SessionId,
}
