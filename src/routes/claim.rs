//! What containers say: give me work, its browser answers, its browser is gone.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::body::{JsonBody, SessionPath};
use super::objects;
use crate::app::App;
use crate::auth::ContainerCaller;
use crate::browser_settings::ContextSetting;
use crate::causes::Causes;
use crate::clock::{now_ms, rfc3339};
use crate::contexts;
use crate::error::ApiError;
use crate::extension;
use crate::lifecycle;
use crate::protocol::{
    ClaimRequest, ClaimResponse, ClaimedContext, ClaimedExtension, ClaimedSession, EndedRequest, FilesToken,
    MAX_CLAIM_WAIT_SECONDS, MAX_SESSIONS_LIMIT, MAX_TASK_ARN, ReadyRequest, ReadyResponse, ReportResponse,
};
use crate::session::{EndReason, Session};
use crate::storage::{ObjectName, Use};
use crate::tokens::{Subject, Tokens};
use crate::whole;

/// How long after a session's time is up its container may still store what it left.
const FILES_TOKEN_EXTRA_MS: u64 = 10 * 60 * 1_000;

/// How long a container may read the archive of an extension. It does so at once, and does not try for long.
const EXTENSION_MS: u64 = 10 * 60 * 1_000;

/// `POST /sessions/claim`
pub async fn claim_sessions(
    State(app): State<App>,
    caller: ContainerCaller,
    JsonBody { value: mut request, .. }: JsonBody<ClaimRequest>,
) -> Result<Json<ClaimResponse>, ApiError> {
    check(&request, &caller)?;
    // What was launched is not to take more than its share, or to count as one that somebody else looks after.
    if let Some(max) = caller.launched_for {
        request.launched = true;
        request.max_sessions = request.max_sessions.min(max);
    }
    // Before anything is handed out: what cannot be told to the container must not be taken from the queue.
    let tokens = app.tokens.get(now_ms()).await?;
    let claimed = lifecycle::claim(&app, &request).await?;
    if claimed.replaced {
        let message = "containerId: another process has come under this id, and this one is to end";
        return Err(ApiError::new(StatusCode::CONFLICT, "container_replaced", message));
    }
    let now_ms = now_ms();
    let mut sessions = Vec::with_capacity(claimed.sessions.len());
    for (session, details) in claimed.sessions {
        let setting = ContextSetting::of(&session.browser_settings);
        let files_token = Some(files_token(&tokens, &session, setting.as_ref(), now_ms));
        let mut context = None;
        if let Some(ContextSetting { id, persist }) = setting {
            let profile = contexts::profile(&session.owner(), &id);
            let url = address(&app, &session, &profile, session.expires_at_ms).await;
            context = Some(ClaimedContext { url, persist });
        }
        let mut extension = None;
        if let Some(sha256) = session.extension.clone() {
            let archive = extension::archive(&session.owner(), &sha256);
            let url = address(&app, &session, &archive, now_ms + EXTENSION_MS).await;
            extension = Some(ClaimedExtension { sha256, url });
        }
        sessions.push(ClaimedSession {
            session_id: session.id,
            user_id: session.user_id,
            browser_settings: session.browser_settings,
            created_at: rfc3339(session.created_at_ms),
            expires_at: rfc3339(session.expires_at_ms),
            remaining_ms: session.expires_at_ms.saturating_sub(now_ms),
            keep_alive: session.keep_alive,
            files_token,
            context,
            lease: details.lease,
            extension,
            proxy_credentials: details.proxy_credentials,
        });
    }
    Ok(Json(ClaimResponse {
        success: true,
        claimed_count: sessions.len(),
        sessions,
        end: claimed.end,
        drain: claimed.drain,
    }))
}

/// Where something is read that a session's browser begins with. That it cannot be had is the end of one session, and must
/// not be that of the claim.
async fn address(app: &App, session: &Session, name: &ObjectName, until_ms: u64) -> Option<String> {
    let url = objects::address(app, &app.addresses.api_endpoint, name, Use::Read, until_ms).await;
    let told = |error: &ApiError| {
        tracing::error!(session.id = %session.id, error = %Causes(error), "a file of the session's has no address");
    };
    url.inspect_err(told).ok()
}

/// Good for longer than the session: what an ended one leaves is stored after its end.
fn files_token(tokens: &Tokens, session: &Session, context: Option<&ContextSetting>, now_ms: u64) -> FilesToken {
    let context = context.filter(|context| context.persist).map(|context| context.id.clone());
    let subject = Subject::Files { session: session.id.clone(), owner: session.owner(), context };
    FilesToken(tokens.mint(&subject, now_ms, session.expires_at_ms + FILES_TOKEN_EXTRA_MS))
}

/// Whether the container may ask so, and whether it makes sense.
pub fn check(request: &ClaimRequest, caller: &ContainerCaller) -> Result<(), ApiError> {
    if request.container_id != caller.container {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "wrong_container",
            "containerId: the token belongs to another container",
        ));
    }
    if !(1..=MAX_SESSIONS_LIMIT).contains(&request.max_sessions) {
        return Err(ApiError::invalid(format!("maxSessions: must be from 1 to {MAX_SESSIONS_LIMIT}")));
    }
    if request.current_sessions > MAX_SESSIONS_LIMIT {
        return Err(ApiError::invalid(format!("currentSessions: must be from 0 to {MAX_SESSIONS_LIMIT}")));
    }
    if request.session_ids.as_ref().is_some_and(|ids| ids.len() > MAX_SESSIONS_LIMIT as usize) {
        return Err(ApiError::invalid(format!("sessionIds: must be at most {MAX_SESSIONS_LIMIT}")));
    }
    if request.proxy_bytes.len() > 2 * MAX_SESSIONS_LIMIT as usize {
        return Err(ApiError::invalid(format!("proxyBytes: must be of at most {} sessions", 2 * MAX_SESSIONS_LIMIT)));
    }
    if request.proxy_bytes.values().any(|bytes| *bytes > whole::EXACT) {
        return Err(ApiError::invalid(format!("proxyBytes: must be from 0 to {} each", whole::EXACT)));
    }
    if request.wait_seconds > MAX_CLAIM_WAIT_SECONDS {
        return Err(ApiError::invalid(format!("waitSeconds: must be from 0 to {MAX_CLAIM_WAIT_SECONDS}")));
    }
    let is_address = |address: &String| {
        address.len() <= 255
            && address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':'))
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
    };
    if request.address.as_ref().is_some_and(|address| !is_address(address)) {
        return Err(ApiError::invalid("address: must be host:port"));
    }
    // Whoever holds a container's token must not have us ask a cloud's own services.
    if request.address.as_ref().is_some_and(|address| is_link_local(address)) {
        return Err(ApiError::invalid("address: must not be link-local"));
    }
    let is_name = |name: &String| (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if request.process.as_ref().is_some_and(|name| !is_name(name)) {
        return Err(ApiError::invalid("process: must be 1 to 64 letters and digits"));
    }
    let is_arn = |arn: &String| arn.len() <= MAX_TASK_ARN && arn.bytes().all(|b| b.is_ascii_graphic());
    if request.task_arn.as_ref().is_some_and(|arn| !is_arn(arn)) {
        return Err(ApiError::invalid(format!("taskArn: must be at most {MAX_TASK_ARN} visible ASCII characters")));
    }
    Ok(())
}

/// Whether `host:port` is an address of the network on which clouds answer what a machine is.
fn is_link_local(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match host.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.segments()[..3] == [0xfd00, 0xec2, 0],
        Err(_) => host.starts_with("169.254."),
    }
}

/// `POST /sessions/{id}/ready`
pub async fn report_ready(
    State(app): State<App>,
    caller: ContainerCaller,
    SessionPath(id): SessionPath,
    JsonBody { value: report, .. }: JsonBody<ReadyRequest>,
) -> Result<Json<ReadyResponse>, ApiError> {
    if !(16..=256).contains(&report.cdp_secret.len()) || !report.cdp_secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ApiError::invalid("cdpSecret: must be 16 to 256 visible ASCII characters"));
    }
    // 404 tells the container that the session is not, or no longer, its own: its browser is to be killed.
    match lifecycle::ready(&app, &id, &caller.container, &report).await? {
        Some(readied) => Ok(Json(ReadyResponse { success: true, connections: readied.waiting })),
        None => Err(ApiError::session_not_found()),
    }
}

/// `POST /sessions/{id}/ended`
pub async fn report_ended(
    State(app): State<App>,
    caller: ContainerCaller,
    SessionPath(id): SessionPath,
    JsonBody { value: report, .. }: JsonBody<EndedRequest>,
) -> Result<Json<ReportResponse>, ApiError> {
    if !EndedRequest::REASONS.contains(&report.reason) {
        return Err(ApiError::invalid(format!(
            "reason: must be one of {}",
            EndedRequest::REASONS.map(EndReason::as_str).join(", ")
        )));
    }
    if lifecycle::ended(&app, &id, &caller.container, &report).await? {
        Ok(Json(ReportResponse { success: true }))
    } else {
        Err(ApiError::session_not_found())
    }
}
