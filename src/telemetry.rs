//! What can be seen of a running process: the log, one access line per request, and the request's id.

use std::io::IsTerminal as _;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::causes::Causes;
use crate::error::ApiError;
use crate::ids::SessionId;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// JSON lines for machines, compact ones for people.
pub fn init(json: bool, filter: Option<&str>) {
    let mut filter = EnvFilter::new(filter.unwrap_or("info"));
    // The AWS clients trace whole requests and answers, and a task is told its token by one; Lambda's runtime traces
    // whole events, with their API keys.
    for quiet in ["aws_smithy_runtime=info", "aws_smithy_runtime_api=info", "lambda_runtime=info"] {
        filter = filter.add_directive(quiet.parse().expect("a directive"));
    }
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let initialized = if json {
        log.json().flatten_event(true).try_init()
    } else {
        log.compact().with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    // Somebody else's subscriber, in a test, is as good.
    drop(initialized);
}

/// A line that is meant for a program, as it is, beside those of the log.
#[cfg(feature = "lambda")]
pub fn tell(line: &serde_json::Value) {
    use std::io::Write as _;
    // Where nobody reads it, nobody misses it.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Gives the request an id, writes its access line, and gives a refusal its body.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(|id| id.to_str().ok())
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(|| SessionId::random().as_str().replacen("ses_", "req_", 1), str::to_owned);
    let method = request.method().clone();
    let route = route_of(&request);

    // A bug in one request is that request's failure.
    let mut response = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| ApiError::internal("a handler panicked").into_response());

    let error = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &error {
        // What the refusal carries besides stays.
        let headers = std::mem::take(response.headers_mut());
        response = error.render(&request_id);
        response.headers_mut().extend(headers);
    }
    let status = response.status().as_u16();
    let duration_ms = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX) as f64 / 1_000.0;
    let code = error.as_ref().map(|error| error.code);
    match error.as_ref().and_then(ApiError::cause) {
        Some(cause) if status >= 500 => {
            tracing::error!(request.id = %request_id, %method, route, status, code, duration_ms, error = %Causes(cause), "request");
        }
        // One line for each message of a client would be most of the log.
        _ if status < 400 && is_one_message(&route) => {
            tracing::debug!(request.id = %request_id, %method, route, status, duration_ms, "request");
        }
        _ => tracing::info!(request.id = %request_id, %method, route, status, code, duration_ms, "request"),
    }
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The route's pattern, never the path or query: those hold ids and tokens.
fn route_of(request: &Request) -> String {
    request.extensions().get::<MatchedPath>().map_or_else(|| "-".to_owned(), |path| path.as_str().to_owned())
}

/// Counts the request. The refusal still has no body here, and says what it is.
pub async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, route) = (request.method().clone(), route_of(&request));
    let response = next.run(request).await;
    let code = response.extensions().get::<ApiError>().map(|error| error.code);
    app.metrics.request(method.as_str(), &route, response.status().as_u16(), code, started.elapsed());
    response
}

/// Whether a route carries the messages of gateway clients, on either side.
fn is_one_message(route: &str) -> bool {
    route == "/$default" || route.ends_with("/messages")
}
