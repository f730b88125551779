//! What answers at the addresses of [`live`], on native homes: the page that shows a session's pictures, its
//! list of pages, the sockets on which pictures come, and the DevTools of the session's own browser.
//!
//! With a token that may only watch, the socket leads to where the container lets through nothing but pictures; with one
//! that may connect, to the page itself. Here bytes are spliced in either case.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::time::{Instant, sleep_until};

use super::live::{self, LiveQuery, Seen, find};
use super::proxy::{DIAL_TIMEOUT, closing, splice_options};
use crate::app::App;
use crate::auth::{bearer, verify_token_until};
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::container_client::ContainerError;
use crate::error::ApiError;
use crate::ids::{SessionId, UserId};
use crate::protocol::{CDP_SECRET_HEADER, PageId, PagesResponse};
use crate::routes::SessionPath;
use crate::splice::{CloseFrame, splice};
use crate::store::Route;
use crate::tokens::{Subject, TokenError};
use crate::upgrade::{self, DialError, Upgrade};

/// The DevTools of a session's browser do not change while it lives.
const DEVTOOLS_AGE: &str = "private, max-age=3600";
/// RFC 6455, section 7.4.1: against a policy. The token's time is up, and the session's is not.
const LINK_EXPIRED: CloseFrame = CloseFrame { code: 1008, reason: Cow::Borrowed("the link has expired") };

const PAGE: &str = include_str!("watch/live.html");
const STYLE: &str = include_str!("watch/live.css");
const SCRIPT: &str = include_str!("watch/live.js");

/// What a token says of one who wants to watch.
struct Viewer {
    user: UserId,
    drives: bool,
    until_ms: u64,
}

async fn authorize(
    app: &App,
    uri: &Uri,
    headers: &HeaderMap,
    id: &SessionId,
) -> Result<(Viewer, Option<PageId>), ApiError> {
    let Query(query) = Query::<LiveQuery>::try_from_uri(uri)
        .map_err(|_| ApiError::invalid("token and page: must each be given at most once, and be valid"))?;
    let Some(token) = query.token.as_deref().or_else(|| bearer(headers)) else {
        return Err(ApiError::unauthorized("missing_token", "send the token of a live view as ?token="));
    };
    Ok((viewer(app, token, id).await?, query.page))
}

async fn viewer(app: &App, token: &str, id: &SessionId) -> Result<Viewer, ApiError> {
    let (subject, until_ms) = verify_token_until(app, token).await?;
    let (session, user, drives) = match subject {
        Subject::View { session, user } => (session, user, false),
        Subject::Connect { session, user } => (session, user, true),
        _ => return Err(TokenError::Invalid.into()),
    };
    if session == *id { Ok(Viewer { user, drives, until_ms }) } else { Err(ApiError::session_not_found()) }
}

/// `GET /sessions/{id}/live?token=..&page=..`: shows the pictures. It may be embedded anywhere: that is its use.
pub async fn show_page(
    State(app): State<App>,
    SessionPath(id): SessionPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (viewer, _) = authorize(&app, &uri, &headers, &id).await?;
    let (html, policy) = LazyLock::force(if viewer.drives { &DRIVEN } else { &WATCHED });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, guards(), html.clone()).into_response())
}

static WATCHED: LazyLock<(String, HeaderValue)> = LazyLock::new(|| page("watch"));
static DRIVEN: LazyLock<(String, HeaderValue)> = LazyLock::new(|| page("drive"));

/// The page as it is served, and a policy under which nothing runs in it but what is in it, and nothing is loaded from
/// elsewhere. The token is in the page's address, and nowhere in the page.
fn page(mode: &str) -> (String, HeaderValue) {
    let html = PAGE.replace("{mode}", mode).replace("{style}", STYLE).replace("{script}", SCRIPT);
    let hash = |text: &str| BASE64.encode(digest::digest(&digest::SHA256, text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors *",
        hash(SCRIPT),
        hash(STYLE)
    );
    (html, HeaderValue::from_str(&policy).expect("plain text"))
}

/// So that no address with a token in it is told to anybody.
fn guards() -> [(HeaderName, HeaderValue); 2] {
    [
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]
}

/// `GET /sessions/{id}/live/pages`
pub async fn list_pages(
    State(app): State<App>,
    SessionPath(id): SessionPath,
    uri: Uri,
    headers: HeaderMap,
) -> Result<([(HeaderName, HeaderValue); 1], Json<PagesResponse>), ApiError> {
    let (viewer, _) = authorize(&app, &uri, &headers, &id).await?;
    let Seen { route, .. } = find(&app, &id, |view| view.user == viewer.user).await?;
    let pages = live::pages(&app, &route).await?;
    let fresh = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((fresh, Json(PagesResponse { pages })))
}

/// `GET /sessions/{id}/devtools/{token}/{file}`: the DevTools of the session's browser, for one who may drive it. The token
/// is in the path, because the files they load are named relative to it.
pub async fn show_devtools(
    State(app): State<App>,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    // What is no text names nothing.
    let Path((id, token, file)) = path.map_err(|_| ApiError::session_not_found())?;
    let id: SessionId = id.parse().map_err(|_| ApiError::session_not_found())?;
    let viewer = viewer(&app, &token, &id).await?;
    if !viewer.drives {
        return Err(TokenError::Invalid.into());
    }
    let Seen { route, .. } = find(&app, &id, |view| view.user == viewer.user).await?;
    let not_there = || ApiError::not_found("file_not_found", "the browser's DevTools have no such file");
    // It becomes part of a path again.
    if !file.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%')) {
        return Err(not_there());
    }
    let (mut headers, body) = match app.containers.devtools_file(&route, &file).await {
        Err(ContainerError::Status(StatusCode::NOT_FOUND)) => return Err(not_there()),
        answered => answered.map_err(live::unreachable)?,
    };
    let kind = headers.remove(header::CONTENT_TYPE).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(DEVTOOLS_POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static(DEVTOOLS_AGE)),
    ];
    Ok((headers, guards(), body).into_response())
}

/// Beside the one that Chrome writes into the page: nothing is loaded from elsewhere, nor told to anybody. What a
/// container serves runs under this service's name, and `sandbox` cannot keep it apart: without `localStorage` the DevTools
/// do not start (measured, 156). So nothing of ours keeps anything there.
const DEVTOOLS_POLICY: &str = "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; \
                               base-uri 'none'; form-action 'none'; frame-ancestors *";

/// `GET /sessions/{id}/live/ws?token=..&page=..`: a page's socket.
pub async fn watch_page(
    State(app): State<App>,
    SessionPath(id): SessionPath,
    mut request: Request,
) -> Result<Response, ApiError> {
    let (viewer, page) = authorize(&app, request.uri(), request.headers(), &id).await?;
    let upgrade = match Upgrade::from_request(&mut request) {
        Ok(upgrade) => upgrade,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    if app.draining.is_cancelled() {
        return Err(ApiError::stopping());
    }
    let place = super::place(&app, &id)?;
    // Before the look: of an end that comes after it somebody tells.
    let mut events = app.events.session(&id);
    let Seen { route, expires_at_ms, .. } = find(&app, &id, |view| view.user == viewer.user).await?;
    let browser = dial(&route, page.as_ref(), viewer.drives).await?;
    tracing::info!(session.id = %id, drives = viewer.drives, "viewer connected");
    let (response, client) = upgrade.accept();
    app.clone().sockets.spawn(async move {
        // Who hung up before the answer needs nothing.
        let Ok(client) = client.await else { return };
        let expired = Instant::now() + Duration::from_millis(viewer.until_ms.saturating_sub(now_ms()));
        let close = async {
            tokio::select! {
                close = closing(&app, &id, &mut events, expires_at_ms) => close,
                () = sleep_until(expired), if viewer.until_ms < expires_at_ms => LINK_EXPIRED,
            }
        };
        let _open = app.metrics.viewer();
        let report = splice(client, browser, splice_options(&app), close).await;
        tracing::info!(
            session.id = %id, drives = viewer.drives, bytes.to_client = report.bytes_to_client,
            ended_by = ?report.ended_by, "viewer disconnected"
        );
        drop(place);
    });
    Ok(response)
}

async fn dial(route: &Route, page: Option<&PageId>, drives: bool) -> Result<upgrade::Leg, ApiError> {
    let secret = HeaderValue::from_str(&route.secret).unwrap_or_else(|_| HeaderValue::from_static(""));
    let headers = [(HeaderName::from_static(CDP_SECRET_HEADER), secret)];
    let door = if drives { "drive" } else { "watch" };
    let page = page.map(|page| format!("?page={}", page.as_str())).unwrap_or_default();
    let path = format!("/sessions/{}/{door}{page}", route.session);
    upgrade::dial(&route.address, &path, &headers, DIAL_TIMEOUT).await.map_err(|error| match error {
        DialError::Refused { status: StatusCode::GONE } => {
            ApiError::not_found("page_not_found", "the session's browser has no such page, or no longer")
        }
        DialError::Refused { status: StatusCode::TOO_MANY_REQUESTS } => {
            let message = "the session is watched by as many as may be";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_viewers", message).retry_after_ms(5_000)
        }
        error => {
            tracing::warn!(session.id = %route.session, error = %Causes(&error), "a page could not be reached");
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "browser_unreachable",
                "the session's browser does not answer",
            )
            .retry_after_ms(500)
        }
    })
}
