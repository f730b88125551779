//! A container: what registered itself, what the fleet is told to start, and how many there should be.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::ids::{ContainerId, ServerId};
use crate::session::Outlook;

/// A container as the registry knows it. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: ContainerId,
    pub active_sessions: u64,
    pub max_sessions: u64,
    pub last_heartbeat_ms: u64,
    /// Since when it has had no session; means something only while it has none.
    pub idle_since_ms: u64,
    pub started_at_ms: u64,
    pub draining: bool,
    /// Whether the control plane started it, or somebody by hand.
    pub launched: bool,
    /// Its task in ECS, by its own account.
    pub task_arn: Option<String>,
}

/// The sessions that wait for a container.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Queue {
    pub length: u64,
    /// Of how many users.
    pub users: u64,
    /// Since when the one that came first of them waits.
    pub since_ms: Option<u64>,
    /// How fast it moves.
    pub outlook: Outlook,
}

/// All that is known of the fleet at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetSnapshot {
    /// Since when heartbeats could be observed without a gap.
    pub watched_since_ms: u64,
    /// When the fleet was last looked at; 0: never.
    pub looked_at_ms: u64,
    pub queue: Queue,
    /// Sessions the containers that take work could hold in all, and those they hold.
    pub slots: u64,
    pub used: u64,
    /// Whether what was counted was not what there is, as after somebody has changed something by hand. It is put right.
    pub mended: bool,
    pub containers: Vec<Container>,
    /// Containers that were reserved, and when each must have come.
    pub starting: Vec<(ContainerId, u64)>,
    /// Servers, and when each beat last.
    pub servers: Vec<(ServerId, u64)>,
    pub failed_starts: FailedStarts,
}

/// Containers that were to come and did not, or were gone before they were of any use, since one last was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailedStarts {
    /// How many attempts in a row. Several containers that fail together are one.
    pub attempts: u64,
    /// When the next attempt may be made.
    pub hold_until_ms: u64,
    pub last_at_ms: u64,
    pub last_why: String,
    /// When more may be asked of the fleet, of which too much was asked. No failure of a container.
    pub throttled_until_ms: u64,
}

/// What a fleet says it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetListing {
    /// When it was asked. What changed after that may be in the list or not.
    pub taken_at_ms: u64,
    /// Whether a container that was launched, and is not in the list, does not run. A server knows only of its own
    /// child processes.
    pub whole: bool,
    pub tasks: Vec<FleetTask>,
}

/// Who had a task started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedBy {
    Us,
    /// A service of ECS, which starts another when it ends.
    Service,
}

/// Something a fleet runs, or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetTask {
    /// What it was told to be, or, of a service's, what its reservation is called.
    #[serde(rename = "containerId")]
    pub container: ContainerId,
    /// The fleet's own name for it, if it has one.
    pub task: Option<String>,
    /// When it was asked for.
    #[serde(skip)]
    pub started_at_ms: u64,
    #[serde(skip)]
    pub started_by: StartedBy,
}

/// How many containers there should be, and when one counts as idle or lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetPolicy {
    pub sessions_per_container: u64,
    /// Free slots to keep at hand.
    pub warm_slots: u64,
    pub min_containers: u64,
    pub max_containers: u64,
    /// How long a reserved container may take to come.
    pub start_wait_ms: u64,
    /// How long a container may be without sessions.
    pub idle_ms: u64,
    /// How long a container or server may be silent.
    pub lost_after_ms: u64,
    /// A longer gap between two looks means that nobody was looking. With the heartbeat that was due when it
    /// began, and the pause after which the next is tried, it must stay below `lost_after_ms`.
    pub blind_after_ms: u64,
}

impl FleetPolicy {
    /// The part the scripts decide by.
    pub fn as_json(&self) -> Value {
        json!({
            "sessions_per_container": self.sessions_per_container,
            "warm_slots": self.warm_slots,
            "min_containers": self.min_containers,
            "max_containers": self.max_containers,
        })
    }
}

/// How a claim waits.
#[derive(Debug, Clone, Copy)]
pub struct ClaimPace {
    /// How often it looks by itself. The one whose turn is next looks four times as often.
    pub look: Duration,
    /// For how long it leaves a session to a fuller container.
    pub yield_for: Duration,
}

/// What a container is started with: one list, whoever starts it, so that what runs locally has what it
/// gets in the cloud.
#[derive(Clone)]
pub struct LaunchSpec {
    pub container_id: ContainerId,
    /// Opens only this container's own routes.
    pub token: String,
    /// Where it asks for work.
    pub api_endpoint: String,
    pub max_sessions: u64,
    pub warm_browsers: u32,
    pub heartbeat: Duration,
}

impl LaunchSpec {
    /// The variables by which `wallcrawler container` is told who it is.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CONTAINER_ID", self.container_id.to_string()),
            ("CONTAINER_TOKEN", self.token.clone()),
            ("CONTAINER_LAUNCHED", "true".to_owned()),
            ("API_ENDPOINT", self.api_endpoint.clone()),
            ("MAX_SESSIONS", self.max_sessions.to_string()),
            ("WARM_BROWSERS", self.warm_browsers.to_string()),
            ("HEARTBEAT_SECONDS", self.heartbeat.as_secs_f64().to_string()),
        ]
    }
}

impl std::fmt::Debug for LaunchSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaunchSpec").field("container_id", &self.container_id).finish_non_exhaustive()
    }
}
