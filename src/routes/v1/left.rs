//! What a session leaves, and where it is. While the session runs its container is asked. When it has ended, the container
//! stores what it left, which takes a moment: whoever asks within that moment waits.

use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::time::sleep;

use crate::app::App;
use crate::clock::now_ms;
use crate::container_client::ContainerError;
use crate::error::ApiError;
use crate::ids::{Owner, SessionId};
use crate::lifecycle;
use crate::routes::objects;
use crate::storage::{ObjectName, Use};
use crate::store::{Route, View, ViewedAt};

/// How long the address is good for that somebody is sent to. They go there at once.
const ADDRESS_MS: u64 = 60_000;
/// How long after a session's end its files may still be on their way. Nobody waits for longer than clients are parked.
const SETTLES: Duration = Duration::from_secs(10);
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What there is of a session.
pub enum Left<T> {
    Nothing,
    /// By its container.
    Told(T),
    /// Where files are kept.
    Kept,
}

/// Finds what there is: what its container says if it has one, `unheard` if that says nothing, and what is kept of it afterwards.
pub async fn find<T>(
    app: &App,
    id: &SessionId,
    owner: &Owner,
    name: &ObjectName,
    ask: impl AsyncFnOnce(Route) -> Result<T, ContainerError>,
    unheard: impl Fn(ContainerError) -> ApiError,
) -> Result<Left<T>, ApiError> {
    let kept = |any| if any { Left::Kept } else { Left::Nothing };
    match at(app, id, owner).await? {
        At::Nowhere => Ok(Left::Nothing),
        At::Container(route) => match ask(route).await {
            Ok(told) => Ok(Left::Told(told)),
            // It may have ended between the two looks.
            Err(error) => match at(app, id, owner).await? {
                At::Storage { ended_at_ms } => settled(app, name, ended_at_ms).await.map(kept),
                _ => Err(unheard(error)),
            },
        },
        At::Storage { ended_at_ms } => settled(app, name, ended_at_ms).await.map(kept),
        At::Forgotten if app.storage.has(name).await? => Ok(Left::Kept),
        At::Forgotten => Err(ApiError::session_not_found()),
    }
}

/// Sends whoever asks to where it is kept.
pub async fn redirect(app: &App, headers: &HeaderMap, name: &ObjectName) -> Result<Response, ApiError> {
    let base = app.addresses.base_url(headers);
    let address = objects::address(app, &base, name, Use::Read, now_ms() + ADDRESS_MS).await?;
    Ok((StatusCode::FOUND, [(CACHE_CONTROL, "no-store")], [(LOCATION, address)]).into_response())
}

/// Where a session's files are.
pub enum At {
    /// It has no browser yet, or never had one.
    Nowhere,
    Container(Route),
    Storage {
        ended_at_ms: u64,
    },
    /// Files are kept for longer than what is known of their session. They stand under their owner's name.
    Forgotten,
}

pub async fn at(app: &App, id: &SessionId, owner: &Owner) -> Result<At, ApiError> {
    match app.store.view(id).await? {
        None => Ok(At::Forgotten),
        Some(view) if view.owner != *owner => Err(ApiError::session_not_found()),
        Some(View { at: ViewedAt::Waiting, .. }) => Ok(At::Nowhere),
        Some(View { at: ViewedAt::Ready { route, .. }, .. }) => Ok(At::Container(route)),
        Some(View { at: ViewedAt::Ended(_), .. }) => {
            let Some(session) = lifecycle::find(app, id, owner).await? else { return Ok(At::Forgotten) };
            // No container ever took it.
            let nowhere = session.started_at_ms.is_none();
            Ok(if nowhere { At::Nowhere } else { At::Storage { ended_at_ms: session.ended_at_ms.unwrap_or(0) } })
        }
    }
}

/// Whether a session that has ended has left something, once that can be said.
pub async fn settled(app: &App, name: &ObjectName, ended_at_ms: u64) -> Result<bool, ApiError> {
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
