//! Where files are kept in a directory: what a bucket does with its signed addresses.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};

use crate::app::App;
use crate::auth::verify_token;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::storage::{Address, ObjectName, StorageError, Use};
use crate::tokens::{Subject, TokenError};

/// The largest file that is taken, in bytes. One that a browser writes in a whole session may be as large.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;
/// How soon a storage that failed is tried again.
const STORAGE_RETRY_MS: u64 = 1_000;

/// Where somebody else may read or write a file until then. `base` is this service as they reach it.
pub async fn address(app: &App, base: &str, name: &ObjectName, to: Use, until_ms: u64) -> Result<String, ApiError> {
    let now_ms = now_ms();
    let good_for = Duration::from_millis(until_ms.saturating_sub(now_ms));
    match app.storage.address(name, to, good_for).await? {
        Address::Signed(url) => Ok(url),
        Address::Ours => {
            let subject = Subject::Object { name: name.clone(), to };
            let token = app.tokens.get(now_ms).await?.mint(&subject, now_ms, until_ms);
            Ok(format!("{base}/objects/{token}"))
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NotConfigured | StorageError::NotBuilt => {
                Self::new(StatusCode::NOT_IMPLEMENTED, "not_available", error.to_string()).not_to_be_retried()
            }
            StorageError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", error.to_string()),
            StorageError::BrokenOff(_) => Self::invalid("the body could not be read to its end"),
            StorageError::Failed(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", "files cannot be read or written now")
                    .retry_after_ms(STORAGE_RETRY_MS)
                    .caused_by(error)
            }
        }
    }
}

/// `GET /objects/{token}`
pub async fn read_object(State(app): State<App>, Path(token): Path<String>) -> Result<Response, ApiError> {
    let name = opened(&app, &token, Use::Read).await?;
    let file = app.storage.read(&name).await?.ok_or_else(|| ApiError::not_found("object_not_found", "no such file"))?;
    let of_type = match name.as_str().rsplit('.').next() {
        Some("zip") => "application/zip",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let headers = [(CONTENT_TYPE, of_type.to_owned()), (CONTENT_LENGTH, file.bytes.to_string())];
    Ok((headers, Body::from_stream(file.content)).into_response())
}

/// `PUT /objects/{token}`
pub async fn write_object(
    State(app): State<App>,
    Path(token): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let name = opened(&app, &token, Use::Write).await?;
    app.storage.put_stream(&name, body.into_data_stream(), MAX_OBJECT_BYTES).await?;
    Ok(StatusCode::OK)
}

/// The file that a token is the address of.
async fn opened(app: &App, token: &str, wanted: Use) -> Result<ObjectName, ApiError> {
    match verify_token(app, token).await? {
        Subject::Object { name, to } if to == wanted => Ok(name),
        _ => Err(TokenError::Invalid.into()),
    }
}
