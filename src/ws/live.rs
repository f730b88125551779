//! Watching a session: where it can be watched, which pages it has, and the addresses under which they are shown. What
//! answers at those addresses is [`watch`](super::watch), where sockets can be held.
//!
//! Who watches is no client of the session: nothing is entered in the store, so that it neither keeps the session alive,
//! nor is it the one whose leaving ends it or whose coming it waits for. How many may watch is for the container to say.

use axum::http::{HeaderMap, StatusCode};

use schemars::JsonSchema;
use serde::Deserialize;

use super::gone;
use crate::addresses::Addresses;
use crate::app::App;
use crate::container_client::ContainerError;
use crate::error::ApiError;
use crate::ids::{SessionId, UserId};
use crate::protocol::{Page, PageId};
use crate::store::{Route, View, ViewedAt};

/// When a browser that was not there yet may be.
const NOT_READY_RETRY_MS: u64 = 1_000;
/// What is answered until then.
pub const NOT_READY: &str = "session_not_ready";
const UNREACHABLE_RETRY_MS: u64 = 500;

#[derive(Deserialize, JsonSchema)]
pub struct LiveQuery {
    pub token: Option<String>,
    /// One of the session's pages; the one that was last active, if it is not said.
    pub page: Option<PageId>,
}

/// Where a session is reached, who created it, and when its time is up.
pub struct Seen {
    pub route: Route,
    pub user: UserId,
    pub expires_at_ms: u64,
}

/// A session that has a browser, for one who may see it. `is_theirs`: an API key opens what its owner has,
/// and a token the session that its user created.
pub async fn find(app: &App, id: &SessionId, is_theirs: impl FnOnce(&View) -> bool) -> Result<Seen, ApiError> {
    match app.store.view(id).await? {
        Some(view) if is_theirs(&view) => match view.at {
            ViewedAt::Ready { route, expires_at_ms } => Ok(Seen { route, user: view.user, expires_at_ms }),
            ViewedAt::Waiting => Err(ApiError::new(
                StatusCode::CONFLICT,
                NOT_READY,
                "the session has no browser yet; ask again once its status is RUNNING and its browser answers",
            )
            .retry_after_ms(NOT_READY_RETRY_MS)),
            ViewedAt::Ended(reason) => Err(gone(reason)),
        },
        _ => Err(ApiError::session_not_found()),
    }
}

/// The pages of its browser, the one that was last active first.
pub async fn pages(app: &App, route: &Route) -> Result<Vec<Page>, ApiError> {
    app.containers.pages(route).await.map_err(unreachable)
}

/// 503: it is about to end, or will answer in a moment.
pub fn unreachable(error: ContainerError) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "browser_unreachable", "the session's browser does not answer")
        .retry_after_ms(UNREACHABLE_RETRY_MS)
        .caused_by(error)
}

/// The addresses under which one session is watched.
pub struct Links {
    /// Without a slash at its end.
    base: String,
    session: SessionId,
    token: String,
}

impl Links {
    /// # Errors
    /// Where only a gateway holds the clients' sockets.
    pub fn base(addresses: &Addresses, headers: &HeaderMap) -> Result<String, ApiError> {
        addresses.live_url(headers).ok_or_else(|| {
            let message = "live view does not go through an API Gateway WebSocket: it needs the proxy, whose address the \
                           service's operator sets as CDP_ENDPOINT or ALB_DNS_NAME";
            ApiError::new(StatusCode::NOT_IMPLEMENTED, "live_view_not_available", message).not_to_be_retried()
        })
    }

    pub fn new(base: String, session: SessionId, token: String) -> Self {
        Self { base, session, token }
    }

    /// The picture of a page, or of the one that was last active, and nothing around it.
    pub fn picture(&self, page: Option<&PageId>) -> String {
        format!("{}/sessions/{}/live?token={}{}", self.base, self.session, self.token, in_query(page))
    }

    /// The same with the session's pages and the page's address above it.
    pub fn window(&self, page: Option<&PageId>) -> String {
        format!("{}&navbar=true", self.picture(page))
    }

    /// Chrome's own DevTools. Their socket is named without a scheme, which the parameter's name says.
    pub fn devtools(&self, page: Option<&PageId>) -> String {
        let socket = self.socket(page);
        let (scheme, socket) = socket.split_once("://").unwrap_or(("ws", &socket));
        let socket: String = socket
            .chars()
            .map(|c| match c {
                '?' => "%3F".to_owned(),
                '&' => "%26".to_owned(),
                '=' => "%3D".to_owned(),
                other => other.to_string(),
            })
            .collect();
        format!("{}/sessions/{}/devtools/{}/inspector.html?{scheme}={socket}", self.base, self.session, self.token)
    }

    /// The socket of a page, which speaks as much CDP as the token allows.
    pub fn socket(&self, page: Option<&PageId>) -> String {
        let base = self.base.strip_prefix("http").unwrap_or(&self.base);
        format!("ws{base}/sessions/{}/live/ws?token={}{}", self.session, self.token, in_query(page))
    }
}

fn in_query(page: Option<&PageId>) -> String {
    page.map(|page| format!("&page={}", page.as_str())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_lead_to_the_proxy_and_the_devtools_socket_survives_the_query() {
        let page = PageId::try_from("AB12".to_owned()).expect("an id");
        let links =
            Links::new("https://cdp.example.com/x".to_owned(), "ses_1".parse().expect("an id"), "t.k".to_owned());
        assert_eq!(links.picture(None), "https://cdp.example.com/x/sessions/ses_1/live?token=t.k");
        assert_eq!(
            links.window(Some(&page)),
            "https://cdp.example.com/x/sessions/ses_1/live?token=t.k&page=AB12&navbar=true"
        );
        assert_eq!(links.socket(Some(&page)), "wss://cdp.example.com/x/sessions/ses_1/live/ws?token=t.k&page=AB12");
        assert_eq!(
            links.devtools(Some(&page)),
            "https://cdp.example.com/x/sessions/ses_1/devtools/t.k/inspector.html\
             ?wss=cdp.example.com/x/sessions/ses_1/live/ws%3Ftoken%3Dt.k%26page%3DAB12"
        );
    }
}
