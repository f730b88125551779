//! Sessions: create, list, look up, release.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::Deserialize;

use super::parameters::CreateParameters;
use super::query;
use super::view::{SessionView, Status};
use crate::app::App;
use crate::auth::Caller;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::lifecycle;
use crate::routes::body::{JsonBody, QueryOf, SessionPath};
use crate::routes::create::{self, Created, Refused};
use crate::store::Wanted;

/// A list has no pages there. It is read a page at a time, so that no script is long, and holds the newest
/// `PAGE * MAX_PAGES` at most.
const PAGE: u64 = 100;
const MAX_PAGES: usize = 10;

/// `POST /v1/sessions`
pub async fn create_session(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody { value, bytes }: JsonBody<CreateParameters>,
) -> Result<Created<SessionView>, Refused> {
    let idempotency = create::idempotency(&headers, &bytes)?.or_else(|| create::attempt(&headers, &bytes));
    let tokens = app.tokens.get(now_ms()).await.map_err(ApiError::from)?;
    let new = value.check(&caller)?;
    let (rate, session) = create::create(&app, new, idempotency.as_ref(), &caller.limits(&app.limits)).await?;
    Ok(Created(rate, SessionView::with_reach(&app, &tokens, &headers, session)))
}

/// `GET /v1/sessions/{id}`
pub async fn get_session(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    headers: HeaderMap,
) -> Result<Json<SessionView>, ApiError> {
    let tokens = app.tokens.get(now_ms()).await?;
    match lifecycle::find(&app, &id, &caller.owner()).await? {
        Some(session) => Ok(Json(SessionView::with_reach(&app, &tokens, &headers, session))),
        None => Err(ApiError::session_not_found()),
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
enum Request {
    #[serde(rename = "REQUEST_RELEASE")]
    Release,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct UpdateSession {
    /// There is only one thing to ask for.
    #[allow(dead_code)]
    status: Request,
}

/// `POST /v1/sessions/{id}`: ends it, however often it is asked for.
pub async fn update_session(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    _: JsonBody<UpdateSession>,
) -> Result<Json<SessionView>, ApiError> {
    match lifecycle::release(&app, &id, &caller.owner()).await? {
        Some(session) => Ok(Json(SessionView::of(&app, session))),
        None => Err(ApiError::session_not_found()),
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListSessions {
    status: Option<Status>,
    /// By metadata: `user_metadata['team']['name']:'alpha'`.
    #[schemars(regex(pattern = r#"^user_metadata(\[('[^']*'|"[^"]*")\])+:('[^']*'|"[^"]*")$"#))]
    q: Option<String>,
}

/// `GET /v1/sessions`: newest first.
pub async fn list_sessions(
    State(app): State<App>,
    caller: Caller,
    QueryOf(asked): QueryOf<ListSessions>,
) -> Result<Json<Vec<SessionView>>, ApiError> {
    let mut wanted = asked.status.map_or_else(Wanted::default, Status::wanted);
    wanted.metadata = asked.q.as_deref().map(query::parse).transpose()?;
    let (mut views, mut after) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let (sessions, end) = app.store.list(&caller.owner(), &wanted, PAGE, after.as_ref()).await?;
        views.extend(sessions.into_iter().map(|session| SessionView::of(&app, session)));
        after = end;
        if after.is_none() {
            break;
        }
    }
    Ok(Json(views))
}
