//! A session as the clients of Browserbase know it. A field that has no value is left out: some of them take `null`
//! for a mistake.

use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::parameters::Region;
use crate::app::App;
use crate::browser_settings::ContextSetting;
use crate::clock::{now_ms, rfc3339};
use crate::ids::{ContextId, SessionId};
use crate::session::{EndReason, Session, SessionStatus};
use crate::store::Wanted;
use crate::tokens::{Subject, Tokens};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schemars(rename = "BrowserbaseStatus")]
pub enum Status {
    /// It waits for a container. It can be connected to all the same.
    Pending,
    Running,
    /// It ended because something broke, or never could start.
    Error,
    /// Its time was up, or nobody came in time.
    TimedOut,
    Completed,
}

impl Status {
    fn of(session: &Session) -> Self {
        match (session.status, session.end_reason) {
            (SessionStatus::Pending, _) => Status::Pending,
            (SessionStatus::Active, _) => Status::Running,
            (SessionStatus::Ended, reason) => reason.map_or(Status::Completed, Status::of_reason),
        }
    }

    fn of_reason(reason: EndReason) -> Self {
        match reason {
            EndReason::Released | EndReason::Disconnected => Status::Completed,
            EndReason::Timeout | EndReason::NeverConnected => Status::TimedOut,
            EndReason::QueueTimeout
            | EndReason::ContainerLost
            | EndReason::BrowserCrashed
            | EndReason::FailedToStart => Status::Error,
        }
    }

    /// The sessions of this status.
    pub fn wanted(self) -> Wanted {
        let (status, reasons) = match self {
            Status::Pending => (SessionStatus::Pending, None),
            Status::Running => (SessionStatus::Active, None),
            ended => {
                let reasons = EndReason::ALL.into_iter().filter(|reason| Status::of_reason(*reason) == ended);
                (SessionStatus::Ended, Some(reasons.collect()))
            }
        };
        Wanted { status: Some(status), reasons, metadata: None }
    }
}

/// A session, as the clients of Browserbase know it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BrowserbaseSession")]
pub struct SessionView {
    id: SessionId,
    project_id: String,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
    /// Clients insist on it. Before it has a container, it is when it was created.
    #[schemars(extend("format" = "date-time"))]
    started_at: String,
    #[schemars(extend("format" = "date-time"))]
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    ended_at: Option<String>,
    status: Status,
    /// What has gone through its proxies, in both directions: as of some seconds ago.
    proxy_bytes: u64,
    keep_alive: bool,
    region: Region,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_id: Option<ContextId>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    user_metadata: Map<String, Value>,
    #[serde(flatten)]
    reach: Option<Reach>,
}

/// How a session is reached, while it can be.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Reach {
    connect_url: String,
    /// Clients insist on a URL; what is there says that WebDriver is not available.
    selenium_remote_url: String,
    signing_key: String,
}

impl SessionView {
    pub fn of(app: &App, session: Session) -> Self {
        Self {
            status: Status::of(&session),
            project_id: session.owner().id().to_owned(),
            created_at: rfc3339(session.created_at_ms),
            updated_at: rfc3339(session.ended_at_ms.unwrap_or(0).max(session.last_activity_ms)),
            started_at: rfc3339(session.started_at_ms.unwrap_or(session.created_at_ms)),
            expires_at: rfc3339(session.expires_at_ms),
            ended_at: session.ended_at_ms.map(rfc3339),
            proxy_bytes: session.proxy_bytes,
            keep_alive: session.keep_alive,
            region: Region::nearest(app.addresses.region.as_deref()),
            context_id: ContextSetting::of(&session.browser_settings).map(|context| context.id),
            user_metadata: session.user_metadata,
            id: session.id,
            reach: None,
        }
    }

    /// With what it takes to connect, if it has not ended.
    pub fn with_reach(app: &App, tokens: &Tokens, headers: &HeaderMap, session: Session) -> Self {
        let reach = (session.status != SessionStatus::Ended).then(|| {
            let subject = Subject::Connect { session: session.id.clone(), user: session.user_id.clone() };
            let token = tokens.mint(&subject, now_ms(), session.expires_at_ms);
            let base = app.addresses.base_url(headers);
            Reach {
                connect_url: app.addresses.connect_url(headers, &session.id, &token),
                selenium_remote_url: format!("{base}/v1/sessions/{}/webdriver", session.id),
                signing_key: token,
            }
        });
        Self { reach, ..Self::of(app, session) }
    }
}
