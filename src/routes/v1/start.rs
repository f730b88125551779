//! Where Stagehand 3 begins: it asks its hosted API to start a session and to think for it. The session it gets; the
//! thinking is not here, and where it is told so it does that itself, over the session's `connectUrl`.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parameters::CreateParameters;
use crate::app::App;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::ids::SessionId;
use crate::lifecycle;
use crate::protocol::ReportResponse;
use crate::routes::body::{JsonBody, SessionPath};
use crate::routes::create::{self, Refused};
use crate::session::SessionStatus;

/// What the model is asked with is in the body and the headers, too, and concerns nobody here.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct StartSession {
    #[serde(rename = "browserbaseSessionCreateParams")]
    parameters: Option<CreateParameters>,
    /// One that is there already.
    #[serde(rename = "browserbaseSessionID")]
    session: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "StartedSession")]
pub struct StartedView {
    success: bool,
    data: StartedData,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StartedData {
    session_id: SessionId,
    /// Whether somebody here thinks for the client.
    available: bool,
}

impl StartedView {
    fn of(session_id: SessionId) -> Self {
        Self { success: true, data: StartedData { session_id, available: false } }
    }
}

/// `POST /v1/sessions/start`
pub async fn start_session(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody { value, bytes }: JsonBody<StartSession>,
) -> Result<(HeaderMap, Json<StartedView>), Refused> {
    if let Some(id) = value.session {
        let id: SessionId = id.parse().map_err(|_| ApiError::session_not_found())?;
        return match lifecycle::find(&app, &id, &caller.owner()).await.map_err(ApiError::from)? {
            Some(session) if session.status != SessionStatus::Ended => {
                Ok((HeaderMap::new(), Json(StartedView::of(id))))
            }
            _ => Err(ApiError::session_not_found().into()),
        };
    }
    let idempotency = create::idempotency(&headers, &bytes)?;
    let new = value.parameters.unwrap_or_default().check(&caller)?;
    let (rate, session) = create::create(&app, new, idempotency.as_ref(), &caller.limits(&app.limits)).await?;
    Ok((rate, Json(StartedView::of(session.id))))
}

/// `POST /v1/sessions/{id}/end`: the release, as Stagehand asks for it.
pub async fn end_session(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
) -> Result<Json<ReportResponse>, ApiError> {
    match lifecycle::release(&app, &id, &caller.owner()).await? {
        Some(_) => Ok(Json(ReportResponse { success: true })),
        None => Err(ApiError::session_not_found()),
    }
}
