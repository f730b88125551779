//! What a session's browser has downloaded, in one zip. It is where files are kept, and whoever asks is sent there: a function
//! answers with 6 MB at most. While the session runs its container is asked to store what is there by now.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::left::{self, At, Left};
use crate::app::App;
use crate::auth::Caller;
use crate::container_client::ContainerError;
use crate::error::ApiError;
use crate::routes::body::SessionPath;
use crate::routes::files;

/// A zip of nothing: an end of central directory.
const EMPTY_ZIP: [u8; 22] = *b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const RETRY_MS: u64 = 2_000;

/// `GET /v1/sessions/{id}/downloads`
pub async fn get_downloads(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let owner = caller.owner();
    let name = files::downloads(&id, &owner);
    // Where there is no storage, this is what says so.
    let there = left::redirect(&app, &headers, &name).await?;
    let ask = async |route| app.containers.store_downloads(&route).await;
    Ok(match left::find(&app, &id, &owner, &name, ask, not_stored).await? {
        Left::Kept | Left::Told(1..) => there,
        Left::Nothing | Left::Told(0) => {
            ([(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/zip")], EMPTY_ZIP).into_response()
        }
    })
}

/// `DELETE /v1/sessions/{id}/downloads`
pub async fn delete_downloads(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
) -> Result<StatusCode, ApiError> {
    let owner = caller.owner();
    let name = files::downloads(&id, &owner);
    match left::at(&app, &id, &owner).await? {
        At::Nowhere => {}
        At::Container(route) => app.containers.forget_downloads(&route).await.map_err(not_stored)?,
        // What is on its way would come afterwards.
        At::Storage { ended_at_ms } => drop(left::settled(&app, &name, ended_at_ms).await?),
        At::Forgotten if app.storage.has(&name).await? => {}
        At::Forgotten => return Err(ApiError::session_not_found()),
    }
    app.storage.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn not_stored(error: ContainerError) -> ApiError {
    let message = "the session's downloads could not be stored; what it has downloaded is still there";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "downloads_unavailable", message)
        .retry_after_ms(RETRY_MS)
        .caused_by(error)
}
