//! A session's context: its browser begins with the profile that another has left, and may leave its own.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::account::Account;
use super::browser::Browser;
use super::files::{FilesError, scratch};
use super::profile::{self, ProfileError};
use super::{Agent, blocking};
use crate::causes::Causes;
use crate::protocol::{ClaimedContext, ClaimedSession, FileKind};

/// How long a browser may take to write down what it has not written yet. It takes a third of a second (measured, 156).
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What a browser begins with.
#[derive(Debug)]
pub enum Profile {
    /// Nothing was left yet.
    New,
    Left(File),
}

impl Profile {
    /// Puts it where a browser will look for it. What a failure leaves is within the browser's directory.
    pub fn restore(self, dir: &Path, account: Option<Account>) -> Result<(), ProfileError> {
        match self {
            Self::New => Ok(profile::begin(dir, account)?),
            Self::Left(file) => profile::unpack(file, dir, account),
        }
    }
}

/// The profile that was left in a context.
pub async fn fetch(agent: &Agent, context: &ClaimedContext) -> Result<Profile, FilesError> {
    let url = context.url.as_deref().ok_or(FilesError::NoAddress)?;
    let file = scratch(&agent.config.workdir)?;
    Ok(if agent.files.get(url, &file).await? { Profile::Left(file) } else { Profile::New })
}

/// Leaves the profile of a session's browser in its context, if it is to be left: not that of one that has crashed, which
/// may be anything. The browser is not one any more afterwards.
pub async fn leave(agent: &Agent, claimed: &ClaimedSession, browser: &Browser) {
    let Some(ClaimedContext { persist: true, .. }) = claimed.context else { return };
    let session = &claimed.session_id;
    if !browser.close(CLOSE_DEADLINE).await {
        tracing::warn!(session.id = %session, "the browser did not close by itself: its context stays as it was");
        return;
    }
    match store(agent, claimed, &browser.profile()).await {
        Ok(()) => tracing::info!(session.id = %session, "the session's context is written"),
        Err(error) => tracing::error!(session.id = %session, error = %Causes(&error), "the context stays as it was"),
    }
}

async fn store(agent: &Agent, claimed: &ClaimedSession, dir: &Path) -> Result<(), FilesError> {
    let file = scratch(&agent.config.workdir)?;
    let (dir, into) = (dir.to_owned(), file.try_clone()?);
    blocking(move || profile::pack(&dir, into)).await?;
    agent.files.store(&agent.api, claimed, FileKind::Context, file).await
}
