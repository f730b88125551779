//! Which pages may use the API from within a browser ("CORS"): none, but those of `CORS_ORIGINS`. A key is sent in a header
//! by who knows it, and never by a browser of itself, so no credentials are allowed.

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// What is in our answers that a page could not read otherwise.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, retry-after-ms, x-should-retry, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset",
);
/// Seconds. Chrome keeps it no longer than two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Answers the question whether a page may ask, and says with each answer whether its page may read it.
pub async fn share_with_origins(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.cors_origins.is_empty() {
        return next.run(request).await;
    }
    let headers = request.headers();
    let origin = headers.get(ORIGIN).filter(|origin| app.cors_origins.contains(origin)).cloned();
    let asks = request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks && origin.is_some() {
        let wanted = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        response.headers_mut().insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        if let Some(wanted) = wanted {
            // SDKs have headers of their own, and new ones with each version.
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        }
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    // What is kept for one page is not for another.
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}
