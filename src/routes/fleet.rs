//! What operators see: the containers, the queue, what a look would do now and what the last ones did.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::auth::Operator;
use crate::clock::{now_ms, rfc3339};
use crate::container::{Container, FailedStarts, FleetPolicy, FleetSnapshot};
use crate::error::ApiError;
use crate::ids::{ContainerId, ServerId};
use crate::scaling::{self, Plan};

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Fleet")]
pub struct FleetView {
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// When somebody last looked at the fleet to act on it, and since when without a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    looked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    watched_since: Option<String>,
    queue: QueueView,
    slots: SlotsView,
    containers: Vec<ContainerView>,
    starting: Vec<StartingView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_starts: Option<FailedStartsView>,
    /// Until when none is started, as too much was asked of the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    throttled_until: Option<String>,
    servers: Vec<ServerView>,
    policy: PolicyView,
    /// What a look at this moment would do, were the fleet itself not asked.
    plan: Plan,
    /// The last looks that did something, newest first.
    decisions: Vec<Value>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetQueue")]
struct QueueView {
    length: u64,
    users: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// How long a session would wait that came now, if it goes on as lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_wait_ms: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FleetSlots")]
struct SlotsView {
    total: u64,
    used: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetContainer")]
struct ContainerView {
    container_id: ContainerId,
    status: &'static str,
    active_sessions: u64,
    max_sessions: u64,
    #[schemars(extend("format" = "date-time"))]
    started_at: String,
    #[schemars(extend("format" = "date-time"))]
    last_heartbeat: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    idle_since: Option<String>,
    /// Whether the control plane started it.
    launched: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_arn: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetStarting")]
struct StartingView {
    container_id: ContainerId,
    /// When it is given up.
    #[schemars(extend("format" = "date-time"))]
    deadline: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FailedStarts")]
struct FailedStartsView {
    attempts: u64,
    #[schemars(extend("format" = "date-time"))]
    last_at: String,
    last_error: String,
    #[schemars(extend("format" = "date-time"))]
    next_attempt_at: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetServer")]
struct ServerView {
    server_id: ServerId,
    #[schemars(extend("format" = "date-time"))]
    last_heartbeat: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FleetPolicy")]
struct PolicyView {
    max_sessions_per_container: u64,
    min_containers: u64,
    max_containers: u64,
    warm_slots: u64,
    container_idle_ms: u64,
    start_timeout_ms: u64,
    lost_after_ms: u64,
}

/// `GET /fleet`
pub async fn show_fleet(_: Operator, State(app): State<App>) -> Result<Json<FleetView>, ApiError> {
    let now_ms = now_ms();
    let (snapshot, decisions) = app.store.show_fleet(now_ms).await?;
    let plan = scaling::plan(&snapshot, None, &app.policy, now_ms);
    Ok(Json(view(snapshot, plan, decisions, &app.policy, now_ms)))
}

fn view(fleet: FleetSnapshot, plan: Plan, decisions: Vec<Value>, policy: &FleetPolicy, now_ms: u64) -> FleetView {
    let silent = |container: &Container| container.last_heartbeat_ms + policy.lost_after_ms <= now_ms;
    let queue = fleet.queue;
    FleetView {
        at: rfc3339(now_ms),
        looked_at: Some(fleet.looked_at_ms).filter(|ms| *ms > 0).map(rfc3339),
        watched_since: Some(fleet.watched_since_ms).filter(|ms| *ms > 0).map(rfc3339),
        throttled_until: Some(fleet.failed_starts.throttled_until_ms).filter(|ms| *ms > now_ms).map(rfc3339),
        queue: QueueView {
            length: queue.length,
            users: queue.users,
            since: queue.since_ms.map(rfc3339),
            estimated_wait_ms: queue.outlook.wait_ms(queue.length + 1, policy, now_ms),
        },
        slots: SlotsView { total: fleet.slots, used: fleet.used },
        containers: fleet
            .containers
            .into_iter()
            .map(|container| ContainerView {
                status: match (silent(&container), container.draining) {
                    (true, _) => "silent",
                    (false, true) => "draining",
                    (false, false) => "serving",
                },
                active_sessions: container.active_sessions,
                max_sessions: container.max_sessions,
                started_at: rfc3339(container.started_at_ms),
                last_heartbeat: rfc3339(container.last_heartbeat_ms),
                idle_since: (container.active_sessions == 0).then(|| rfc3339(container.idle_since_ms)),
                launched: container.launched,
                container_id: container.id,
                task_arn: container.task_arn,
            })
            .collect(),
        starting: fleet
            .starting
            .into_iter()
            .map(|(container_id, deadline_ms)| StartingView { container_id, deadline: rfc3339(deadline_ms) })
            .collect(),
        failed_starts: (fleet.failed_starts.attempts > 0).then(|| failed(fleet.failed_starts)),
        servers: fleet
            .servers
            .into_iter()
            .map(|(server_id, last_ms)| ServerView { server_id, last_heartbeat: rfc3339(last_ms) })
            .collect(),
        policy: PolicyView {
            max_sessions_per_container: policy.sessions_per_container,
            min_containers: policy.min_containers,
            max_containers: policy.max_containers,
            warm_slots: policy.warm_slots,
            container_idle_ms: policy.idle_ms,
            start_timeout_ms: policy.start_wait_ms,
            lost_after_ms: policy.lost_after_ms,
        },
        plan,
        decisions,
    }
}

fn failed(failed: FailedStarts) -> FailedStartsView {
    FailedStartsView {
        attempts: failed.attempts,
        last_at: rfc3339(failed.last_at_ms),
        last_error: failed.last_why,
        next_attempt_at: rfc3339(failed.hold_until_ms),
    }
}
