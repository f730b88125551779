//! The Browserbase API, for clients that were written for it: a translation of what they send and expect, over the
//! same lifecycle that serves `/sessions`. What is not there says so, and that asking again will not help.

mod contexts;
mod debug;
mod downloads;
mod extensions;
mod left;
mod logs;
mod parameters;
mod projects;
mod query;
mod sessions;
mod start;
mod uploads;
mod view;

use axum::extract::Request;
use axum::http::StatusCode;

use super::body;
use super::table::{Operation, Table, delete, get, patch, post, put};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::session_log::SessionLog;

/// What the API has besides, and this service does not: where, by which methods, and what it is.
const NOT_AVAILABLE: [(&str, &str, &str); 33] = [
    ("/sessions/{id}/recording", "get", "session recording"),
    ("/sessions/{id}/recording/downloads", "get post", "session recording"),
    ("/sessions/{id}/replays", "get", "session replay"),
    ("/sessions/{id}/replays/{page}", "get", "session replay"),
    ("/sessions/{id}/webdriver", "get post delete", "WebDriver"),
    ("/sessions/{id}/webdriver/{*command}", "get post delete", "WebDriver"),
    ("/downloads", "get", "session downloads"),
    ("/downloads/{download}", "get delete", "session downloads"),
    ("/contexts/{context}/upload", "put", "uploading a context"),
    ("/certificates", "get post", "certificates"),
    ("/certificates/{certificate}", "get delete", "certificates"),
    ("/fetch", "post", "fetch"),
    ("/search", "post", "search"),
    ("/agents", "get post", "agents"),
    ("/agents/runs", "get post", "agents"),
    ("/agents/runs/{run}", "get", "agents"),
    ("/agents/runs/{run}/messages", "get", "agents"),
    ("/agents/runs/{run}/stop", "post", "agents"),
    ("/agents/{agent}", "get patch delete", "agents"),
    ("/secrets", "get post", "secrets"),
    ("/secrets/keypair", "get", "secrets"),
    ("/secrets/{secret}", "get patch delete", "secrets"),
    ("/webhooks", "get post", "webhooks"),
    ("/webhooks/{webhook}", "get patch delete", "webhooks"),
    ("/webhooks/{webhook}/secret", "post", "webhooks"),
    ("/functions", "get post", "functions"),
    ("/functions/{*rest}", "get post patch delete", "functions"),
    // Of Stagehand's own API, whose clients are told at the start that it is not here.
    ("/sessions/{id}/act", "post", "the hosted Stagehand API"),
    ("/sessions/{id}/extract", "post", "the hosted Stagehand API"),
    ("/sessions/{id}/observe", "post", "the hosted Stagehand API"),
    ("/sessions/{id}/navigate", "post", "the hosted Stagehand API"),
    ("/sessions/{id}/agentExecute", "post", "the hosted Stagehand API"),
    ("/sessions/{id}/replay", "get", "the hosted Stagehand API"),
];

#[rustfmt::skip]
pub fn table() -> Table {
    let table = Table::default()
        .part("Browserbase")
        .route("/sessions", [
            get(sessions::list_sessions, "Your sessions, newest first"),
            post(sessions::create_session, "Creates a session").refuses(&[501]),
        ])
        .route("/sessions/start", [post(start::start_session, "Gives Stagehand 3 a session").refuses(&[404, 501])])
        .route("/sessions/{id}", [
            get(sessions::get_session, "One session, with its `connectUrl` while it lives"),
            post(sessions::update_session, "Ends a session, however often it is asked for"),
        ])
        .route("/sessions/{id}/debug", [
            get(debug::debug_session, "Where the session's pages can be watched").refuses(&[409, 410, 501]),
        ])
        .route("/sessions/{id}/downloads", [
            get(downloads::get_downloads, "A zip of what the session's browser has downloaded, or where it is")
                .answers(200, Some("application/zip")).answers(302, None).refuses(&[409, 410, 501, 503, 504]),
            delete(downloads::delete_downloads, "Forgets what it has downloaded").answers(204, None).refuses(&[501, 503]),
        ])
        .route("/sessions/{id}/logs", [
            get(logs::get_logs, "What the session's clients and its browser have said to each other, or where it is")
                .answers_json::<Vec<SessionLog<'_>>>(200).answers(302, None).refuses(&[501, 503]),
        ])
        .route("/sessions/{id}/uploads", [
            post(uploads::create_upload, "Gives the session's browser a file: as the part `file` of a form")
                .takes_form().refuses(&[400, 408, 409, 410, 413, 503, 504]),
        ])
        .route("/sessions/{id}/end", [post(start::end_session, "Ends a session, as Stagehand asks for it")])
        .route("/contexts", [post(contexts::create_context, "Creates a context").refuses(&[409, 501])])
        .route("/contexts/{context}", [
            get(contexts::get_context, "One context").refuses(&[501]),
            put(contexts::update_context, "The same; it changes nothing").refuses(&[501]),
            delete(contexts::delete_context, "Deletes a context, with all that sessions have left in it")
                .answers(204, None).refuses(&[501]),
        ])
        .route("/extensions", [
            post(extensions::upload_extension, "Uploads an extension: a zip, as the part `file` of a form")
                .takes_form().refuses(&[400, 408, 413, 501]),
        ])
        .route("/extensions/{id}", [
            get(extensions::get_extension, "One extension").refuses(&[501]),
            delete(extensions::delete_extension, "Forgets an extension; a session that has it keeps it")
                .answers(204, None).refuses(&[501]),
        ])
        .route("/projects", [get(projects::list_projects, "The API key's project")])
        .route("/projects/{project}", [get(projects::get_project, "The API key's project")])
        .route("/projects/{project}/usage", [get(projects::get_usage, "What your sessions of it have used")])
        .part("Not available");
    NOT_AVAILABLE.into_iter().fold(table, |table, (path, methods, what)| {
        let is_known = |method: &str| methods.split(' ').any(|known| known == method);
        table.route(path, ["get", "post", "put", "patch", "delete"].map(|method| match is_known(method) {
            true => not_available(method, what),
            false => not_available(method, what).undescribed(),
        }))
    })
}

/// 501, whatever the method is. The body is read all the same: whoever still sends it would find the connection broken
/// instead of an answer.
fn not_available(method: &str, what: &'static str) -> Operation {
    let handler = async move |_: Caller, request: Request| -> ApiError {
        let (parts, body) = request.into_parts();
        drop(body::read(&parts.headers, body).await);
        let message = format!("{what}: not available here");
        ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_available", message).not_to_be_retried()
    };
    let operation = match method {
        "get" => get(handler, what),
        "put" => put(handler, what),
        "patch" => patch(handler, what),
        "delete" => delete(handler, what),
        _ => post(handler, what),
    };
    operation.refuses(&[501])
}
