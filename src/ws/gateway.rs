//! API Gateway's WebSocket API: its events in, `@connections` out.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_apigatewaymanagement::Client;
use aws_sdk_apigatewaymanagement::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use axum::routing::any;
use axum::{Router, middleware};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lambda_http::aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequestContext as Context;
use lambda_http::request::RequestContext;
use tokio::sync::OnceCell;

use crate::addresses::WebsocketApi;
use crate::app::App;
use crate::error::ApiError;
use crate::ids::ConnectionId;
use crate::push::{Push, PushError, Pushed};
use crate::telemetry;

/// One call to `@connections` takes some ten milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The three events, each by a path that only the adapter can lead to: it goes by the event's context, and no request
/// that came over HTTP has that.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/$connect", any(connect))
        .route("/$default", any(message))
        .route("/$disconnect", any(disconnect))
        .fallback(async || ApiError::not_found("unknown_event", "no such WebSocket event"))
        .layer(middleware::from_fn(telemetry::observe))
        .with_state(app)
}

/// Where in [`router`] an event belongs.
pub fn path(context: &Context) -> &'static str {
    match context.event_type.as_deref() {
        Some("CONNECT") => "/$connect",
        Some("MESSAGE") => "/$default",
        Some("DISCONNECT") => "/$disconnect",
        _ => "/",
    }
}

pub fn is_message(context: &Context) -> bool {
    path(context) == "/$default"
}

/// What the gateway says about the socket an event is about.
struct Socket {
    connection: ConnectionId,
    context: Context,
}

impl<S: Send + Sync> FromRequestParts<S> for Socket {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(RequestContext::WebSocket(context)) = parts.extensions.remove::<RequestContext>() else {
            return Err(ApiError::not_found("unknown_event", "no WebSocket event"));
        };
        let connection = context.connection_id.as_deref().and_then(|id| id.parse().ok());
        let connection =
            connection.ok_or_else(|| ApiError::invalid("requestContext.connectionId: not a valid connection id"))?;
        Ok(Self { connection, context })
    }
}

/// A refusal is what the client's upgrade is answered with.
async fn connect(State(app): State<App>, socket: Socket, uri: Uri, headers: HeaderMap) -> Result<(), ApiError> {
    super::on_connect(&app, &socket.connection, &uri, &headers).await
}

async fn message(State(app): State<App>, socket: Socket, text: String) -> Result<(), ApiError> {
    let Socket { connection, context } = socket;
    let message_id = context
        .message_id
        .or(context.request_id)
        .ok_or_else(|| ApiError::invalid("requestContext.messageId: must be given"))?;
    super::on_message(&app, &connection, &message_id, &text).await
}

async fn disconnect(State(app): State<App>, socket: Socket) -> Result<(), ApiError> {
    tracing::debug!(
        connection.id = %socket.connection, close.code = socket.context.disconnect_status_code,
        close.reason = socket.context.disconnect_reason, "the gateway closed a connection"
    );
    super::on_disconnect(&app, &socket.connection).await
}

/// The gateway's `@connections` API.
#[derive(Debug)]
pub struct Connections {
    endpoint: String,
    region: String,
    /// Made when it is first needed: most invocations push nothing, and none should wait for what it does not need.
    client: OnceCell<Client>,
}

impl Connections {
    /// What pushes to the clients of a WebSocket API in AWS.
    pub fn of(api: Option<&WebsocketApi>) -> Option<Box<dyn Push>> {
        match api {
            Some(WebsocketApi::Aws { endpoint, region, .. }) => {
                Some(Box::new(Self::new(endpoint.clone(), region.clone())))
            }
            Some(WebsocketApi::Local { .. }) | None => None,
        }
    }

    /// `endpoint` with the stage, without a slash at its end.
    fn new(endpoint: String, region: String) -> Self {
        Self { endpoint, region, client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async {
                let timeouts =
                    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(CALL_TIMEOUT).build();
                let config = aws_config::defaults(BehaviorVersion::latest())
                    .region(Region::new(self.region.clone()))
                    .endpoint_url(&self.endpoint)
                    .timeout_config(timeouts)
                    // A message whose answer was lost may have arrived; whether to send it again is for those to
                    // say who know what it is. Nor is anything gained by knocking at once where too many do.
                    .retry_config(RetryConfig::disabled())
                    .load()
                    .await;
                Client::new(&config)
            })
            .await
    }
}

fn failed<E, R>(action: &'static str, error: SdkError<E, R>) -> PushError
where
    E: std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    PushError { action, cause: Box::new(error) }
}

fn is_gone<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    error.as_service_error().is_some_and(|error| error.code() == Some("GoneException"))
}

impl Push for Connections {
    fn send<'a>(&'a self, connection: &'a ConnectionId, text: &'a str) -> BoxFuture<'a, Result<Pushed, PushError>> {
        async move {
            let call = self.client().await.post_to_connection().connection_id(connection.as_str());
            match call.data(Blob::new(text)).send().await {
                Ok(_) => Ok(Pushed::Sent),
                Err(error) if is_gone(&error) => Ok(Pushed::Gone),
                Err(error) => Err(failed("posting to a connection", error)),
            }
        }
        .boxed()
    }

    fn close<'a>(&'a self, connection: &'a ConnectionId) -> BoxFuture<'a, Result<(), PushError>> {
        async move {
            match self.client().await.delete_connection().connection_id(connection.as_str()).send().await {
                Ok(_) => Ok(()),
                Err(error) if is_gone(&error) => Ok(()),
                Err(error) => Err(failed("closing a connection", error)),
            }
        }
        .boxed()
    }
}
