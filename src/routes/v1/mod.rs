//! The Browserbase API, for clients that were written for it: a translation of what they send and expect, over the
//! same lifecycle that serves `/sessions`. What is not there says so, and that asking again will not help.

mod contexts;
mod debug;
mod extensions;
mod parameters;
mod projects;
mod query;
mod sessions;
mod start;
mod view;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, any, get, post};

use super::body;
use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;

/// What the API has besides, and this service does not.
const NOT_AVAILABLE: [(&str, &str); 36] = [
    ("/sessions/{id}/logs", "session logs"),
    ("/sessions/{id}/recording", "session recording"),
    ("/sessions/{id}/recording/downloads", "session recording"),
    ("/sessions/{id}/replays", "session replay"),
    ("/sessions/{id}/replays/{page}", "session replay"),
    ("/sessions/{id}/downloads", "session downloads"),
    ("/sessions/{id}/uploads", "session uploads"),
    ("/sessions/{id}/webdriver", "WebDriver"),
    ("/sessions/{id}/webdriver/{*command}", "WebDriver"),
    ("/downloads", "session downloads"),
    ("/downloads/{download}", "session downloads"),
    ("/contexts/{context}/upload", "uploading a context"),
    ("/certificates", "certificates"),
    ("/certificates/{certificate}", "certificates"),
    ("/fetch", "fetch"),
    ("/search", "search"),
    ("/agents", "agents"),
    ("/agents/runs", "agents"),
    ("/agents/runs/{run}", "agents"),
    ("/agents/runs/{run}/messages", "agents"),
    ("/agents/runs/{run}/stop", "agents"),
    ("/agents/{agent}", "agents"),
    ("/secrets", "secrets"),
    ("/secrets/keypair", "secrets"),
    ("/secrets/{secret}", "secrets"),
    ("/webhooks", "webhooks"),
    ("/webhooks/{webhook}", "webhooks"),
    ("/webhooks/{webhook}/secret", "webhooks"),
    ("/functions", "functions"),
    ("/functions/{*rest}", "functions"),
    // Of Stagehand's own API, whose clients are told at the start that it is not here.
    ("/sessions/{id}/act", "the hosted Stagehand API"),
    ("/sessions/{id}/extract", "the hosted Stagehand API"),
    ("/sessions/{id}/observe", "the hosted Stagehand API"),
    ("/sessions/{id}/navigate", "the hosted Stagehand API"),
    ("/sessions/{id}/agentExecute", "the hosted Stagehand API"),
    ("/sessions/{id}/replay", "the hosted Stagehand API"),
];

pub fn router() -> Router<App> {
    let router = Router::new()
        .route("/sessions", get(sessions::list_sessions).post(sessions::create_session))
        .route("/sessions/start", post(start::start_session))
        .route("/sessions/{id}", get(sessions::get_session).post(sessions::update_session))
        .route("/sessions/{id}/debug", get(debug::debug_session))
        .route("/sessions/{id}/end", post(start::end_session))
        .route("/contexts", post(contexts::create_context))
        .route(
            "/contexts/{context}",
            get(contexts::get_context).put(contexts::update_context).delete(contexts::delete_context),
        )
        .route("/extensions", post(extensions::upload_extension))
        .route("/extensions/{id}", get(extensions::get_extension).delete(extensions::delete_extension))
        .route("/projects", get(projects::list_projects))
        .route("/projects/{project}", get(projects::get_project))
        .route("/projects/{project}/usage", get(projects::get_usage));
    NOT_AVAILABLE.into_iter().fold(router, |router, (path, what)| router.route(path, not_available(what)))
}

/// 501, whatever the method is. The body is read all the same: whoever still sends it would find the connection broken
/// instead of an answer.
fn not_available(what: &'static str) -> MethodRouter<App> {
    any(async move |_: Caller, request: Request| -> ApiError {
        let (parts, body) = request.into_parts();
        drop(body::read(&parts.headers, body).await);
        let message = format!("{what}: not available here");
        ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_available", message).not_to_be_retried()
    })
}
