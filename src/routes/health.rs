//! Is this process alive, and can it do its work?

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;
use crate::error::ApiError;

#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    /// `ok`, or `ready`.
    status: &'static str,
}

/// Alive, whatever else is not.
pub async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Able to serve: Redis answers, and nobody has asked this process to end.
pub async fn ready(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    if app.draining.is_cancelled() {
        return Err(ApiError::stopping());
    }
    app.store.ping().await?;
    Ok(Json(Health { status: "ready" }))
}
