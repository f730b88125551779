//! The client of Secrets Manager.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use tokio::sync::OnceCell;

use super::{SecretError, Stage};
use crate::config::SecretRef;

/// A first request waits for this, so it is over before that request's own time is. An answer takes some ten
/// milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_400);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Secrets Manager, in whichever region a secret is.
#[derive(Debug, Default)]
pub struct SecretsManager {
    /// Made when it is first needed.
    client: OnceCell<Client>,
}

impl SecretsManager {
    /// With access to AWS that was set up elsewhere, and not from this process's environment.
    pub fn with_access(access: &SdkConfig) -> Self {
        Self { client: OnceCell::new_with(Some(Client::from_conf(bounded(access)))) }
    }

    /// The text of a secret's version. `None` if there is no such version.
    pub(super) async fn read(&self, secret: &SecretRef, stage: Stage) -> Result<Option<String>, SecretError> {
        let region = Region::new(secret.region.clone());
        let client = self
            .client
            .get_or_init(|| async {
                let access = aws_config::defaults(BehaviorVersion::latest()).region(region.clone()).load().await;
                Client::from_conf(bounded(&access))
            })
            .await;
        let call = client.get_secret_value().secret_id(&secret.id).version_stage(stage.label());
        let here = Builder::new().region(region.clone());
        let answer = match call.customize().config_override(here).send().await.map_err(SecretError::from) {
            Ok(answer) => answer,
            // It says the same of a secret that does not exist and of one that has no such version.
            Err(SecretError::Refused { code, .. }) if code == "ResourceNotFoundException" => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(text) = answer.secret_string {
            return Ok(Some(text));
        }
        let bytes = answer.secret_binary.ok_or(SecretError::NoText)?.into_inner();
        String::from_utf8(bytes).map(Some).map_err(|_| SecretError::NoText)
    }
}

fn bounded(access: &SdkConfig) -> aws_sdk_secretsmanager::Config {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(CALL_TIMEOUT)
        .build();
    // To ask again does no harm, and without the first answer nothing goes.
    let retries = RetryConfig::standard().with_max_attempts(2).with_initial_backoff(Duration::from_millis(100));
    Builder::from(access).timeout_config(timeouts).retry_config(retries).build()
}

impl<E, R> From<SdkError<E, R>> for SecretError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    R: fmt::Debug + Send + Sync + 'static,
{
    fn from(error: SdkError<E, R>) -> Self {
        if let Some(refusal) = error.as_service_error() {
            return Self::Refused {
                code: refusal.code().unwrap_or("an error without a code").to_owned(),
                message: refusal.message().unwrap_or("no message").to_owned(),
            };
        }
        match &error {
            SdkError::TimeoutError(_) => Self::NoAnswer("in time", error.into()),
            SdkError::ResponseError(_) => Self::NoAnswer("in a way that can be read", error.into()),
            _ => Self::NotAsked(error.into()),
        }
    }
}
