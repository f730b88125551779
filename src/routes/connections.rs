//! What containers say to the clients whose sockets a gateway holds.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::body::{ConnectionPath, JsonBody};
use crate::app::App;
use crate::auth::ContainerCaller;
use crate::error::ApiError;
use crate::protocol::{BATCH_MESSAGES, DeliverRequest, DeliverResponse, GATEWAY_MESSAGE_BYTES};
use crate::ws;

/// `POST /connections/{connectionId}/messages`
pub async fn deliver_messages(
    State(app): State<App>,
    caller: ContainerCaller,
    ConnectionPath(connection): ConnectionPath,
    JsonBody { value: request, .. }: JsonBody<DeliverRequest>,
) -> Result<Json<DeliverResponse>, ApiError> {
    if request.messages.len() > BATCH_MESSAGES {
        return Err(ApiError::invalid(format!("messages: must be at most {BATCH_MESSAGES}")));
    }
    if let Some(index) = request.messages.iter().position(|message| message.get().len() > GATEWAY_MESSAGE_BYTES) {
        let message = format!("messages[{index}]: must be at most {GATEWAY_MESSAGE_BYTES} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "message_too_large", message));
    }
    let delivered = ws::deliver(&app, &caller.container, &connection, &request).await?;
    Ok(Json(DeliverResponse { success: true, delivered }))
}
