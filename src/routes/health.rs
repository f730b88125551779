//! Is this process alive, and can it do its work?

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;

/// Alive, whatever else is not.
pub async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Able to serve: Redis answers, and nobody has asked this process to end.
pub async fn ready(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    if app.stopping.is_cancelled() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this server is about to end")
            .retry_after_ms(1_000));
    }
    app.store.ping().await?;
    Ok(Json(json!({ "status": "ready" })))
}
