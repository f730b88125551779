//! Is this process alive, and can it do its work?

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;

/// Alive, whatever else is not.
pub async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Able to serve: Redis answers, and nobody has asked this process to end.
pub async fn ready(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    if app.draining.is_cancelled() {
        return Err(ApiError::stopping());
    }
    app.store.ping().await?;
    Ok(Json(json!({ "status": "ready" })))
}
