//! The archives of extensions, for the browsers of this container. Each is fetched once, however many sessions want it,
//! and kept as long as there is room; they go with the container's directory.
//!
//! What makes one the right one is its hash, which the control plane says. The address is a secret: whoever has it reads
//! the archive.

use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use reqwest::{Client, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Mutex as Turns;
use tokio::time::timeout;

use crate::archive::MAX_ARCHIVE_BYTES;
use crate::hex;
use crate::ids::ArchiveHash;
use crate::protocol::ClaimedExtension;

/// From the request to the last byte. A session waits for its browser for a minute, and may try twice.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);
/// All that are kept, in bytes. What is used again soonest stays.
const MAX_KEPT_BYTES: u64 = 256 * 1024 * 1024;

/// Why an archive cannot be had. None of it says where it is.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the control plane has no address for it")]
    NoAddress,
    #[error("it cannot be fetched")]
    Transport(#[source] reqwest::Error),
    #[error("it was answered with {0}")]
    Status(StatusCode),
    #[error("it is larger than {MAX_ARCHIVE_BYTES} bytes")]
    TooLarge,
    #[error("it is not what was uploaded: its SHA-256 is another one")]
    Another,
    #[error("it did not come within {} s", FETCH_DEADLINE.as_secs())]
    Late,
    #[error("it cannot be kept")]
    Io(#[from] io::Error),
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(error.without_url())
    }
}

pub struct Extensions {
    dir: PathBuf,
    client: Client,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// With their sizes, the one first that was not used for longest.
    archives: VecDeque<(ArchiveHash, u64)>,
    /// Who waits for one that is being fetched.
    turns: HashMap<ArchiveHash, Arc<Turns<()>>>,
}

impl Extensions {
    pub fn new(workdir: &Path, client: Client) -> Self {
        Self { dir: workdir.join("extensions"), client, kept: Mutex::default() }
    }

    /// The archive, opened: it can be read even if it is put out meanwhile.
    pub async fn get(&self, wanted: &ClaimedExtension) -> Result<File, FetchError> {
        let turn = self.turn(&wanted.sha256);
        let _my_turn = turn.lock().await;
        if let Some(archive) = self.kept_one(&wanted.sha256) {
            return Ok(archive);
        }
        let url = wanted.url.as_deref().ok_or(FetchError::NoAddress)?;
        timeout(FETCH_DEADLINE, self.fetch(url, &wanted.sha256)).await.unwrap_or(Err(FetchError::Late))
    }

    async fn fetch(&self, url: &str, hash: &ArchiveHash) -> Result<File, FetchError> {
        let mut answer = self.client.get(url).send().await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        match DirBuilder::new().mode(0o700).create(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let part = Part(self.dir.join(format!("{}.part", hex::random(8))));
        let mut file = tokio::fs::File::create_new(&part.0).await?;
        let (mut digest, mut bytes) = (Context::new(&SHA256), 0);
        while let Some(piece) = answer.chunk().await? {
            bytes += piece.len();
            if bytes > MAX_ARCHIVE_BYTES {
                return Err(FetchError::TooLarge);
            }
            digest.update(&piece);
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        if hex::encode(digest.finish().as_ref()) != hash.as_str() {
            return Err(FetchError::Another);
        }
        let archive = File::open(&part.0)?;
        std::fs::rename(&part.0, self.path(hash))?;
        self.keep(hash, bytes as u64);
        Ok(archive)
    }

    fn path(&self, hash: &ArchiveHash) -> PathBuf {
        self.dir.join(hash.as_str())
    }

    fn turn(&self, hash: &ArchiveHash) -> Arc<Turns<()>> {
        let mut kept = self.lock();
        kept.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(kept.turns.entry(hash.clone()).or_default())
    }

    fn kept_one(&self, hash: &ArchiveHash) -> Option<File> {
        let mut kept = self.lock();
        let at = kept.archives.iter().position(|(other, _)| other == hash)?;
        let used = kept.archives.remove(at)?;
        let archive = File::open(self.path(hash)).ok()?;
        kept.archives.push_back(used);
        Some(archive)
    }

    fn keep(&self, hash: &ArchiveHash, bytes: u64) {
        let mut kept = self.lock();
        kept.archives.push_back((hash.clone(), bytes));
        while kept.archives.iter().map(|(_, bytes)| bytes).sum::<u64>() > MAX_KEPT_BYTES {
            let Some((oldest, _)) = kept.archives.pop_front() else { break };
            let _ = std::fs::remove_file(self.path(&oldest));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has not come to its end yet, and is nothing until then.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more if it was renamed.
        let _ = std::fs::remove_file(&self.0);
    }
}
