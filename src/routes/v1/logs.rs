//! A session's log: what its clients and its browser have said to each other. While the session runs its container knows it, and
//! the newest of it is the answer; afterwards it is where files are kept.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;

use super::left::{self, Left};
use crate::app::App;
use crate::auth::Caller;
use crate::container_client::ContainerError;
use crate::error::ApiError;
use crate::routes::body::SessionPath;
use crate::routes::files;

const RETRY_MS: u64 = 2_000;

/// `GET /v1/sessions/{id}/logs`
pub async fn get_logs(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let owner = caller.owner();
    let name = files::logs(&id, &owner);
    let ask = async |route| app.containers.log(&route).await;
    let log = match left::find(&app, &id, &owner, &name, ask, not_read).await? {
        Left::Kept => return left::redirect(&app, &headers, &name).await,
        Left::Told(log) => log,
        Left::Nothing => Bytes::from_static(b"[]"),
    };
    Ok(([(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], log).into_response())
}

fn not_read(error: ContainerError) -> ApiError {
    let message = "the session's log could not be read; it is still there";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "logs_unavailable", message)
        .retry_after_ms(RETRY_MS)
        .caused_by(error)
}
