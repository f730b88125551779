//! What can be seen of a session: which pages its browser shows, the picture of one of them, and the DevTools that the
//! browser brings. Who may see it is for the control plane to know; what a viewer may not do is decided here
//! ([`viewer`]), whatever the page that shows the picture would do.

mod viewer;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::header::{self, HeaderValue};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::time::timeout;

use super::devtools::{self, DevtoolsError};
use super::logs::Ear;
use super::relay::{self, DIAL_TIMEOUT, MAX_VIEWERS, Route, Routes};
use crate::error::ApiError;
use crate::protocol::{CDP_SECRET_HEADER, Page, PageId, PagesResponse};
use crate::upgrade::{self, Leg, Upgrade};

pub fn router() -> Router<Routes> {
    Router::new()
        .route("/sessions/{id}/pages", get(list_pages))
        .route("/sessions/{id}/watch", get(watch_page))
        .route("/sessions/{id}/drive", get(drive_page))
        .route("/sessions/{id}/devtools/{*file}", get(show_devtools))
}

/// A session that a path names, whose secret the request shows.
pub struct Known(pub Route);

impl FromRequestParts<Routes> for Known {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, routes: &Routes) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Session {
            id: String,
        }
        let found = Path::<Session>::from_request_parts(parts, routes).await;
        let Path(session) = found.map_err(|_| ApiError::session_not_found())?;
        let secret = parts.headers.get(CDP_SECRET_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
        routes.find(&session.id, secret).map(Self).ok_or_else(ApiError::session_not_found)
    }
}

#[derive(Deserialize)]
struct Wanted {
    page: Option<PageId>,
}

/// `GET /sessions/{id}/pages`
async fn list_pages(Known(route): Known) -> Result<Json<PagesResponse>, ApiError> {
    Ok(Json(PagesResponse { pages: pages(&route).await? }))
}

/// `GET /sessions/{id}/watch?page=..`: the picture of a page, for one who may do nothing in it.
async fn watch_page(Known(route): Known, Query(wanted): Query<Wanted>, request: Request) -> Result<Response, ApiError> {
    open(route, wanted, request, |client, page, route| viewer::serve(client, page, route.open)).await
}

/// `GET /sessions/{id}/drive?page=..`: all that a client of the whole browser may do, in one page.
async fn drive_page(Known(route): Known, Query(wanted): Query<Wanted>, request: Request) -> Result<Response, ApiError> {
    open(route, wanted, request, |client, page, route| async move {
        // Who watches is not a client of the session: what is done by hand is in no log.
        relay::relay(client, page, &route.door.filter, Ear::deaf(), route.open).await;
    })
    .await
}

/// Opens a socket to a page, which is then served by `serve` for as long as both are there.
async fn open<F>(
    route: Route,
    wanted: Wanted,
    mut request: Request,
    serve: impl FnOnce(Leg, Leg, Route) -> F + Send + 'static,
) -> Result<Response, ApiError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade = match Upgrade::from_request(&mut request) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let place = Arc::clone(&route.viewers).try_acquire_owned().map_err(|_| {
        let message = format!("the session is watched by {MAX_VIEWERS} already");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_viewers", message).retry_after_ms(5_000)
    })?;
    let page = dial(&route, wanted.page.as_ref()).await?;
    let (response, client) = upgrade.accept();
    tokio::spawn(async move {
        let _place = place;
        // Whoever hung up before the answer needs nothing.
        if let Ok(client) = client.await {
            serve(client, page, route).await;
        }
    });
    Ok(response)
}

/// The page's own socket. Without a name: of the page that was last active.
async fn dial(route: &Route, wanted: Option<&PageId>) -> Result<Leg, ApiError> {
    let endpoint = &route.door.endpoint;
    // Chrome would open whatever it knows by that id: workers, frames, and the browser itself.
    let page =
        pages(route).await?.into_iter().find(|page| wanted.is_none_or(|id| *id == page.id)).ok_or_else(|| {
            ApiError::new(StatusCode::GONE, "page_gone", "the browser has no such page, or no longer")
        })?;
    let path = format!("/devtools/page/{}", page.id.as_str());
    let dialled = upgrade::dial(&endpoint.address(), &path, &[], DIAL_TIMEOUT).await;
    dialled.map_err(|error| unreachable(error.into()))
}

async fn pages(route: &Route) -> Result<Vec<Page>, ApiError> {
    let pages = timeout(DIAL_TIMEOUT, devtools::pages(route.door.endpoint.port)).await.map_err(|_| late())?;
    pages.map_err(unreachable)
}

/// `GET /sessions/{id}/devtools/{file}`
async fn show_devtools(Known(route): Known, Path((_, file)): Path<(String, String)>) -> Result<Response, ApiError> {
    let not_there = || ApiError::not_found("file_not_found", "the browser's DevTools have no such file");
    // What else Chrome serves there are sockets.
    if !file.split('/').all(is_plain) || file.starts_with("page/") || file.starts_with("browser/") {
        return Err(not_there());
    }
    let found = timeout(DIAL_TIMEOUT, devtools::file(route.door.endpoint.port, &file)).await.map_err(|_| late())?;
    let (parts, body) = found.map_err(unreachable)?.ok_or_else(not_there)?.into_parts();
    let mut headers = HeaderMap::new();
    headers.extend(parts.headers.get(header::CONTENT_TYPE).map(|kind| (header::CONTENT_TYPE, kind.clone())));
    Ok((headers, body).into_response())
}

fn is_plain(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'@');
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)
}

fn late() -> ApiError {
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "browser_unreachable", "the session's browser does not answer")
}

fn unreachable(error: DevtoolsError) -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, "browser_unreachable", "the session's browser does not answer")
        .caused_by(error)
}
