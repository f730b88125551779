//! Projects. Each API key has one: that of its record, or else one that has its user's name. It is whose the sessions are,
//! so all that is answered here is true of all keys of the project together.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::parameters::DEFAULT_TIMEOUT;
use crate::app::App;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::ids::UserId;
use crate::routes::body::ProjectPath;

const MINUTE_MS: u64 = 60_000;

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Project")]
pub struct ProjectView {
    id: String,
    name: String,
    owner_id: UserId,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
    /// Seconds.
    default_timeout: u32,
    /// How many sessions may run at once, as far as the key that asks may have them.
    concurrency: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Usage")]
pub struct UsageView {
    /// Of sessions that have ended, each minute that was begun.
    browser_minutes: u64,
    /// What has gone through proxies, in both directions.
    proxy_bytes: u64,
}

fn view(app: &App, caller: &Caller) -> ProjectView {
    let id = caller.owner().id().to_owned();
    // Keys are configured, and nobody says since when.
    let unknown = rfc3339(0);
    let limits = caller.limits(&app.limits);
    // Not the least of all: there may be containers that others have started.
    let all = (app.policy.max_containers * app.policy.sessions_per_container).max(1);
    let most = [limits.max_per_user, limits.max_per_project].into_iter().filter(|most| *most > 0);
    ProjectView {
        name: id.clone(),
        id,
        owner_id: caller.user.clone(),
        created_at: unknown.clone(),
        updated_at: unknown,
        default_timeout: DEFAULT_TIMEOUT,
        concurrency: most.min().unwrap_or(all),
    }
}

/// Another's project is no project.
fn only_own(caller: &Caller, asked: &str) -> Result<(), ApiError> {
    if asked == caller.owner().id() {
        return Ok(());
    }
    Err(ApiError::project_not_found())
}

/// `GET /v1/projects`
pub async fn list_projects(State(app): State<App>, caller: Caller) -> Json<[ProjectView; 1]> {
    Json([view(&app, &caller)])
}

/// `GET /v1/projects/{project}`
pub async fn get_project(
    State(app): State<App>,
    caller: Caller,
    ProjectPath(asked): ProjectPath,
) -> Result<Json<ProjectView>, ApiError> {
    only_own(&caller, &asked)?;
    Ok(Json(view(&app, &caller)))
}

/// `GET /v1/projects/{project}/usage`: what its sessions have used.
pub async fn get_usage(
    State(app): State<App>,
    caller: Caller,
    ProjectPath(asked): ProjectPath,
) -> Result<Json<UsageView>, ApiError> {
    only_own(&caller, &asked)?;
    let used = app.store.usage(&caller.owner()).await?;
    Ok(Json(UsageView { browser_minutes: used.container_ms.div_ceil(MINUTE_MS), proxy_bytes: used.proxy_bytes }))
}
