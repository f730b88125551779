//! What is kept of a session: what it has downloaded, and its log. It is stored when its browser is gone, however that came,
//! and goes where the control plane says, which lets its owner have it. While the session runs the downloads are stored when
//! somebody asks for them, and the log is told as it is.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::api::Api;
use super::blocking;
use super::downloads::Downloads;
use super::files::{Files, FilesError, scratch};
use super::live::Known;
use super::logs::Logs;
use super::pack::Listing;
use super::relay::Routes;
use super::uploads;
use crate::causes::Causes;
use crate::error::ApiError;
use crate::protocol::{ClaimedSession, FileKind, MAX_UPLOAD_BYTES, StoredResponse};
use crate::session_log::MAX_ANSWERED_BYTES;

/// How long a session that has ended may keep its slot, and a container that drains its process, for what is to be stored. One
/// that is being stopped may have less time left (`LAST_FILES`).
const KEEP_DEADLINE: Duration = Duration::from_secs(60);

pub struct Left {
    claimed: ClaimedSession,
    pub home: PathBuf,
    downloads: Downloads,
    logs: Logs,
    api: Api,
    files: Files,
    /// What was stored last. Whoever holds it is storing.
    stored: Mutex<Listing>,
}

impl Left {
    pub fn new(
        claimed: ClaimedSession,
        home: PathBuf,
        downloads: Downloads,
        logs: Logs,
        api: Api,
        files: Files,
    ) -> Self {
        Self { claimed, home, downloads, logs, api, files, stored: Mutex::default() }
    }

    #[cfg(test)]
    pub fn nothing() -> Self {
        let claimed = serde_json::json!({
            "sessionId": crate::ids::SessionId::random(), "userId": "usr_test", "browserSettings": {}, "createdAt": "",
            "expiresAt": "", "remainingMs": 0, "keepAlive": false, "lease": 1,
        });
        let claimed = serde_json::from_value(claimed).expect("a claimed session");
        let endpoint = "http://127.0.0.1:1";
        let api = Api::new(endpoint, "token").expect("it can be sent");
        let files = Files::new(reqwest::Client::new());
        Self::new(claimed, "/nowhere".into(), Downloads::default(), Logs::default(), api, files)
    }

    /// Stores what has been downloaded by now, unless it is stored already, and says how many files that is.
    async fn store_downloads(&self) -> Result<usize, FilesError> {
        let mut stored = self.stored.lock().await;
        let listing = self.downloaded().await?;
        if !listing.is_empty() && listing != *stored {
            self.store(&listing).await?;
            *stored = listing.clone();
        }
        Ok(listing.len())
    }

    async fn downloaded(&self) -> Result<Listing, FilesError> {
        let (home, downloads) = (self.home.clone(), self.downloads.clone());
        Ok(blocking(move || Listing::read(&home, |file| downloads.of_file(file))).await?)
    }

    async fn store(&self, listing: &Listing) -> Result<(), FilesError> {
        let (home, listing) = (self.home.clone(), listing.clone());
        let zip = blocking(move || listing.pack(&home)).await?;
        self.files.store(&self.api, &self.claimed, FileKind::Downloads, zip).await
    }

    /// Removes what has been downloaded by now.
    async fn forget_downloads(&self) -> Result<(), FilesError> {
        let mut stored = self.stored.lock().await;
        let (home, listing) = (self.home.clone(), self.downloaded().await?);
        blocking(move || listing.remove(&home)).await?;
        *stored = Listing::default();
        Ok(())
    }

    /// Its log as it is by now, of at most so many bytes. `None`: it has none, or nothing was said.
    async fn log(&self, most: usize) -> Option<Vec<u8>> {
        let (logs, session) = (self.logs.clone(), self.claimed.session_id.clone());
        blocking(move || logs.read(&session, most)).await
    }

    /// Stores what is left when the browser is gone. That one of it cannot be stored does not keep the other from it.
    pub async fn keep(&self) {
        tokio::join!(self.kept(FileKind::Downloads, self.keep_downloads()), self.kept(FileKind::Logs, self.keep_log()));
    }

    /// What is stored already is stored again: by when it was written the control plane sees that this has been done.
    async fn keep_downloads(&self) -> Result<bool, FilesError> {
        let _storing = self.stored.lock().await;
        let listing = self.downloaded().await?;
        if !listing.is_empty() {
            self.store(&listing).await?;
        }
        Ok(!listing.is_empty())
    }

    async fn keep_log(&self) -> Result<bool, FilesError> {
        let Some(log) = self.log(usize::MAX).await else { return Ok(false) };
        let home = self.home.clone();
        let file = blocking(move || {
            let mut file = scratch(&home)?;
            file.write_all(&log)?;
            Ok::<_, FilesError>(file)
        });
        self.files.store(&self.api, &self.claimed, FileKind::Logs, file.await?).await?;
        Ok(true)
    }

    /// Tells how it went. `storing` tells whether there was anything to be stored.
    async fn kept(&self, kind: FileKind, storing: impl Future<Output = Result<bool, FilesError>>) {
        let session = &self.claimed.session_id;
        match timeout(KEEP_DEADLINE, storing).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!(session.id = %session, ?kind, "a file of the session is stored"),
            Ok(Err(error)) if error.is_no_storage() => {
                tracing::info!(session.id = %session, ?kind, "it is not kept: there is no storage for files");
            }
            Ok(Err(error)) => {
                tracing::warn!(session.id = %session, ?kind, error = %Causes(&error), "it could not be stored");
            }
            Err(_) => tracing::warn!(session.id = %session, ?kind, "it could not be stored in time"),
        }
    }
}

pub fn router() -> Router<Routes> {
    Router::new()
        .route("/sessions/{id}/downloads", post(store_downloads).delete(forget_downloads))
        .route("/sessions/{id}/logs", get(read_log))
        .route("/sessions/{id}/uploads/{name}", put(take_upload).layer(DefaultBodyLimit::max(MAX_UPLOAD_BYTES)))
}

/// `POST /sessions/{id}/downloads`
async fn store_downloads(Known(route): Known) -> Result<Json<StoredResponse>, ApiError> {
    let files = route.left.store_downloads().await.map_err(not_stored)?;
    Ok(Json(StoredResponse { files }))
}

/// `DELETE /sessions/{id}/downloads`
async fn forget_downloads(Known(route): Known) -> Result<StatusCode, ApiError> {
    route.left.forget_downloads().await.map_err(not_stored)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /sessions/{id}/logs`
async fn read_log(Known(route): Known) -> impl IntoResponse {
    let log = route.left.log(MAX_ANSWERED_BYTES).await.unwrap_or_else(|| b"[]".to_vec());
    ([(CONTENT_TYPE, "application/json")], log)
}

/// `PUT /sessions/{id}/uploads/{name}`
async fn take_upload(
    Known(route): Known,
    uploads::Named(name): uploads::Named,
    content: Bytes,
) -> Result<StatusCode, ApiError> {
    let home = route.left.home.clone();
    blocking(move || uploads::write(&home, &name, &content)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no_room", "the session has no room for it")
        }
        _ => ApiError::internal(error),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

fn not_stored(error: FilesError) -> ApiError {
    let status = if error.is_no_storage() { StatusCode::NOT_IMPLEMENTED } else { StatusCode::BAD_GATEWAY };
    ApiError::new(status, "not_stored", "the session's downloads could not be stored").caused_by(error)
}
