//! `GET /metrics`, for whoever collects them.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::auth::Operator;
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::error::ApiError;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers without Redis, too: just then somebody will look.
pub async fn show_metrics(_: Operator, State(app): State<App>) -> Result<Response, ApiError> {
    let now_ms = now_ms();
    let fleet = match app.store.show_fleet(now_ms).await {
        Ok((snapshot, _)) => Some(snapshot),
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "metrics are shown without the fleet's");
            None
        }
    };
    let text = app.metrics.render(fleet.as_ref(), now_ms).map_err(ApiError::internal)?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
