//! What a session's browser has downloaded, in one zip. It is where files are kept, and whoever asks is sent there: a function
//! answers with 6 MB at most.
//!
//! While the session runs its container is asked to store what is there by now. When it has ended, the container stores what it
//! left, which takes a moment: whoever asks within that moment waits.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::time::sleep;

use crate::app::App;
use crate::auth::Caller;
use crate::clock::now_ms;
use crate::container_client::ContainerError;
use crate::error::ApiError;
use crate::ids::{Owner, SessionId};
use crate::lifecycle;
use crate::routes::body::SessionPath;
use crate::routes::{files, objects};
use crate::storage::{ObjectName, Use};
use crate::store::{Route, View, ViewedAt};

/// A zip of nothing: an end of central directory.
const EMPTY_ZIP: [u8; 22] = *b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// How long the address is good for that somebody is sent to. They go there at once.
const ADDRESS_MS: u64 = 60_000;
/// How long after a session's end its files may still be on their way. Nobody waits for longer than clients are parked.
const SETTLES: Duration = Duration::from_secs(10);
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(1);
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
    let base = app.addresses.base_url(&headers);
    let address = objects::address(&app, &base, &name, Use::Read, now_ms() + ADDRESS_MS).await?;
    let any = match find(&app, &id, &owner).await? {
        At::Nowhere => false,
        At::Container(route) => match app.containers.store_downloads(&route).await {
            Ok(files) => files > 0,
            // It may have ended between the two looks.
            Err(error) => match find(&app, &id, &owner).await? {
                At::Storage { ended_at_ms } => settled(&app, &name, ended_at_ms).await?,
                _ => return Err(not_stored(error)),
            },
        },
        At::Storage { ended_at_ms } => settled(&app, &name, ended_at_ms).await?,
        At::Forgotten if app.storage.has(&name).await? => true,
        At::Forgotten => return Err(ApiError::session_not_found()),
    };
    let fresh = (CACHE_CONTROL, "no-store");
    if any {
        return Ok((StatusCode::FOUND, [fresh], [(LOCATION, address)]).into_response());
    }
    Ok(([fresh, (CONTENT_TYPE, "application/zip")], EMPTY_ZIP).into_response())
}

/// `DELETE /v1/sessions/{id}/downloads`
pub async fn delete_downloads(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
) -> Result<StatusCode, ApiError> {
    let owner = caller.owner();
    let name = files::downloads(&id, &owner);
    match find(&app, &id, &owner).await? {
        At::Nowhere => {}
        At::Container(route) => app.containers.forget_downloads(&route).await.map_err(not_stored)?,
        // What is on its way would come afterwards.
        At::Storage { ended_at_ms } => drop(settled(&app, &name, ended_at_ms).await?),
        At::Forgotten if app.storage.has(&name).await? => {}
        At::Forgotten => return Err(ApiError::session_not_found()),
    }
    app.storage.delete(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where a session's files are.
enum At {
    /// It has no browser yet.
    Nowhere,
    Container(Route),
    Storage {
        ended_at_ms: u64,
    },
    /// Files are kept for longer than what is known of their session. They stand under their owner's name.
    Forgotten,
}

async fn find(app: &App, id: &SessionId, owner: &Owner) -> Result<At, ApiError> {
    match app.store.view(id).await? {
        None => Ok(At::Forgotten),
        Some(view) if view.owner != *owner => Err(ApiError::session_not_found()),
        Some(View { at: ViewedAt::Waiting, .. }) => Ok(At::Nowhere),
        Some(View { at: ViewedAt::Ready { route, .. }, .. }) => Ok(At::Container(route)),
        Some(View { at: ViewedAt::Ended(_), .. }) => {
            let session = lifecycle::find(app, id, owner).await?;
            Ok(session.map_or(At::Forgotten, |session| At::Storage { ended_at_ms: session.ended_at_ms.unwrap_or(0) }))
        }
    }
}

/// Whether a session that has ended has left something, once that can be said.
async fn settled(app: &App, name: &ObjectName, ended_at_ms: u64) -> Result<bool, ApiError> {
    let settles = SETTLES.min(app.connect_wait);
    let settled_ms = ended_at_ms + u64::try_from(settles.as_millis()).unwrap_or(u64::MAX);
    let mut wait = FIRST_LOOK;
    loop {
        let written_ms = app.storage.written_ms(name).await?;
        let late = now_ms() >= settled_ms;
        // What was stored while it ran may not be all. A bucket tells whole seconds, so that it may look like that: then it is
        // had a little later.
        if late || written_ms.is_some_and(|at_ms| at_ms >= ended_at_ms) {
            return Ok(written_ms.is_some());
        }
        sleep(wait).await;
        wait = (wait * 2).min(LAST_LOOK);
    }
}

fn not_stored(error: ContainerError) -> ApiError {
    let message = "the session's downloads could not be stored; what it has downloaded is still there";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "downloads_unavailable", message)
        .retry_after_ms(RETRY_MS)
        .caused_by(error)
}
