//! The listener's routes for gateway clients. Who shows the session's secret brings their messages here.

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::{post, put};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::{Clients, Refused};
use crate::agent::relay::Routes;
use crate::error::ApiError;
use crate::ids::ConnectionId;
use crate::protocol::{CDP_SECRET_HEADER, GATEWAY_MESSAGE_BYTES, HeldMessage, MESSAGE_ID_HEADER};

/// The names API Gateway gives messages have 16 characters.
const MAX_MESSAGE_ID: usize = 128;
const RETRY_MS: u64 = 1_000;

pub fn router() -> Router<Routes> {
    Router::new()
        .route("/sessions/{id}/connections/{connection}", put(open).delete(close))
        .route("/sessions/{id}/connections/{connection}/messages", post(take))
}

/// A connection that a path names, in a session whose secret the request shows.
struct Named {
    clients: Clients,
    connection: ConnectionId,
}

impl FromRequestParts<Routes> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, routes: &Routes) -> Result<Self, ApiError> {
        let Path((session, connection)) = Path::<(String, String)>::from_request_parts(parts, routes)
            .await
            .map_err(|_| ApiError::session_not_found())?;
        let secret = parts.headers.get(CDP_SECRET_HEADER).map_or(&b""[..], HeaderValue::as_bytes);
        let clients = routes.clients(&session, secret).ok_or_else(ApiError::session_not_found)?;
        let connection =
            connection.parse().map_err(|_| ApiError::invalid("the path does not name a valid connection id"))?;
        Ok(Self { clients, connection })
    }
}

/// `PUT /sessions/{id}/connections/{connectionId}`
async fn open(Named { clients, connection }: Named) -> Result<StatusCode, ApiError> {
    clients.open(&connection).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /sessions/{id}/connections/{connectionId}`
async fn close(Named { clients, connection }: Named) -> StatusCode {
    clients.close(&connection);
    StatusCode::NO_CONTENT
}

/// `POST /sessions/{id}/connections/{connectionId}/messages`
async fn take(Named { clients, connection }: Named, request: Request) -> Result<StatusCode, ApiError> {
    let message_id = message_id(request.headers())?;
    let text = text(request.into_body()).await?;
    clients.take(&connection, HeldMessage { message_id, text }).await?;
    Ok(StatusCode::ACCEPTED)
}

fn message_id(headers: &HeaderMap) -> Result<String, ApiError> {
    headers
        .get(MESSAGE_ID_HEADER)
        .and_then(|id| id.to_str().ok())
        .filter(|id| (1..=MAX_MESSAGE_ID).contains(&id.len()))
        .map(str::to_owned)
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "the header {MESSAGE_ID_HEADER} must have 1 to {MAX_MESSAGE_ID} ASCII characters"
            ))
        })
}

async fn text(body: Body) -> Result<String, ApiError> {
    let body = Limited::new(body, GATEWAY_MESSAGE_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("the message is larger than {GATEWAY_MESSAGE_BYTES} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", message)
        } else {
            ApiError::invalid("the body could not be read to its end")
        }
    })?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| ApiError::invalid("the body is not UTF-8"))
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused {
            Refused::Closed => (StatusCode::GONE, "connection_closed"),
            Refused::Unreachable => (StatusCode::BAD_GATEWAY, "browser_unreachable"),
            Refused::Busy => (StatusCode::SERVICE_UNAVAILABLE, "browser_busy"),
        };
        let error = Self::new(status, code, refused.to_string());
        if refused == Refused::Busy { error.retry_after_ms(RETRY_MS) } else { error }
    }
}
