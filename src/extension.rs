//! Extensions that users upload for the browsers of their sessions: a small record of each, and its archive, which is
//! kept under the hash of its content. So whoever uploads the same one for every browser, and deletes it afterwards,
//! stores it once, and takes nothing from a session that was created with it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{ArchiveHash, ExtensionId, Owner};
use crate::storage::{Kind, ObjectName, Storage, StorageError};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// After so long files are forgotten: a bucket has a rule for that (`cdk/lib/storage.ts`), a directory is swept.
pub const KEPT_MS: u64 = 90 * DAY_MS;
/// An archive is written again when it is uploaded again after so long.
const WRITTEN_AGAIN_MS: u64 = DAY_MS;
/// So no archive is gone before the last of its records.
const GOOD_FOR_MS: u64 = KEPT_MS - 2 * WRITTEN_AGAIN_MS;

/// What is known of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    pub id: ExtensionId,
    pub file_name: String,
    pub archive: ArchiveHash,
    pub created_at_ms: u64,
}

/// Where an archive is.
pub fn archive(owner: &Owner, hash: &ArchiveHash) -> ObjectName {
    ObjectName::new(Kind::Extensions, owner, &format!("{hash}.zip"))
}

fn record(owner: &Owner, id: &ExtensionId) -> ObjectName {
    ObjectName::new(Kind::Extensions, owner, &format!("{id}.json"))
}

/// Keeps an archive that was looked at (`crate::archive`).
pub async fn add(
    storage: &Storage,
    owner: &Owner,
    file_name: String,
    content: Bytes,
    now_ms: u64,
) -> Result<Extension, StorageError> {
    let hash = ArchiveHash::of(&content);
    let name = archive(owner, &hash);
    if storage.written_ms(&name).await?.is_none_or(|at_ms| at_ms + WRITTEN_AGAIN_MS <= now_ms) {
        storage.put(&name, content).await?;
    }
    let extension = Extension { id: ExtensionId::random(), file_name, archive: hash, created_at_ms: now_ms };
    let json = serde_json::to_vec(&extension).expect("a record is JSON");
    storage.put(&record(owner, &extension.id), json.into()).await?;
    Ok(extension)
}

/// `None`: there is no such extension, as far as its owner may know.
pub async fn find(
    storage: &Storage,
    owner: &Owner,
    id: &ExtensionId,
    now_ms: u64,
) -> Result<Option<Extension>, StorageError> {
    let Some(json) = storage.get(&record(owner, id)).await? else { return Ok(None) };
    let read = serde_json::from_slice::<Extension>(&json);
    let found = read.inspect_err(|error| tracing::error!(extension.id = %id, %error, "a record cannot be read")).ok();
    Ok(found.filter(|extension| extension.created_at_ms + GOOD_FOR_MS > now_ms))
}

/// Removes what is old from a directory.
pub async fn forget_old(storage: &Storage, now_ms: u64) -> Result<(), StorageError> {
    storage.forget(Kind::Extensions, now_ms.saturating_sub(KEPT_MS)).await
}

/// Forgets it. Its archive may be another's, too, and a session's that has not begun: it goes when it is old. False:
/// there was none.
pub async fn remove(storage: &Storage, owner: &Owner, id: &ExtensionId, now_ms: u64) -> Result<bool, StorageError> {
    if find(storage, owner, id, now_ms).await?.is_none() {
        return Ok(false);
    }
    storage.delete(&record(owner, id)).await?;
    Ok(true)
}
