//! Where a container puts what a session leaves: it has no access to the storage, and asks for the address of one file.

use axum::Json;
use axum::extract::State;

use super::body::{JsonBody, SessionPath};
use super::objects;
use crate::app::App;
use crate::auth::FilesCaller;
use crate::clock::now_ms;
use crate::contexts;
use crate::error::ApiError;
use crate::ids::{Owner, SessionId};
use crate::protocol::{FileKind, FileRequest, FileResponse};
use crate::storage::{Kind, ObjectName, Use};

/// How long an address may be used: as long as the largest file takes on a slow line.
const ADDRESS_SECONDS: u64 = 600;

/// `POST /sessions/{id}/files`
pub async fn address_file(
    State(app): State<App>,
    caller: FilesCaller,
    SessionPath(id): SessionPath,
    JsonBody { value: FileRequest { kind }, .. }: JsonBody<FileRequest>,
) -> Result<Json<FileResponse>, ApiError> {
    if caller.session != id {
        return Err(ApiError::session_not_found());
    }
    let owner = &caller.owner;
    let name = match kind {
        FileKind::Context => {
            let context = caller.context.as_ref().ok_or_else(ApiError::context_not_found)?;
            // It may have been deleted meanwhile.
            contexts::find(&app, owner, context).await?.ok_or_else(ApiError::context_not_found)?;
            contexts::profile(owner, context)
        }
        FileKind::Downloads => downloads(&id, owner),
        FileKind::Logs => logs(&id, owner),
    };
    let until_ms = now_ms() + ADDRESS_SECONDS * 1_000;
    let url = objects::address(&app, &app.addresses.api_endpoint, &name, Use::Write, until_ms).await?;
    Ok(Json(FileResponse { url, expires_in_seconds: ADDRESS_SECONDS }))
}

/// What a session has downloaded.
pub fn downloads(session: &SessionId, owner: &Owner) -> ObjectName {
    ObjectName::new(Kind::Downloads, owner, &format!("{session}.zip"))
}

/// Its log.
pub fn logs(session: &SessionId, owner: &Owner) -> ObjectName {
    ObjectName::new(Kind::Logs, owner, &format!("{session}.json"))
}
