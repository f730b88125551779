//! Containers that a service of ECS has started: they come without an id and a token of their own.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::body::JsonBody;
use super::create::Created;
use crate::app::App;
use crate::auth::ServiceCaller;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::lifecycle;
use crate::protocol::{JoinRequest, JoinResponse};

/// `POST /containers`
pub async fn join_container(
    State(app): State<App>,
    _: ServiceCaller,
    JsonBody { value: JoinRequest { container_id }, .. }: JsonBody<JoinRequest>,
) -> Result<Created<JoinResponse>, ApiError> {
    // Whoever has the service's token must not come as a container that was started with a token of its own.
    if !container_id.is_of_service() {
        return Err(ApiError::invalid("containerId: must be task- and the id of a task"));
    }
    let now_ms = now_ms();
    let tokens = app.tokens.get(now_ms).await?;
    match lifecycle::join(&app, &container_id, &tokens, now_ms).await? {
        Some(token) => Ok(Created(HeaderMap::new(), JoinResponse { container_id, token })),
        None => {
            let message = "containerId: a container of this name is there; if it has died it is soon given up";
            Err(ApiError::new(StatusCode::CONFLICT, "container_exists", message))
        }
    }
}
