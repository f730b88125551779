//! The development key is known to everybody, so it is good only on one's own machine. A web page elsewhere must not come
//! by it through one's own browser: a page may have its own name resolve to 127.0.0.1, and then it is asked with that
//! name as the `Host` ("DNS rebinding").

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;
use crate::error::ApiError;

/// Refuses what was not meant for this machine, or comes from a page of another, while the development key is accepted.
pub async fn only_this_machine(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.default_api_key {
        let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        if text(HOST).is_none_or(|host| !is_this_machine(host)) {
            let message = "Host: must be localhost or a loopback address while the development key is accepted; set API_KEYS to serve other hosts";
            return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host_not_served", message).into_response();
        }
        if text(ORIGIN).is_some_and(|origin| !is_own(origin)) {
            let message = "Origin: must be of this machine while the development key is accepted; set API_KEYS to serve other pages";
            return ApiError::new(StatusCode::FORBIDDEN, "origin_not_served", message).into_response();
        }
    }
    next.run(request).await
}

fn is_this_machine(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether it is the origin of a page of this machine, or of an extension that somebody installed: Stagehand's opens a
/// socket of its own to the session's browser. A browser asks with an `Origin` where a page could read the answer, or
/// change something by asking.
fn is_own(origin: &str) -> bool {
    match origin.split_once("://") {
        Some(("http" | "https", authority)) => is_this_machine(authority),
        Some(("chrome-extension", _)) => true,
        _ => false,
    }
}
