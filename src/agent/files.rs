//! Files that go to the storage or come from it, by addresses that the control plane gives: of one file each, and good for
//! whoever has them.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Client, StatusCode};

use super::api::{Api, ApiError};
use super::profile::ProfileError;
use crate::hex;
use crate::protocol::{ClaimedSession, FileKind};

/// What a session may come with, in bytes.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("the control plane gave no address")]
    NoAddress,
    #[error("the control plane gave no address")]
    NotGiven(#[from] ApiError),
    /// Without the address, which is good for whoever has it.
    #[error("the storage could not be reached")]
    Transport(#[source] reqwest::Error),
    #[error("the storage answered {0}")]
    Status(StatusCode),
    #[error("the file is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("a file of this machine could not be read or written")]
    Io(#[from] io::Error),
    #[error("the profile could not be packed")]
    Profile(#[from] ProfileError),
}

impl FilesError {
    /// Whether there is nowhere to put anything: it is not a fault, and will not change.
    pub fn is_no_storage(&self) -> bool {
        matches!(self, Self::NotGiven(ApiError::Status(StatusCode::NOT_IMPLEMENTED)))
    }
}

impl From<reqwest::Error> for FilesError {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(error.without_url())
    }
}

/// A file that has no name, and is gone when it is closed.
pub fn scratch(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!("f-{}", hex::random(8)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// Speaks to the storage, and never with the container's token.
#[derive(Clone)]
pub struct Files(Client);

impl Files {
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Reads a file from there into one that is empty. `false`: there is none.
    pub async fn get(&self, url: &str, mut into: &File) -> Result<bool, FilesError> {
        let mut answer = self.0.get(url).send().await?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::NOT_FOUND => return Ok(false),
            status => return Err(FilesError::Status(status)),
        }
        let mut bytes = 0;
        while let Some(piece) = answer.chunk().await? {
            bytes += piece.len() as u64;
            if bytes > MAX_BYTES {
                return Err(FilesError::TooLarge);
            }
            into.write_all(&piece)?;
        }
        into.seek(SeekFrom::Start(0))?;
        Ok(true)
    }

    /// Writes a file there that belongs to a session.
    pub async fn store(
        &self,
        api: &Api,
        claimed: &ClaimedSession,
        kind: FileKind,
        mut file: File,
    ) -> Result<(), FilesError> {
        let url = api.file_address(claimed, kind).await?;
        let bytes = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let body = Body::from(tokio::fs::File::from_std(file));
        // A bucket gives it back with what it is, as it was told here.
        let request = self.0.put(url).header(CONTENT_LENGTH, bytes).header(CONTENT_TYPE, kind.content_type());
        let answer = request.body(body).send().await?;
        if answer.status().is_success() { Ok(()) } else { Err(FilesError::Status(answer.status())) }
    }
}
