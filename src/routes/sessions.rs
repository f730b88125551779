//! Sessions, as clients see them.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::body::{JsonBody, QueryOf, SessionPath};
use super::create::{self, Created, Refused};
use crate::app::App;
use crate::auth::Caller;
use crate::browser_settings::BrowserSettings;
use crate::clock::{now_ms, rfc3339};
use crate::error::ApiError;
use crate::ids::{ContainerId, ProjectId, SessionId, UserId};
use crate::lifecycle;
use crate::session::{EndReason, NewSession, Session, SessionStatus};
use crate::store::{PageEnd, Wanted};
use crate::tokens::{Subject, Tokens};

const DEFAULT_TIMEOUT_MINUTES: f64 = 60.0;
const MAX_TIMEOUT_MINUTES: f64 = 360.0;
const DEFAULT_PAGE: u64 = 20;
const MAX_PAGE: u64 = 100;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateSession {
    /// Minutes, from the creation on.
    #[schemars(with = "Option<u32>", range(min = 1, max = MAX_TIMEOUT_MINUTES as u32))]
    #[schemars(extend("default" = DEFAULT_TIMEOUT_MINUTES as u32))]
    timeout: Option<f64>,
    #[schemars(with = "Option<BrowserSettings>")]
    browser_settings: Option<Map<String, Value>>,
    /// Whether it goes on when its last client has gone.
    #[schemars(extend("default" = false))]
    keep_alive: Option<bool>,
    /// Whatever it is to be known by: at most 4096 bytes of JSON.
    user_metadata: Option<Map<String, Value>>,
}

/// What is answered for a session.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Session")]
pub struct SessionView {
    id: SessionId,
    /// The same.
    session_id: SessionId,
    status: SessionStatus,
    user_id: UserId,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    last_activity: String,
    #[schemars(extend("format" = "date-time"))]
    expires_at: String,
    /// Milliseconds.
    timeout: u64,
    keep_alive: bool,
    /// Where CDP is spoken to its browser. It can be opened at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// As they were sent, without credentials of a proxy, and while it lives with `cdpUrl` (its `connectUrl`) and `token`.
    browser_settings: Map<String, Value>,
    user_metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<ContainerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_arn: Option<String>,
    active_connections: u64,
    /// From 1, while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<u64>,
    /// By what is on its way, or at the rate at which the queue has moved lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_wait_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_reason: Option<EndReason>,
}

/// A session with the token and URL to connect to it, as long as it can be connected to.
fn view(app: &App, tokens: &Tokens, headers: &HeaderMap, session: Session) -> SessionView {
    let mut browser_settings = session.browser_settings;
    let (token, connect_url) = if session.status == SessionStatus::Ended {
        (None, None)
    } else {
        let subject = Subject::Connect { session: session.id.clone(), user: session.user_id.clone() };
        let token = tokens.mint(&subject, now_ms(), session.expires_at_ms);
        let connect_url = app.addresses.connect_url(headers, &session.id, &token);
        // AwsBrowserProvider reads them here.
        browser_settings.insert("cdpUrl".to_owned(), connect_url.clone().into());
        browser_settings.insert("token".to_owned(), token.clone().into());
        (Some(token), Some(connect_url))
    };
    SessionView {
        session_id: session.id.clone(),
        id: session.id,
        status: session.status,
        user_id: session.user_id,
        created_at: rfc3339(session.created_at_ms),
        last_activity: rfc3339(session.last_activity_ms),
        expires_at: rfc3339(session.expires_at_ms),
        timeout: session.timeout_ms,
        keep_alive: session.keep_alive,
        connect_url,
        token,
        browser_settings,
        user_metadata: session.user_metadata,
        container_id: session.container_id,
        task_arn: session.task_arn,
        active_connections: session.active_connections,
        queue_position: session.queue_position,
        estimated_wait_ms: session
            .queue_position
            .and_then(|places| session.outlook.wait_ms(places, &app.policy, now_ms())),
        ended_at: session.ended_at_ms.map(rfc3339),
        end_reason: session.end_reason,
    }
}

impl CreateSession {
    /// The session that is asked for, if it can be had.
    pub fn check(self, user: UserId, project: Option<ProjectId>) -> Result<NewSession, ApiError> {
        let minutes = self.timeout.unwrap_or(DEFAULT_TIMEOUT_MINUTES);
        if minutes.fract() != 0.0 || !(1.0..=MAX_TIMEOUT_MINUTES).contains(&minutes) {
            return Err(ApiError::invalid(format!(
                "timeout: must be a whole number of minutes from 1 to {MAX_TIMEOUT_MINUTES}"
            )));
        }
        let settings = self.browser_settings.unwrap_or_default();
        let (browser_settings, proxy_credentials) = create::browser_settings(settings)?;
        Ok(NewSession {
            id: SessionId::random(),
            user_id: user,
            project,
            // Whole, and in range.
            timeout_ms: minutes as u64 * 60_000,
            keep_alive: self.keep_alive.unwrap_or(false),
            browser_settings,
            proxy_credentials,
            extension: None,
            user_metadata: create::user_metadata(self.user_metadata.unwrap_or_default())?,
        })
    }
}

/// `POST /sessions`
pub async fn create_session(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody { value: request, bytes }: JsonBody<CreateSession>,
) -> Result<Created<SessionView>, Refused> {
    let idempotency = create::idempotency(&headers, &bytes)?;
    let tokens = app.tokens.get(now_ms()).await.map_err(ApiError::from)?;
    let limits = caller.limits(&app.limits);
    let new = request.check(caller.user, caller.project)?;
    let (rate, session) = create::create(&app, new, idempotency.as_ref(), &limits).await?;
    Ok(Created(rate, view(&app, &tokens, &headers, session)))
}

/// `GET /sessions/{id}`
pub async fn get_session(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    headers: HeaderMap,
) -> Result<Json<SessionView>, ApiError> {
    let tokens = app.tokens.get(now_ms()).await?;
    match lifecycle::find(&app, &id, &caller.owner()).await? {
        Some(session) => Ok(Json(view(&app, &tokens, &headers, session))),
        None => Err(ApiError::session_not_found()),
    }
}

/// `DELETE /sessions/{id}`
pub async fn delete_session(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    headers: HeaderMap,
) -> Result<Json<SessionView>, ApiError> {
    let tokens = app.tokens.get(now_ms()).await?;
    match lifecycle::release(&app, &id, &caller.owner()).await? {
        Some(session) => Ok(Json(view(&app, &tokens, &headers, session))),
        None => Err(ApiError::session_not_found()),
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListSessions {
    status: Option<SessionStatus>,
    #[schemars(range(min = 1, max = MAX_PAGE), extend("default" = DEFAULT_PAGE))]
    limit: Option<u64>,
    /// The `nextCursor` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionPage {
    sessions: Vec<SessionView>,
    /// Present if there may be more: send it as `cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

fn read_cursor(cursor: &str) -> Option<PageEnd> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (created_at_ms, id) = text.split_once(' ')?;
    Some(PageEnd { created_at_ms: created_at_ms.parse().ok()?, id: id.parse().ok()? })
}

/// `GET /sessions`
pub async fn list_sessions(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    QueryOf(query): QueryOf<ListSessions>,
) -> Result<Json<SessionPage>, ApiError> {
    let limit = query.limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::invalid(format!("limit: must be from 1 to {MAX_PAGE}")));
    }
    let after = match &query.cursor {
        None => None,
        Some(cursor) => {
            Some(read_cursor(cursor).ok_or_else(|| ApiError::invalid("cursor: is not one that was answered here"))?)
        }
    };
    let tokens = app.tokens.get(now_ms()).await?;
    let wanted = Wanted { status: query.status, ..Wanted::default() };
    let (sessions, end) = app.store.list(&caller.owner(), &wanted, limit, after.as_ref()).await?;
    Ok(Json(SessionPage {
        sessions: sessions.into_iter().map(|session| view(&app, &tokens, &headers, session)).collect(),
        next_cursor: end.map(|end| URL_SAFE_NO_PAD.encode(format!("{} {}", end.created_at_ms, end.id))),
    }))
}
