//! Extensions: upload, look up, delete.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::app::App;
use crate::archive::{self, MAX_ARCHIVE_BYTES};
use crate::auth::Caller;
use crate::clock::{now_ms, rfc3339};
use crate::error::ApiError;
use crate::extension::{self, Extension};
use crate::ids::{ExtensionId, Owner};
use crate::routes::body::ExtensionPath;
use crate::routes::multipart;

/// Archives that are in memory at the same time; the others wait.
static UPLOADS: Semaphore = Semaphore::const_new(4);

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionView {
    id: ExtensionId,
    created_at: String,
    updated_at: String,
    file_name: String,
    project_id: String,
}

fn view(owner: &Owner, extension: Extension) -> Json<ExtensionView> {
    let created_at = rfc3339(extension.created_at_ms);
    Json(ExtensionView {
        id: extension.id,
        updated_at: created_at.clone(),
        created_at,
        file_name: extension.file_name,
        project_id: owner.id().to_owned(),
    })
}

/// `POST /v1/extensions`
pub async fn upload_extension(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Json<ExtensionView>, ApiError> {
    let _one_of_few = UPLOADS.acquire().await.map_err(ApiError::internal)?;
    let (parts, body) = request.into_parts();
    let file = multipart::one_file(&parts.headers, body, MAX_ARCHIVE_BYTES).await?;
    let content = file.content.clone();
    // It takes some milliseconds, and up to a second.
    let checked = spawn_blocking(move || archive::check(&content)).await.map_err(ApiError::internal)?;
    checked.map_err(|error| ApiError::invalid(format!("file: {error}")))?;
    let owner = caller.owner();
    let added = extension::add(&app.storage, &owner, file.name, file.content, now_ms()).await?;
    tracing::info!(extension.id = %added.id, "extension uploaded");
    Ok(view(&owner, added))
}

/// `GET /v1/extensions/{id}`
pub async fn get_extension(
    State(app): State<App>,
    caller: Caller,
    ExtensionPath(id): ExtensionPath,
) -> Result<Json<ExtensionView>, ApiError> {
    let owner = caller.owner();
    let found = extension::find(&app.storage, &owner, &id, now_ms()).await?;
    found.map(|extension| view(&owner, extension)).ok_or_else(ApiError::extension_not_found)
}

/// `DELETE /v1/extensions/{id}`: a session that was created with it keeps it.
pub async fn delete_extension(
    State(app): State<App>,
    caller: Caller,
    ExtensionPath(id): ExtensionPath,
) -> Result<StatusCode, ApiError> {
    if extension::remove(&app.storage, &caller.owner(), &id, now_ms()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::extension_not_found())
    }
}
