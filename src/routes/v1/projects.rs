//! Projects. Each API key has one: that of its record, or else one that has its user's name.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::parameters::DEFAULT_TIMEOUT;
use crate::app::App;
use crate::auth::Caller;
use crate::clock::rfc3339;
use crate::error::ApiError;
use crate::ids::{ProjectId, UserId};
use crate::routes::body::ProjectPath;

const MINUTE_MS: u64 = 60_000;

/// What clients call the project.
pub fn id(user: &UserId, project: Option<&ProjectId>) -> String {
    project.map_or(user.as_str(), ProjectId::as_str).to_owned()
}

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
    /// How many sessions may run at once.
    concurrency: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Usage")]
pub struct UsageView {
    /// Of sessions that have ended, each minute that was begun.
    browser_minutes: u64,
    /// Traffic is not counted here.
    proxy_bytes: u64,
}

fn view(app: &App, caller: &Caller) -> ProjectView {
    let id = id(&caller.user, caller.project.as_ref());
    // Keys are configured, and nobody says since when.
    let unknown = rfc3339(0);
    let own = caller.limits(&app.limits).max_per_user;
    let all = app.policy.max_containers * app.policy.sessions_per_container;
    ProjectView {
        name: id.clone(),
        id,
        owner_id: caller.user.clone(),
        created_at: unknown.clone(),
        updated_at: unknown,
        default_timeout: DEFAULT_TIMEOUT,
        concurrency: if own > 0 { own } else { all.max(1) },
    }
}

/// Another's project is no project.
fn only_own(caller: &Caller, asked: &str) -> Result<(), ApiError> {
    if asked == id(&caller.user, caller.project.as_ref()) {
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

/// `GET /v1/projects/{project}/usage`: what the caller's sessions of it have used.
pub async fn get_usage(
    State(app): State<App>,
    caller: Caller,
    ProjectPath(asked): ProjectPath,
) -> Result<Json<UsageView>, ApiError> {
    only_own(&caller, &asked)?;
    let used_ms = app.store.usage(&caller.user, caller.project.as_ref()).await?;
    Ok(Json(UsageView { browser_minutes: used_ms.div_ceil(MINUTE_MS), proxy_bytes: 0 }))
}
