//! Files that outlive a browser: extensions, contexts, what was downloaded. They are objects in a bucket of S3, or
//! files in a directory.
//!
//! Only the control plane has the key to them. A container that needs one, or a client to whom one is too large for an
//! answer of ours, gets an [`Address`] instead: of that one object, for one kind of use, and for a while. A bucket makes
//! such addresses itself; for a directory a server of ours plays the bucket (`routes::objects`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode};

#[cfg(feature = "bucket")]
mod bucket;
#[cfg(feature = "bucket")]
pub use bucket::Bucket;

use crate::ids::Owner;

/// Where files are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageAt {
    /// `STORAGE_DIR`
    Directory(PathBuf),
    /// `STORAGE_BUCKET`
    Bucket { name: String, region: String },
}

/// What sort of file: each is kept for a time of its own, by the first part of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Contexts,
    Downloads,
    Extensions,
    Logs,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Contexts => "contexts",
            Self::Downloads => "downloads",
            Self::Extensions => "extensions",
            Self::Logs => "logs",
        }
    }
}

/// The name of a file: its kind, its owner, and what they call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName(String);

impl ObjectName {
    /// `name` is made of ids and an ending, as in `ext_1.zip`.
    pub fn new(kind: Kind, owner: &Owner, name: &str) -> Self {
        debug_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{name}");
        let of_whom = if matches!(owner, Owner::Project(_)) { "project" } else { "user" };
        Self(format!("{}/{of_whom}/{}/{name}", kind.prefix(), owner.id()))
    }

    /// One that stands in a token of ours.
    pub fn in_token(name: String) -> Self {
        Self(name)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Key {
        Key::from(self.0.as_str())
    }
}

/// What an address is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// `GET`
    Read,
    /// `PUT`
    Write,
}

/// Where an object is read or written by somebody who has no key.
#[derive(PartialEq, Eq)]
pub enum Address {
    /// A URL of the bucket's, signed.
    Signed(String),
    /// A directory has none: a server of ours has to be asked.
    Ours,
}

/// It is good for whoever has it.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ours { "Ours" } else { "Signed" })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("there is no storage for files: STORAGE_BUCKET or STORAGE_DIR is not set")]
    NotConfigured,
    #[error("this build knows no buckets")]
    NotBuilt,
    #[error("the storage of files failed")]
    Failed(#[source] Error),
    /// Of what was being written nothing is kept.
    #[error("what was to be stored did not come to its end")]
    BrokenOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("what was to be stored is larger than {0} bytes")]
    TooLarge(u64),
}

impl From<Error> for StorageError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// An object that is being read.
pub struct Reading {
    pub bytes: u64,
    pub content: BoxStream<'static, Result<Bytes, Error>>,
}

/// Where this deployment keeps its files.
#[derive(Debug)]
pub enum Storage {
    Nowhere,
    Directory(LocalFileSystem),
    #[cfg(feature = "bucket")]
    Bucket(Bucket),
}

impl Storage {
    /// # Errors
    /// When the directory cannot be made. A bucket is not asked for anything yet.
    pub fn open(at: Option<StorageAt>) -> Result<Self, StorageError> {
        match at {
            None => Ok(Self::Nowhere),
            Some(StorageAt::Directory(dir)) => directory(&dir),
            #[cfg(feature = "bucket")]
            Some(StorageAt::Bucket { name, region }) => Ok(Self::Bucket(Bucket::new(name, region))),
            #[cfg(not(feature = "bucket"))]
            Some(StorageAt::Bucket { .. }) => Err(StorageError::NotBuilt),
        }
    }

    async fn objects(&self) -> Result<Arc<dyn ObjectStore>, StorageError> {
        match self {
            Self::Nowhere => Err(StorageError::NotConfigured),
            Self::Directory(dir) => Ok(Arc::new(dir.clone())),
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => Ok(bucket.objects().await?),
        }
    }

    /// Puts a file there whole, in place of what had its name.
    pub async fn put(&self, name: &ObjectName, content: Bytes) -> Result<(), StorageError> {
        self.objects().await?.put(&name.key(), content.into()).await?;
        Ok(())
    }

    /// The same, unless there is a file of that name, which is left as it is: then the answer is `false`.
    pub async fn create(&self, name: &ObjectName, content: Bytes) -> Result<bool, StorageError> {
        match self.objects().await?.put_opts(&name.key(), content.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts one there that comes in pieces, and is at most `limit` bytes long. Of one that breaks off nothing is kept.
    pub async fn put_stream<E>(
        &self,
        name: &ObjectName,
        mut content: impl futures_util::Stream<Item = Result<Bytes, E>> + Unpin,
        limit: u64,
    ) -> Result<(), StorageError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut upload = self.objects().await?.put_multipart(&name.key()).await?;
        let written = async {
            let mut bytes = 0;
            while let Some(piece) = content.next().await {
                let piece = piece.map_err(|error| StorageError::BrokenOff(error.into()))?;
                bytes += piece.len() as u64;
                if bytes > limit {
                    return Err(StorageError::TooLarge(limit));
                }
                upload.put_part(piece.into()).await?;
            }
            upload.complete().await?;
            Ok(())
        }
        .await;
        if written.is_err() {
            // What this leaves is removed by the bucket's own rule.
            let _ = upload.abort().await;
        }
        written
    }

    /// The file of that name, or `None` if there is none.
    pub async fn get(&self, name: &ObjectName) -> Result<Option<Bytes>, StorageError> {
        match self.objects().await?.get(&name.key()).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The same for one that may be large.
    pub async fn read(&self, name: &ObjectName) -> Result<Option<Reading>, StorageError> {
        match self.objects().await?.get(&name.key()).await {
            Ok(found) => Ok(Some(Reading { bytes: found.meta.size, content: found.into_stream() })),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is one.
    pub async fn has(&self, name: &ObjectName) -> Result<bool, StorageError> {
        Ok(self.written_ms(name).await?.is_some())
    }

    /// When it was written last, if there is one, in milliseconds since the Unix epoch. A bucket knows the second.
    pub async fn written_ms(&self, name: &ObjectName) -> Result<Option<u64>, StorageError> {
        match self.objects().await?.head(&name.key()).await {
            Ok(found) => Ok(Some(u64::try_from(found.last_modified.timestamp_millis()).unwrap_or(0))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file. That there was none is no mistake.
    pub async fn delete(&self, name: &ObjectName) -> Result<(), StorageError> {
        match self.objects().await?.delete(&name.key()).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where somebody else may read or write it for so long.
    pub async fn address(&self, name: &ObjectName, to: Use, good_for: Duration) -> Result<Address, StorageError> {
        match self {
            Self::Nowhere => Err(StorageError::NotConfigured),
            Self::Directory(_) => Ok(Address::Ours),
            #[cfg(feature = "bucket")]
            Self::Bucket(bucket) => bucket.sign(&name.key(), to, good_for).await.map(Address::Signed),
        }
    }

    /// Removes the files of a kind that have not been written since. A bucket has a rule for that, and is left alone.
    pub async fn forget(&self, kind: Kind, before_ms: u64) -> Result<(), StorageError> {
        let Self::Directory(dir) = self else { return Ok(()) };
        let mut found = dir.list(Some(&Key::from(kind.prefix())));
        while let Some(object) = found.next().await {
            let object = object?;
            if u64::try_from(object.last_modified.timestamp_millis()).is_ok_and(|at_ms| at_ms < before_ms) {
                match dir.delete(&object.location).await {
                    Ok(()) | Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

fn directory(dir: &Path) -> Result<Storage, StorageError> {
    let failed = |source| StorageError::Failed(Error::Generic { store: "directory", source: Box::new(source) });
    std::fs::create_dir_all(dir).map_err(failed)?;
    Ok(Storage::Directory(LocalFileSystem::new_with_prefix(dir)?.with_automatic_cleanup(true)))
}

#[cfg(test)]
mod tests;
