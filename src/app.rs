//! The few handles every handler gets.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::api_keys::ApiKeys;
use crate::config::Config;
use crate::container::{ClaimPace, FleetListing, FleetPolicy};
use crate::container_client::ContainerClient;
use crate::fleet::Fleet;
use crate::forwarded::TrustedProxies;
use crate::hex;
use crate::ids::{ConnectionId, ServerId, SessionId};
use crate::known::Known;
use crate::metrics::Metrics;
use crate::places::{Places, USUAL_SOCKETS};
use crate::push::Push;
use crate::secrets::{self, Kept, SecretsManager};
use crate::storage::{Storage, StorageError};
use crate::store::events::Events;
use crate::store::{Limits, Store, StoreError, Unanswered};
use crate::tokens::{SecretTooShort, Tokens};

/// Cheap to clone: every clone is the same application.
#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub store: Store,
    pub events: Events,
    pub fleet: Box<dyn Fleet>,
    /// When the fleet was last asked what it runs, and what of its answer is still to be judged.
    pub listed: Mutex<(u64, Option<FleetListing>)>,
    /// Who holds the sockets of the gateway's clients, if there is a gateway.
    pub push: Option<Box<dyn Push>>,
    /// Where files are kept.
    pub storage: Storage,
    pub containers: ContainerClient,
    /// What this process remembers of the gateway's connections.
    pub known: Known,
    pub tokens: Kept<Tokens>,
    pub api_keys: Kept<ApiKeys>,
    /// Whether the development key is accepted.
    pub default_api_key: bool,
    pub metrics: Metrics,
    pub limits: Limits,
    pub policy: FleetPolicy,
    pub addresses: Addresses,
    /// Whose word for a client's address, scheme and host is taken.
    pub trusted_proxies: TrustedProxies,
    /// Whose pages may use the API.
    pub cors_origins: Vec<HeaderValue>,
    /// How long a client may be parked until its session is ready, or has stored what it left.
    pub connect_wait: Duration,
    /// What a launched container is told beside its name.
    pub warm_browsers: u32,
    pub heartbeat: Duration,
    pub claim_pace: ClaimPace,
    /// This process, as the carrier of client sockets.
    pub server_id: ServerId,
    /// What may have been created without anybody's knowing.
    pub unanswered: Mutex<Vec<Unanswered>>,
    /// The clients' connections that this process carries, and their sessions.
    pub carried: Mutex<HashMap<ConnectionId, SessionId>>,
    /// Those for clients' sockets.
    pub places: Places,
    /// The sockets this process carries, and what they leave to be done.
    pub sockets: TaskTracker,
    /// Resolves when no more clients are to be taken in: the process is about to end.
    pub draining: CancellationToken,
    /// Resolves when the process is to end.
    pub stopping: CancellationToken,
}

/// The application could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("the session store cannot be used")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("JWE_SECRET {0}")]
    Secret(#[from] SecretTooShort),
}

impl App {
    /// Puts the application together, whichever home it runs in. `redis` is the Redis to use, and
    /// `api_endpoint` where containers are told to ask for work if nothing else is configured.
    pub async fn boot(
        config: Config,
        redis: &str,
        api_endpoint: String,
        fleet: Box<dyn Fleet>,
        push: Option<Box<dyn Push>>,
    ) -> Result<Self, BootError> {
        Self::boot_with(config, redis, api_endpoint, fleet, push, SecretsManager::default()).await
    }

    /// The same with access to secrets that was set up elsewhere.
    pub async fn boot_with(
        config: Config,
        redis: &str,
        api_endpoint: String,
        fleet: Box<dyn Fleet>,
        push: Option<Box<dyn Push>>,
        manager: SecretsManager,
    ) -> Result<Self, BootError> {
        let store = Store::open(redis, &config.key_prefix)?;
        let manager = Arc::new(manager);
        let api_keys = match config.api_keys_secret {
            Some(at) => Kept::read("API_KEYS_SECRET_ARN", config.secrets, secrets::api_keys(manager.clone(), at)),
            None => Kept::fixed("API_KEYS", config.api_keys),
        };
        let (accept_signed, audience) = (config.accept_signed_tokens, config.token_audience);
        let tokens = match (config.jwe_secret_at, config.jwe_secret) {
            (Some(at), _) => {
                let read = secrets::tokens(manager, at, accept_signed, audience);
                Kept::read("JWE_SECRET_ARN", config.secrets, read)
            }
            (None, Some(secret)) => {
                Kept::fixed("JWE_SECRET", Tokens::new(&[secret.0], accept_signed)?.with_audience(audience))
            }
            (None, None) => {
                // One per Redis, so that a restart on the same Redis accepts the tokens it once gave out.
                let secret = store.shared_value("dev-jwe-secret", &hex::random(32)).await?;
                Kept::fixed("JWE_SECRET", Tokens::new(&[secret], accept_signed)?.with_audience(audience))
            }
        };
        let mut addresses = config.addresses;
        if addresses.api_endpoint.is_empty() {
            addresses.api_endpoint = api_endpoint;
        }
        Ok(Self(Arc::new(Parts {
            store,
            events: Events::default(),
            fleet,
            listed: Mutex::default(),
            push,
            storage: Storage::open(config.storage)?,
            containers: ContainerClient::default(),
            known: Known::default(),
            tokens,
            api_keys,
            default_api_key: config.default_api_key,
            metrics: Metrics::default(),
            limits: config.limits,
            policy: config.policy,
            addresses,
            trusted_proxies: config.trusted_proxies,
            cors_origins: config.cors_origins,
            connect_wait: config.connect_wait,
            warm_browsers: config.warm_browsers,
            heartbeat: config.heartbeat,
            claim_pace: config.claim_pace,
            server_id: ServerId::random(),
            unanswered: Mutex::default(),
            carried: Mutex::default(),
            places: Places::new(config.max_sockets.unwrap_or(USUAL_SOCKETS)),
            sockets: TaskTracker::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        })))
    }
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}
