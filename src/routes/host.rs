//! The development key is known to everybody, so it is good only on one's own machine. A web page elsewhere must not come
//! by it through one's own browser: a page may have its own name resolve to 127.0.0.1, and then it is asked with that
//! name as the `Host` ("DNS rebinding").

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;
use crate::error::ApiError;

/// Refuses what was not meant for this machine, while the development key is accepted.
pub async fn only_this_machine(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.default_api_key && !is_this_machine(&request) {
        let message = "Host: must be localhost or a loopback address while the development key is accepted; set API_KEYS to serve other hosts";
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "host_not_served", message).into_response();
    }
    next.run(request).await
}

fn is_this_machine(request: &Request) -> bool {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = named.and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
