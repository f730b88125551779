//! The Lambda home: the router behind API Gateway (HTTP, REST and WebSocket), a load balancer or a function URL, and
//! what AWS itself tells.
//!
//! The environment is frozen between two invocations, and nothing in it is seen by another. So nothing is done
//! in the background here that correctness rests on: what the native home's timer does, the schedule does, and
//! a waiting claim looks by itself instead of being told.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::HOST;
use axum::http::{HeaderName, HeaderValue, Request, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use lambda_http::request::RequestContext;
use lambda_http::{RequestExt as _, Service, service_fn};
use tower::ServiceExt as _;

use crate::addresses::WebsocketApi;
use crate::app::{App, BootError};
use crate::clock::now_ms;
use crate::config::Config;
use crate::container::ClaimPace;
use crate::fleet::Fleet;
use crate::fleet::ecs::EcsFleet;
use crate::fleet::none::NoFleet;
use crate::routes::events::{self, EventError, Invocation};
use crate::ws::gateway::{self, Connections};
use crate::{lifecycle, metrics, routes, telemetry};

/// A shorter pause between two invocations is none: connections are not forgotten that fast.
const PAUSE_MS: u64 = 2_000;
/// No other process can wake a waiting claim.
const CLAIM_PACE: ClaimPace = ClaimPace { look: Duration::from_millis(250), yield_for: Duration::from_millis(250) };

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Debug, thiserror::Error)]
pub enum LambdaError {
    #[error(
        "REDIS_ENDPOINT must be set on Lambda, in every ENVIRONMENT: a Redis of this process's own would be lost with it"
    )]
    NoRedis,
    #[error(
        "API_KEYS or API_KEYS_SECRET_ARN must be set on Lambda, in every ENVIRONMENT: the development key is known to everybody"
    )]
    NoKeys,
    #[error("WEBSOCKET_API_ID must not be local on Lambda: a function can hold no sockets")]
    NoEmulator,
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("the Lambda runtime broke off")]
    Runtime(#[source] lambda_http::Error),
}

/// Serves invocations for as long as the environment lives.
pub async fn serve(config: Config) -> Result<(), LambdaError> {
    let app = boot(config).await?;
    lambda_http::run(service(app)).await.map_err(LambdaError::Runtime)
}

/// The application, with what this home can do and what it cannot.
pub async fn boot(mut config: Config) -> Result<App, LambdaError> {
    let redis = config.redis_endpoint.clone().ok_or(LambdaError::NoRedis)?;
    if config.default_api_key {
        return Err(LambdaError::NoKeys);
    }
    config.claim_pace = CLAIM_PACE;
    if matches!(config.addresses.websocket_api, Some(WebsocketApi::Local { .. })) {
        return Err(LambdaError::NoEmulator);
    }
    let fleet: Box<dyn Fleet> = match &config.ecs {
        Some(ecs) => Box::new(EcsFleet::new(ecs.clone(), &config.deployment())),
        None => {
            // A function can have no child processes, so nothing is to be reserved for them either.
            config.policy.max_containers = 0;
            Box::new(NoFleet)
        }
    };
    let push = Connections::of(config.addresses.websocket_api.as_ref());
    Ok(App::boot(config, &redis.0, String::new(), fleet, push).await?)
}

/// Answers one invocation after the other.
pub fn service(
    app: App,
) -> impl Service<
    lambda_http::Request,
    Response = Response,
    Error = EventError,
    Future = impl Future<Output = Result<Response, EventError>> + Send + 'static,
> + Clone
+ Send {
    let (router, gateway) = (routes::router(app.clone()), gateway::router(app.clone()));
    let entry = Arc::new(Entry { router, gateway, app, last_ms: AtomicU64::new(now_ms()) });
    service_fn(move |request| entry.clone().answer(request))
}

struct Entry {
    app: App,
    router: Router,
    gateway: Router,
    /// When the last invocation was answered. Wall time: a frozen machine's other clocks may have stood still.
    last_ms: AtomicU64,
}

/// Lambda writes it down, and shows it to whoever looks for why an event was not taken.
impl From<EventError> for lambda_http::lambda_runtime::Diagnostic {
    fn from(error: EventError) -> Self {
        let error_type = match &error {
            EventError::Unknown => "UnknownEvent",
            EventError::Store(_) => "StoreUnavailable",
            EventError::NotBrought => "NotBrought",
        };
        Self { error_type: error_type.to_owned(), error_message: error.to_string() }
    }
}

impl Entry {
    async fn answer(self: Arc<Self>, request: lambda_http::Request) -> Result<Response, EventError> {
        let context = request.lambda_context_ref();
        let function = context.map(|context| context.env_config.function_name.clone()).unwrap_or_default();
        if now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)) > PAUSE_MS {
            self.app.store.wake().await;
        }
        let answer = self.dispatch(request).await;
        let answered = answer.as_ref().is_ok_and(|response| !response.status().is_server_error());
        if answered && !self.app.unanswered.lock().expect("not poisoned").is_empty() {
            // Nobody else knows of them: the schedule may look from another environment. If it fails, there is a
            // next invocation, or else their own deadlines.
            let _ = lifecycle::settle(&self.app).await;
        }
        for (kind, count) in self.app.metrics.untold_failures() {
            telemetry::tell(&metrics::embedded_failures(kind, count, &function, now_ms()));
        }
        self.last_ms.store(now_ms(), Ordering::Relaxed);
        answer
    }

    /// Where an invocation comes from is told by its context, which the adapter makes and no client can. A path
    /// can be forged: `POST /events` over HTTP is a request like any other, for which there is no route.
    async fn dispatch(&self, request: lambda_http::Request) -> Result<Response, EventError> {
        if matches!(request.request_context_ref(), Some(RequestContext::PassThrough)) {
            let invocation = request.lambda_context_ref().map(|context| Invocation {
                deadline_ms: context.deadline,
                function: context.env_config.function_name.clone(),
            });
            let done = events::take_event(&self.app, request.body(), &invocation.unwrap_or_default()).await?;
            return Ok(Json(done).into_response());
        }
        let (router, is_message) = match request.request_context_ref() {
            Some(RequestContext::WebSocket(context)) => (&self.gateway, gateway::is_message(context)),
            _ => (&self.router, false),
        };
        let routed = router.clone().oneshot(as_sent(request)).await;
        let response = routed.unwrap_or_else(|never: Infallible| match never {});
        if is_message && !response.status().is_success() {
            // Of a message nobody reads the answer's status; but the gateway tells the client that it has failed.
            return Err(EventError::NotBrought);
        }
        Ok(response)
    }
}

/// The request as its client meant it: without the stage in its path, and with the host and the request id
/// that stand in the context, if it brought none.
pub fn as_sent(request: lambda_http::Request) -> Request<Body> {
    let raw = request.raw_http_path();
    let (path, host, request_id) = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => {
            (without_stage(raw, context.stage.as_deref()), context.domain_name.clone(), context.request_id.clone())
        }
        Some(RequestContext::ApiGatewayV1(context)) => {
            // A REST API gives the path without its stage, and the context has it with its stage. Where the two
            // are the same (an HTTP API that sends this older form) the stage is in the path.
            let staged = context.path.as_deref() == Some(raw);
            let path = if staged { without_stage(raw, context.stage.as_deref()) } else { raw };
            (path, context.domain_name.clone(), context.request_id.clone())
        }
        Some(RequestContext::WebSocket(context)) => (gateway::path(context), None, context.request_id.clone()),
        _ => (raw, None, None),
    };
    let uri = uri(path, request.uri().query());
    let (mut parts, body) = request.into_parts();
    parts.uri = uri;
    for (name, value) in [(HOST, host), (REQUEST_ID, request_id)] {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            parts.headers.entry(name).or_insert(value);
        }
    }
    Request::from_parts(parts, Body::new(body))
}

/// `/prod/sessions` in the stage `prod` is `/sessions`. The default stage has no name in the path.
fn without_stage<'a>(path: &'a str, stage: Option<&str>) -> &'a str {
    let named = stage.filter(|stage| *stage != "$default");
    let rest = named.and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage));
    match rest {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// Some sources have decoded the path. What cannot stand in one is encoded again.
fn uri(path: &str, query: Option<&str>) -> Uri {
    let mut text = String::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
    if !path.starts_with('/') {
        text.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'"' | b'#' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                text.push_str(&format!("%{byte:02X}"));
            }
            _ if byte.is_ascii_graphic() => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    // The query has been part of a URI before.
    Uri::try_from(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stage_itself_is_taken_from_a_path() {
        for (path, stage, rest) in [
            ("/prod/sessions", Some("prod"), "/sessions"),
            ("/prod", Some("prod"), "/"),
            ("/prod/", Some("prod"), "/"),
            ("/prod/prod/sessions", Some("prod"), "/prod/sessions"),
            ("/production/sessions", Some("prod"), "/production/sessions"),
            ("/sessions/prod", Some("prod"), "/sessions/prod"),
            ("/sessions", Some("$default"), "/sessions"),
            ("/$default/sessions", Some("$default"), "/$default/sessions"),
            ("/sessions", None, "/sessions"),
            ("", Some("prod"), ""),
        ] {
            assert_eq!(without_stage(path, stage), rest, "{path} in {stage:?}");
        }
    }

    #[test]
    fn any_path_becomes_a_uri_that_means_the_same() {
        assert_eq!(uri("/sessions/a", Some("status=active&limit=2")), "/sessions/a?status=active&limit=2");
        assert_eq!(uri("/a b?c#d\u{e9}", None), "/a%20b%3Fc%23d%C3%A9");
        assert_eq!(uri("/a%20b", None), "/a%20b");
        assert_eq!(uri("", None), "/");
        assert_eq!(uri("//evil.example.com/sessions", None).path(), "//evil.example.com/sessions");
    }
}
