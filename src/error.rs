//! What the API answers when it does not do what it was asked: the right status, a code for programs, a
//! sentence for people, and when to try again.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::http::header::{HeaderName, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::store::StoreError;
#[cfg(feature = "agent")]
use crate::upgrade::NotAnUpgrade;

/// A refusal or a failure on its way to the client. The cause stays here, and is logged once.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    /// Stable, for programs: `session_not_found`.
    pub code: &'static str,
    pub message: String,
    pub retry_after_ms: Option<u64>,
    /// The answer will be the same: clients of the Browserbase API would repeat every 409 and 5xx.
    final_answer: bool,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// The body of every refusal.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Error")]
pub struct ErrorBody<'a> {
    /// That of the answer.
    #[schemars(range(min = 400, max = 599))]
    status_code: u16,
    /// What HTTP calls the status: `Not Found`.
    error: &'a str,
    /// Stable, for programs: `session_not_found`.
    #[schemars(regex(pattern = "^[a-z_]+$"))]
    code: &'a str,
    /// For people. Where a field is wrong it begins with its name.
    message: &'a str,
    /// Under which the request stands in the log.
    request_id: &'a str,
}

/// How long a client should wait when the reason is a dependency that is away.
const DEPENDENCY_RETRY_MS: u64 = 1_000;

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_ms: None, final_answer: false, cause: None }
    }

    /// 400. The message names the field.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 503. Behind a balancer the next attempt leads elsewhere.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this server is about to end").retry_after_ms(1_000)
    }

    pub fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 500: a bug of ours, which the client is told nothing about.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let mut error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "something went wrong here");
        error.cause = Some(Arc::from(cause.into()));
        error
    }

    /// 404, for a session that does not exist and for one that belongs to somebody else.
    pub fn session_not_found() -> Self {
        Self::not_found("session_not_found", "no such session")
    }

    /// 404, for a context that does not exist and for one that belongs to somebody else.
    pub fn context_not_found() -> Self {
        Self::not_found("context_not_found", "no such context")
    }

    /// 404, for an extension that does not exist and for one that belongs to somebody else.
    pub fn extension_not_found() -> Self {
        Self::not_found("extension_not_found", "no such extension")
    }

    /// 404, likewise.
    pub fn project_not_found() -> Self {
        Self::not_found("project_not_found", "no such project")
    }

    /// 410, for a gateway's connection that has ended and for one that the caller may not know of.
    pub fn connection_gone() -> Self {
        Self::new(StatusCode::GONE, "connection_gone", "there is no such connection, or no longer")
    }

    pub fn retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// Has the clients of the Browserbase API not ask again.
    pub fn not_to_be_retried(mut self) -> Self {
        self.final_answer = true;
        self
    }

    /// Goes into the log, never to the client.
    pub fn caused_by(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync)> {
        self.cause.as_deref()
    }

    /// The answer, with the id under which the request stands in the log.
    pub fn render(&self, request_id: &str) -> Response {
        let body = ErrorBody {
            status_code: self.status.as_u16(),
            error: self.status.canonical_reason().unwrap_or("Error"),
            code: self.code,
            message: &self.message,
            request_id,
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(ms) = self.retry_after_ms {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
            headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(ms));
        }
        if self.final_answer {
            response.headers_mut().insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        response
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ApiError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if !matches!(error, StoreError::Unavailable(..)) {
            return Self::internal(error);
        }
        let message = "the session store is not available";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message)
            .retry_after_ms(DEPENDENCY_RETRY_MS)
            .caused_by(error)
    }
}

/// Whoever asked for something else than the socket that is there.
#[cfg(feature = "agent")]
impl IntoResponse for NotAnUpgrade {
    fn into_response(self) -> Response {
        (self.headers(), ApiError::new(self.status(), "not_a_websocket", self.to_string())).into_response()
    }
}

/// The body is written by `telemetry::observe`, which knows the request's id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
