//! The `@connections` API, as the SDKs speak it (their model: `apigatewaymanagementapi-2018-11-29`).

use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::gateway::Gateway;
use super::{ERROR_TYPE, Posted, gateway_id, refusal, sigv4};
use crate::clock::{now_ms, rfc3339};
use crate::ids::ConnectionId;
use crate::protocol::GATEWAY_MESSAGE_BYTES;

const AMZN_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
/// Read to the end, so that its sender reads the refusal.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// `POST`, `GET` and `DELETE /gateway/{stage}/@connections/{connectionId}`.
pub(super) async fn manage(
    State(gateway): State<Gateway>,
    Path((stage, connections, id)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let mut response = answer(&gateway, &stage, &connections, &id, request).await;
    if let Ok(value) = HeaderValue::from_str(&gateway_id()) {
        response.headers_mut().insert(AMZN_REQUEST_ID, value);
    }
    response
}

async fn answer(gateway: &Gateway, stage: &str, connections: &str, id: &str, request: Request) -> Response {
    // aws/aws-sdk-php issue 1955 shows this one for a wrong stage.
    if stage != gateway.emulator.options().stage || connections != "@connections" {
        return refusal(StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden");
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MOST_BYTES).await else {
        return too_large();
    };
    if let Err(unsigned) = sigv4::check(&parts.headers, &body, now_ms()) {
        return refusal(StatusCode::FORBIDDEN, unsigned.error_type(), &unsigned.to_string());
    }
    let parsed: Result<ConnectionId, _> = id.parse();
    let Ok(id) = parsed else {
        return refusal(StatusCode::BAD_REQUEST, "BadRequestException", &format!("Invalid connectionId: {id}"));
    };
    match parts.method {
        Method::POST => {
            if body.len() > GATEWAY_MESSAGE_BYTES {
                return too_large();
            }
            // Clients get text, whatever is posted.
            let Ok(text) = Utf8Bytes::try_from(body) else {
                return refusal(StatusCode::BAD_REQUEST, "BadRequestException", "Message is not UTF-8");
            };
            match gateway.emulator.post(&id, text, Duration::ZERO).await {
                Posted::Sent => StatusCode::OK.into_response(),
                Posted::Gone => gone(),
                Posted::Full => {
                    refusal(StatusCode::TOO_MANY_REQUESTS, "LimitExceededException", "Client side buffer is full")
                }
            }
        }
        Method::GET => match gateway.emulator.find(&id) {
            Some(open) => Json(json!({
                "connectedAt": rfc3339(open.connected_at_ms),
                "identity": {
                    "sourceIp": open.source_ip.map(|ip| ip.to_string()).unwrap_or_default(),
                    "userAgent": open.user_agent,
                },
                "lastActiveAt": rfc3339(open.last_active_at_ms()),
            }))
            .into_response(),
            None => gone(),
        },
        Method::DELETE if gateway.emulator.delete(&id) => StatusCode::NO_CONTENT.into_response(),
        Method::DELETE => gone(),
        // What API Gateway says to whatever it has no method for.
        _ => refusal(
            StatusCode::FORBIDDEN,
            "MissingAuthenticationTokenException",
            &sigv4::Unsigned::NoAuthorization.to_string(),
        ),
    }
}

fn too_large() -> Response {
    refusal(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException", "Message too long")
}

/// Its body is empty: the SDKs' model gives this error no message, and a client that expects JSON fails to parse
/// it (georgeboot/laravel-echo-api-gateway issue 9). The name is in the header only.
fn gone() -> Response {
    let mut response = StatusCode::GONE.into_response();
    response.headers_mut().insert(ERROR_TYPE, HeaderValue::from_static("GoneException"));
    response
}
