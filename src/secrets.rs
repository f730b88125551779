//! Secrets Manager: what the API keys and the tokens are made from, if it is kept there.
//!
//! Of the API keys only the current version counts, so that a key which was taken out is one no more. Tokens are
//! minted from the current version, and those of the version before it stay good: rotating ends no session.

use std::error::Error as StdError;
use std::sync::Arc;

use futures_util::FutureExt as _;

use crate::api_keys::{ApiKeys, KeyFaults};
use crate::config::SecretRef;
use crate::ids::Audience;
use crate::tokens::{self, SecretFault, Tokens};

mod kept;
#[cfg(feature = "secrets")]
mod manager;

pub use kept::{Kept, Read, Timing, Unavailable};
#[cfg(feature = "secrets")]
pub use manager::SecretsManager;

/// A build that has no client of it.
#[cfg(not(feature = "secrets"))]
#[derive(Debug, Default)]
pub struct SecretsManager;

#[cfg(not(feature = "secrets"))]
impl SecretsManager {
    async fn read(&self, _: &SecretRef, _: Stage) -> Result<Option<String>, SecretError> {
        Err(SecretError::NotBuilt)
    }
}

/// Which version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Current,
    Previous,
}

impl Stage {
    pub fn label(self) -> &'static str {
        match self {
            Self::Current => "AWSCURRENT",
            Self::Previous => "AWSPREVIOUS",
        }
    }
}

/// Why there is nothing to work with. No variant holds anything of a secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Throttling and missing permissions among them: the code says which.
    #[error("Secrets Manager refused: {code}: {message}")]
    Refused { code: String, message: String },
    #[error("Secrets Manager did not answer {0}")]
    NoAnswer(&'static str, #[source] Box<dyn StdError + Send + Sync>),
    /// No connection, or no credentials: there is no telling whether they will come.
    #[error("Secrets Manager could not be asked")]
    NotAsked(#[source] Box<dyn StdError + Send + Sync>),
    #[error("there is no such secret, or nothing in it")]
    Missing,
    #[error("the secret is no text")]
    NoText,
    #[error("the secret cannot be used")]
    Keys(#[source] KeyFaults),
    #[error("the secret cannot be used")]
    Tokens(#[source] SecretFault),
    #[error("it has not been read")]
    NotRead,
    #[error("this build cannot read Secrets Manager")]
    NotBuilt,
}

impl SecretError {
    /// Whether it may be over in a moment, without anybody's doing anything about it.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                matches!(code.as_str(), "ThrottlingException" | "InternalServiceError" | "ServiceUnavailable")
            }
            Self::NoAnswer(..) | Self::NotAsked(_) | Self::NotRead => true,
            Self::Missing | Self::NoText | Self::Keys(_) | Self::Tokens(_) | Self::NotBuilt => false,
        }
    }
}

/// Makes the API keys from a secret.
pub fn api_keys(manager: Arc<SecretsManager>, secret: SecretRef) -> Read<ApiKeys> {
    Box::new(move || {
        let (manager, secret) = (manager.clone(), secret.clone());
        async move {
            let text = manager.read(&secret, Stage::Current).await?.ok_or(SecretError::Missing)?;
            ApiKeys::parse(&text).map_err(SecretError::Keys)
        }
        .boxed()
    })
}

/// Makes what mints and checks tokens from a secret.
pub fn tokens(
    manager: Arc<SecretsManager>,
    secret: SecretRef,
    accept_signed: bool,
    audience: Option<Audience>,
) -> Read<Tokens> {
    Box::new(move || {
        let (manager, secret, audience) = (manager.clone(), secret.clone(), audience.clone());
        async move {
            let (current, previous) =
                futures_util::join!(manager.read(&secret, Stage::Current), manager.read(&secret, Stage::Previous));
            let current = tokens::secret_in(&current?.ok_or(SecretError::Missing)?).map_err(SecretError::Tokens)?;
            // Of what no token can have been made, none can come back.
            let previous = previous?.and_then(|text| tokens::secret_in(&text).ok());
            let secrets: Vec<String> = [Some(current), previous].into_iter().flatten().collect();
            let tokens = Tokens::new(&secrets, accept_signed);
            let tokens = tokens.map_err(|error| SecretError::Tokens(SecretFault::TooShort(error)))?;
            Ok(tokens.with_audience(audience))
        }
        .boxed()
    })
}
