//! A bucket of S3, with the credentials that everything else of AWS is asked with.

use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_secretsmanager::config::{ProvideCredentials as _, SharedCredentialsProvider};
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::path::Path as Key;
use object_store::signer::{Method, Signer as _};
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, Error, RetryConfig};
use tokio::sync::OnceCell;

use super::{StorageError, Use};

/// Of one request, the body included: at most some megabytes, and S3 gives 80 of them in a second.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Bucket {
    name: String,
    region: String,
    /// Made when it is first needed.
    client: OnceCell<Arc<AmazonS3>>,
}

impl Bucket {
    pub fn new(name: String, region: String) -> Self {
        Self { name, region, client: OnceCell::new() }
    }

    /// With access to AWS that was set up elsewhere, and not from this process's environment.
    pub fn with_access(name: &str, access: &SdkConfig) -> Result<Self, StorageError> {
        let region = access.region().map(ToString::to_string).unwrap_or_default();
        let client = OnceCell::new_with(Some(connect(name, &region, access)?));
        Ok(Self { name: name.to_owned(), region, client })
    }

    pub(super) async fn objects(&self) -> Result<Arc<AmazonS3>, StorageError> {
        let connected = self.client.get_or_try_init(|| async {
            let region = Region::new(self.region.clone());
            let access = aws_config::defaults(BehaviorVersion::latest()).region(region).load().await;
            connect(&self.name, &self.region, &access)
        });
        connected.await.cloned()
    }

    pub(super) async fn sign(&self, key: &Key, to: Use, good_for: Duration) -> Result<String, StorageError> {
        let method = match to {
            Use::Read => Method::GET,
            Use::Write => Method::PUT,
        };
        Ok(self.objects().await?.signed_url(method, key, good_for).await?.into())
    }
}

fn connect(name: &str, region: &str, access: &SdkConfig) -> Result<Arc<AmazonS3>, StorageError> {
    let options = ClientOptions::new().with_timeout(CALL_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(100), ..BackoffConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(name)
        .with_region(region)
        .with_client_options(options)
        .with_retry(RetryConfig { max_retries: 2, retry_timeout: CALL_TIMEOUT, backoff });
    if let Some(provider) = access.credentials_provider() {
        builder = builder.with_credentials(Arc::new(Credentials(provider)));
    }
    if let Some(endpoint) = access.endpoint_url() {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    Ok(Arc::new(builder.build()?))
}

/// Those of the SDK, which knows of more places than the client of the bucket does, and renews them.
#[derive(Debug)]
struct Credentials(SharedCredentialsProvider);

#[async_trait::async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>, Error> {
        let credentials = self
            .0
            .provide_credentials()
            .await
            .map_err(|error| Error::Generic { store: "credentials", source: Box::new(error) })?;
        Ok(Arc::new(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(ToOwned::to_owned),
        }))
    }
}
