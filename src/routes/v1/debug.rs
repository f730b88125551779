//! Where a session can be watched.
//!
//! Whoever gets the answer can pass it on: by default its addresses show the pages and do nothing else. With
//! `?interactive=true` they drive them, as `connectUrl` does, and include the DevTools.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::auth::Caller;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::protocol::{Page, PageId};
use crate::routes::body::{QueryOf, SessionPath};
use crate::tokens::Subject;
use crate::ws::live::{self, Links, Seen};

/// As long as a session can be, in seconds.
const MAX_EXPIRES_IN: u64 = 21_600;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DebugQuery {
    /// Seconds. The session's own time, if it is not said or longer.
    #[schemars(range(min = 1, max = MAX_EXPIRES_IN))]
    expires_in: Option<u64>,
    /// Whether the addresses drive the pages, and not only show them.
    #[serde(default)]
    interactive: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Debug")]
pub struct DebugView {
    #[serde(flatten)]
    urls: DebugUrls,
    ws_url: String,
    pages: Vec<PageView>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DebugUrls {
    debugger_url: String,
    debugger_fullscreen_url: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DebugPage")]
struct PageView {
    #[serde(flatten)]
    page: Page,
    #[serde(flatten)]
    urls: DebugUrls,
}

/// `GET /v1/sessions/{id}/debug`
pub async fn debug_session(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    QueryOf(asked): QueryOf<DebugQuery>,
    headers: HeaderMap,
) -> Result<Json<DebugView>, ApiError> {
    let expires_in = asked.expires_in.unwrap_or(MAX_EXPIRES_IN);
    if !(1..=MAX_EXPIRES_IN).contains(&expires_in) {
        return Err(ApiError::invalid(format!(
            "expiresIn: must be a whole number of seconds from 1 to {MAX_EXPIRES_IN}"
        )));
    }
    let base = Links::base(&app.addresses, &headers)?;
    let owner = caller.owner();
    let Seen { route, user, expires_at_ms } = live::find(&app, &id, |view| view.owner == owner).await?;
    let pages = live::pages(&app, &route).await?;
    let (session, now_ms) = (id.clone(), now_ms());
    let subject = if asked.interactive { Subject::Connect { session, user } } else { Subject::View { session, user } };
    let until_ms = expires_at_ms.min(now_ms + expires_in * 1_000);
    let token = app.tokens.get(now_ms).await?.mint(&subject, now_ms, until_ms);
    let ws_url = asked.interactive.then(|| app.addresses.connect_url(&headers, &id, &token));
    Ok(Json(view(&Links::new(base, id, token), ws_url, pages)))
}

/// `connect_url`: of the whole browser, for one who may drive it.
fn view(links: &Links, connect_url: Option<String>, pages: Vec<Page>) -> DebugView {
    let drives = connect_url.is_some();
    let urls = |page: Option<&PageId>| DebugUrls {
        debugger_url: if drives { links.devtools(page) } else { links.window(page) },
        debugger_fullscreen_url: links.picture(page),
    };
    DebugView {
        urls: urls(None),
        ws_url: connect_url.unwrap_or_else(|| links.socket(None)),
        pages: pages.into_iter().map(|page| PageView { urls: urls(Some(&page.id)), page }).collect(),
    }
}
