//! Contexts: what a browser keeps of the pages it has seen (cookies, local storage, databases), to begin another with.
//!
//! All of a context is in the storage of files: a record, which says that there is one; the profile, once a session
//! has written it; and, for one that has a name, a file that holds the name.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::hex;
use crate::ids::{ContextId, Owner};
use crate::storage::{Kind, ObjectName, StorageError};

/// What is known of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    pub id: ContextId,
    pub created_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Whether there is a new one.
#[derive(Debug, PartialEq, Eq)]
pub enum Created {
    New(Context),
    /// Another one has that name, but for capital letters.
    NameTaken,
}

/// Where a context's profile is kept.
pub fn profile(owner: &Owner, id: &ContextId) -> ObjectName {
    ObjectName::new(Kind::Contexts, owner, &format!("{id}.zip"))
}

fn record(owner: &Owner, id: &ContextId) -> ObjectName {
    ObjectName::new(Kind::Contexts, owner, &format!("{id}.json"))
}

fn holder(owner: &Owner, name: &str) -> ObjectName {
    let hash = digest::digest(&digest::SHA256, name.to_lowercase().as_bytes());
    ObjectName::new(Kind::Contexts, owner, &format!("name-{}", hex::encode(hash.as_ref())))
}

pub async fn create(app: &App, owner: &Owner, name: Option<String>, now_ms: u64) -> Result<Created, StorageError> {
    let context = Context { id: ContextId::random(), created_at_ms: now_ms, name };
    let (record, json) = (record(owner, &context.id), serde_json::to_vec(&context));
    // The record first: whoever meets the name meanwhile looks whether there is a context that has it.
    app.storage.put(&record, json.expect("plain fields can be serialized").into()).await?;
    if let Some(name) = &context.name
        && !take(app, owner, name, &context.id).await?
    {
        app.storage.delete(&record).await?;
        return Ok(Created::NameTaken);
    }
    Ok(Created::New(context))
}

/// Whether the name is this context's now.
async fn take(app: &App, owner: &Owner, name: &str, id: &ContextId) -> Result<bool, StorageError> {
    let holder = holder(owner, name);
    let own = || bytes::Bytes::from(id.to_string());
    if app.storage.create(&holder, own()).await? {
        return Ok(true);
    }
    if let Some(other) = held_by(app, &holder).await?
        && app.storage.has(&record(owner, &other)).await?
    {
        return Ok(false);
    }
    // Its context was removed by somebody else, and not by `delete`.
    app.storage.put(&holder, own()).await?;
    Ok(true)
}

async fn held_by(app: &App, holder: &ObjectName) -> Result<Option<ContextId>, StorageError> {
    let held = app.storage.get(holder).await?;
    Ok(held.and_then(|id| std::str::from_utf8(&id).ok()?.parse().ok()))
}

/// The context of that id, if there is one and it is theirs.
pub async fn find(app: &App, owner: &Owner, id: &ContextId) -> Result<Option<Context>, StorageError> {
    let record = app.storage.get(&record(owner, id)).await?;
    Ok(record.and_then(|json| serde_json::from_slice(&json).ok()))
}

/// Removes it. A session that has it goes on, and is not written back. `false`: there is none.
pub async fn delete(app: &App, owner: &Owner, id: &ContextId) -> Result<bool, StorageError> {
    let Some(context) = find(app, owner, id).await? else { return Ok(false) };
    // The record last: until it is gone whoever was interrupted can delete it again.
    app.storage.delete(&profile(owner, id)).await?;
    if let Some(name) = &context.name {
        let holder = holder(owner, name);
        // Whoever was interrupted has given it up already, and another may have it since.
        if held_by(app, &holder).await?.as_ref() == Some(id) {
            app.storage.delete(&holder).await?;
        }
    }
    app.storage.delete(&record(owner, id)).await?;
    Ok(true)
}

/// When a session has written it last, or else when it was made.
pub async fn updated_ms(app: &App, owner: &Owner, context: &Context) -> Result<u64, StorageError> {
    let written_ms = app.storage.written_ms(&profile(owner, &context.id)).await?;
    Ok(written_ms.unwrap_or(0).max(context.created_at_ms))
}
