//! The connection to Redis: how it is made, kept, and made again, and what is known of it where a command only knows
//! that it waited in vain.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fred::clients::{Client, SubscriberClient};
use fred::prelude::{
    Builder, ClientLike, Config as RedisConfig, Error as RedisError, EventInterface, PubsubInterface, ReconnectPolicy,
    ServerConfig,
};
use fred::types::config::{ClusterDiscoveryPolicy, ReconnectError, Server};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand};
use fred::util::redis_keyslot;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::timeout;

use super::StoreError;
use super::failure::Failure;

/// How long a command may take before the caller is told that Redis is not available: the answer must be with the
/// client within two seconds, on a busy machine too.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(1_200);

/// How long a connection may take to show that it still leads anywhere, and another to take its place. With a
/// command after or before it the answer is still within the two seconds.
const WAKE_TIMEOUT: Duration = Duration::from_millis(250);

/// For how long nothing may be answered before another connection takes this one's place. The library looks at how long
/// ago the last command was sent, and never finds it long while commands are sent.
const SILENCE: Duration = Duration::from_secs(3);

const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);

/// Cheap to clone; all clones share one multiplexed connection.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    link: Arc<Mutex<Link>>,
}

/// What is known beside what commands say.
struct Link {
    task: ConnectHandle,
    errors: broadcast::Receiver<(RedisError, Option<Server>)>,
    /// Why there could last be no connection.
    last: Option<RedisError>,
    /// Since when nothing has been answered.
    silent_since: Option<Instant>,
}

fn builder(endpoint: &str) -> Result<Builder, StoreError> {
    let mut config = RedisConfig::from_url(endpoint).map_err(StoreError::Endpoint)?;
    config.fail_fast = false;
    if let ServerConfig::Clustered { policy, .. } = &mut config.server {
        // The nodes that were named may be gone, and those that were found lead on.
        *policy = ClusterDiscoveryPolicy::UseCache;
    }
    let mut policy = ReconnectPolicy::new_exponential(0, 1, 500, 2);
    // The first connection waits for the first delay, too, and a function that was frozen or has just been started
    // connects while a request waits; the usual jitter is 100 ms.
    policy.set_jitter(2);
    let clustered = config.server.is_clustered();
    let mut builder = Builder::from_config(config);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = COMMAND_TIMEOUT;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(2);
            connection.internal_command_timeout = Duration::from_secs(2);
            // Every script may be repeated, so a command that was under way when the connection broke is.
            connection.max_command_attempts = 2;
            // Whoever answers so may not be the one that the name stands for any more: it is looked up anew.
            connection.reconnect_errors = vec![
                ReconnectError::ReadOnly,
                ReconnectError::MasterDown,
                ReconnectError::ClusterDown,
                ReconnectError::Loading,
            ];
            connection.reconnect_on_auth_error = true;
            if clustered {
                // While a replica takes over, the nodes send each other's clients to and fro for some milliseconds.
                connection.max_command_attempts = 10;
                connection.max_redirections = 10;
                connection.cluster_cache_update_delay = Duration::from_millis(20);
            }
            // A Redis that accepts and never answers.
            connection.unresponsive.max_timeout = Some(SILENCE);
            connection.unresponsive.interval = Duration::from_secs(1);
        })
        .set_policy(policy);
    Ok(builder)
}

impl Connection {
    /// Begins to connect. A Redis that is not there is no error here: it may come.
    pub fn open(endpoint: &str) -> Result<Self, StoreError> {
        let client = builder(endpoint)?.build().map_err(StoreError::Endpoint)?;
        let errors = client.error_rx();
        let link = Link { task: client.connect(), errors, last: None, silent_since: None };
        Ok(Self { client, link: Arc::new(Mutex::new(link)) })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What `command` came to, where that is that it was not carried out.
    pub async fn outcome<T>(&self, command: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
        let began = Instant::now();
        let error = match command.await {
            Ok(value) => {
                self.link.lock().expect("not poisoned").silent_since = None;
                return Ok(value);
            }
            Err(error) => error,
        };
        let failure = Failure::of(&error);
        let hangs = {
            let mut link = self.link.lock().expect("not poisoned");
            if !self.client.is_connected() {
                return Err(link.why_there_is_none(&self.client).unwrap_or(error).into());
            }
            link.hangs(failure, began)
        };
        if hangs {
            tracing::warn!("redis does not answer: connecting again");
            let _ = timeout(WAKE_TIMEOUT, self.client.force_reconnection()).await;
        }
        Err(StoreError::Unavailable(failure, error))
    }

    /// After a pause in which this process may have been frozen. A connection that was closed meanwhile is noticed by
    /// its next command, and costs nothing; one that was forgotten on its way says nothing, and would cost that
    /// command all its time. Here it is found out, by whether `command` is answered, and replaced. A Redis that is
    /// away is the next command's affair.
    pub async fn wake(&self, command: impl Future<Output = Result<(), StoreError>>) {
        if matches!(timeout(WAKE_TIMEOUT, command).await, Ok(Ok(()))) {
            return;
        }
        tracing::info!("redis does not answer after a pause: connecting again");
        let _ = timeout(WAKE_TIMEOUT, self.client.force_reconnection()).await;
    }

    pub async fn close(&self) {
        let _ = self.client.quit().await;
    }
}

impl Link {
    /// A command that waited for a connection only knows that it waited.
    fn why_there_is_none(&mut self, client: &Client) -> Option<RedisError> {
        loop {
            match self.errors.try_recv() {
                Ok((error, _)) => self.last = Some(error),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        if self.task.is_finished() {
            // It gives up by itself only where trying again looks useless; what is there may be replaced all the same.
            self.task = client.connect();
        }
        self.last.clone()
    }

    /// Whether it is time for another connection, after a command that began at `began` has failed.
    fn hangs(&mut self, failure: Failure, began: Instant) -> bool {
        if failure != Failure::Silent {
            self.silent_since = None;
            return false;
        }
        if self.silent_since.get_or_insert(began).elapsed() < SILENCE {
            return false;
        }
        // Of all that fail now one is enough.
        self.silent_since = Some(Instant::now());
        true
    }
}

/// A second connection, on which the moves made by any process are told.
pub struct Subscriber {
    client: SubscriberClient,
    channel: String,
}

impl Subscriber {
    /// It is to be connected, and subscribed whenever it was.
    pub fn new(endpoint: &str, prefix: &str) -> Result<Self, StoreError> {
        let mut builder = builder(endpoint)?;
        builder.with_performance_config(|performance| {
            // A burst of sessions is a burst of events; one that is missed makes everybody look again. Only here:
            // a client makes eight such channels at once, and they are megabytes.
            performance.broadcast_channel_capacity = 8_192;
        });
        let client = builder.build_subscriber_client().map_err(StoreError::Endpoint)?;
        Ok(Self { client, channel: format!("{prefix}events") })
    }

    pub fn client(&self) -> &SubscriberClient {
        &self.client
    }

    /// Returns when it is done, however long Redis takes to come.
    pub async fn subscribe(&self) {
        while let Err(error) = self.client.subscribe(self.channel.as_str()).await {
            tracing::debug!(%error, "redis cannot be subscribed to yet");
            tokio::time::sleep(SUBSCRIBE_PAUSE).await;
        }
    }

    /// Who only listens does not notice that nobody speaks any more: another connection takes the place of one
    /// that is silent when it is asked.
    pub async fn probe(&self) {
        // On a cluster, of the node that the library subscribes to.
        let slot = redis_keyslot(self.client.id().as_bytes());
        let ping = CustomCommand::new_static("PING", ClusterHash::Custom(slot), false);
        let answer: Result<(), RedisError> = self.client.custom(ping, Vec::<String>::new()).await;
        if answer.is_err_and(|error| Failure::of(&error) == Failure::Silent) && self.client.is_connected() {
            tracing::warn!("redis tells nothing any more: connecting again");
            let _ = timeout(COMMAND_TIMEOUT, self.client.force_reconnection()).await;
        }
    }
}
