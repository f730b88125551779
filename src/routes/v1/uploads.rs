//! Files for pages to choose: they go straight to the session's container.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::auth::Caller;
use crate::container_client::ContainerError;
use crate::error::ApiError;
use crate::ids::{Owner, SessionId};
use crate::protocol::{MAX_UPLOAD_BYTES, UploadName};
use crate::routes::body::SessionPath;
use crate::routes::multipart;
use crate::store::Route;
use crate::ws::live;

/// How long a session without a browser is waited for at most: less than API Gateway waits for us.
const READY_WAIT: Duration = Duration::from_secs(15);
/// Files that are in memory at the same time; the others wait.
static UPLOADS: Semaphore = Semaphore::const_new(8);
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Serialize, JsonSchema)]
pub struct Uploaded {
    message: String,
}

/// `POST /v1/sessions/{id}/uploads`. What is sent cannot be sent again by the SDKs, which stream it: no refusal asks for that.
pub async fn create_upload(
    State(app): State<App>,
    caller: Caller,
    SessionPath(id): SessionPath,
    request: Request,
) -> Result<Json<Uploaded>, ApiError> {
    let reached = ready(&app, &id, &caller.owner()).await;
    let _one_of_few = UPLOADS.acquire().await.map_err(ApiError::internal)?;
    // Also if it is for nobody: whoever still sends would find the connection broken instead of an answer.
    let (parts, body) = request.into_parts();
    let file = multipart::one_file(&parts.headers, body, MAX_UPLOAD_BYTES).await;
    let route = reached.map_err(ApiError::not_to_be_retried)?;
    let file = file?;
    let name = UploadName::try_from(file.name)
        .map_err(|_| ApiError::invalid("file: must have a file name, without / and \\"))?;
    app.containers.upload(&route, &name, file.content).await.map_err(refused)?;
    Ok(Json(Uploaded { message: format!("the file can be chosen in pages, as /tmp/.uploads/{}", name.as_str()) }))
}

/// Where the session's browser is, once it is there.
async fn ready(app: &App, id: &SessionId, owner: &Owner) -> Result<Route, ApiError> {
    let deadline = Instant::now() + READY_WAIT.min(app.connect_wait);
    loop {
        match live::find(app, id, |view| view.owner == *owner).await {
            Ok(seen) => return Ok(seen.route),
            Err(error) if error.code == live::NOT_READY && Instant::now() < deadline => sleep(LOOK).await,
            Err(error) => return Err(error),
        }
    }
}

fn refused(error: ContainerError) -> ApiError {
    match error {
        ContainerError::Status(StatusCode::INSUFFICIENT_STORAGE) => {
            let message = "file: the session has been given as many files as it may, or bytes of them";
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_uploads", message).not_to_be_retried()
        }
        error => live::unreachable(error).not_to_be_retried(),
    }
}
