//! The native home: the router on a port, with everything a server needs beside it: the timer, the fleet of
//! child processes, the connection on which Redis tells what happens, and, if none is configured, a Redis
//! of its own.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::addresses::WebsocketApi;
use crate::agent::find::{FindError, SearchPlaces, find};
use crate::app::{App, BootError};
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::config::{Config, TICK};
use crate::fleet::Fleet;
use crate::fleet::ecs::EcsFleet;
use crate::fleet::local::{LocalFleet, LocalOptions};
use crate::ids::ContainerId;
use crate::native::{self, ServeOptions};
use crate::places::USUAL_SOCKETS;
use crate::private_redis::{PrivateRedis, PrivateRedisError};
use crate::push::Push;
use crate::secrets::Unavailable;
use crate::storage::StorageAt;
use crate::store::StoreError;
use crate::store::events::Events;
use crate::ws::emulator::{Emulator, EmulatorOptions};
use crate::{lifecycle, open_files, routes, scaling, sweep};

/// How often it is looked whether files have become too old: they are kept for days.
const FORGET: Duration = Duration::from_secs(3_600);
/// How long open sockets get to say goodbye when the server ends.
const SOCKETS_WAIT: Duration = Duration::from_secs(3);
/// How long a start goes on trying to read secrets, and how often. Then whoever started the server may see to it.
const SECRETS_WAIT: Duration = Duration::from_secs(30);
const SECRETS_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{0} cannot be listened on")]
    Listen(SocketAddr, #[source] io::Error),
    #[error("the server broke off")]
    Serve(#[source] io::Error),
    #[error(transparent)]
    Redis(#[from] PrivateRedisError),
    #[error(transparent)]
    Browsers(#[from] FindError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Secrets(#[from] Unavailable),
}

/// A server that is listening.
pub struct Server {
    pub app: App,
    pub address: SocketAddr,
    /// Without children if tasks run in ECS; those go on without this process.
    local: LocalFleet,
    listener: TcpListener,
    emulator: Option<Emulator>,
    redis: Option<PrivateRedis>,
    background: Vec<JoinHandle<()>>,
    root: PathBuf,
    drain: Duration,
    options: ServeOptions,
}

impl Server {
    /// Starts all that is needed, and listens. `program` is the binary whose `container` command runs the
    /// browsers.
    pub async fn start(mut config: Config, program: PathBuf) -> Result<Self, ServerError> {
        if config.policy.max_containers > 0 && config.ecs.is_none() {
            // Now, in one sentence, and not again and again when the first session waits for a browser.
            let env = |name: &str| config.child_env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
            find(&SearchPlaces::read(&env))?;
        }
        let options = share_out(open_files::raise(), &mut config);
        let root = config.tmp_dir.join("wallcrawler");
        sweep::sweep_orphans(&root);
        let listener = TcpListener::bind(config.bind).await.map_err(|error| ServerError::Listen(config.bind, error))?;
        let address = listener.local_addr().map_err(|error| ServerError::Listen(config.bind, error))?;

        let (redis, endpoint) = match &config.redis_endpoint {
            Some(endpoint) => (None, endpoint.0.clone()),
            None => {
                let dir = root.join(format!("redis-{}", std::process::id()));
                let redis = PrivateRedis::start(&dir).await?;
                let endpoint = redis.endpoint();
                // Who owns it, and that it belongs together with sessions and keys that are forgotten with this process,
                // is the same.
                config.storage.get_or_insert_with(|| StorageAt::Directory(dir.join("files")));
                (Some(redis), endpoint)
            }
        };
        let (local, exits) = LocalFleet::new(LocalOptions {
            program,
            root: root.clone(),
            env: config.child_env.clone(),
            die_with_us: redis.is_some(),
        });
        let fleet: Box<dyn Fleet> = match &config.ecs {
            Some(ecs) => Box::new(EcsFleet::new(ecs.clone(), &config.deployment())),
            None => Box::new(local.clone()),
        };
        // Containers on this machine come in through loopback, whatever else is listened on.
        let host = if address.ip().is_unspecified() { "127.0.0.1".to_owned() } else { url_host(address) };
        let api_endpoint = format!("http://{host}:{}", address.port());
        let (prefix, drain) = (config.key_prefix.clone(), config.drain);
        let emulator = emulator(&config);
        let push = match &emulator {
            Some(emulator) => Some(Box::new(emulator.clone()) as Box<dyn Push>),
            #[cfg(feature = "lambda")]
            None => crate::ws::gateway::Connections::of(config.addresses.websocket_api.as_ref()),
            #[cfg(not(feature = "lambda"))]
            None => None,
        };
        let app = App::boot(config, &endpoint, api_endpoint, fleet, push).await?;
        read_secrets(&app).await?;
        let background = vec![
            tokio::spawn(follow(app.events.clone(), endpoint, prefix)),
            tokio::spawn(beat(app.clone())),
            tokio::spawn(tick(app.clone())),
            tokio::spawn(forget_files(app.clone())),
            tokio::spawn(watch_exits(app.clone(), exits)),
        ];
        Ok(Self { app, address, local, listener, emulator, redis, background, root, drain, options })
    }

    /// Serves until `shutdown` resolves, then ends everything in order.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServerError> {
        let Self { app, local, listener, emulator, redis, background, root, drain, options, .. } = self;
        let emulator = emulator.map_or_else(Router::new, |emulator| {
            emulator.routes(Arc::new(app.clone()), app.sockets.clone(), app.stopping.clone())
        });
        let router = routes::router_with(app.clone(), emulator);
        let stop_serving = CancellationToken::new();
        let serving = tokio::spawn(native::serve(listener, router, options, stop_serving.clone().cancelled_owned()));
        shutdown.await;
        // No more clients are taken in, and a balancer learns by `/ready` that there is nothing to be had here. Everything
        // else goes on: those that are there may finish what they do.
        app.draining.cancel();
        app.sockets.close();
        let (sockets, drain_seconds) = (app.sockets.len(), drain.as_secs());
        tracing::info!(sockets, drain_seconds, "draining");
        let _ = timeout(drain, app.sockets.wait()).await;
        tracing::info!(sockets = app.sockets.len(), "stopping");
        // Clients are told first; then the containers end, which still have something to report; the
        // port is closed last.
        app.stopping.cancel();
        local.stop_all().await;
        if timeout(SOCKETS_WAIT, app.sockets.wait()).await.is_err() {
            tracing::warn!(sockets = app.sockets.len(), "some sockets did not close in time");
        }
        stop_serving.cancel();
        let served = serving.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        for task in background {
            task.abort();
            // It may be in the middle of a step, and beat once more.
            let _ = task.await;
        }
        if let Err(error) = lifecycle::sign_off(&app).await {
            tracing::warn!(error = %Causes(&error), "this server could not sign off");
        }
        app.store.close().await;
        if let Some(redis) = redis {
            redis.stop().await;
        }
        // Only if nobody else has anything in it.
        let _ = std::fs::remove_dir(root);
        served.map_err(ServerError::Serve)
    }
}

/// Reads the secrets before anybody needs them. A server that cannot read them is of no use to anyone; what is over in
/// a moment it waits for.
async fn read_secrets(app: &App) -> Result<(), Unavailable> {
    let deadline = Instant::now() + SECRETS_WAIT;
    loop {
        let now_ms = now_ms();
        let (keys, tokens) = futures_util::join!(app.api_keys.get(now_ms), app.tokens.get(now_ms));
        match keys.map(drop).and(tokens.map(drop)) {
            Err(error) if error.cause.is_passing() && Instant::now() < deadline => sleep(SECRETS_PAUSE).await,
            read => return read,
        }
    }
}

/// As many connections as the files suffice for that may be open. A client's socket takes two, its container's being the
/// other; a quarter is for connections that speak HTTP, and another for everything else.
fn share_out(open_files: u64, config: &mut Config) -> ServeOptions {
    let quarter = usize::try_from(open_files / 4).unwrap_or(usize::MAX);
    if config.max_sockets.is_some_and(|wanted| wanted > quarter) {
        tracing::warn!(max_sockets = quarter, open_files, "MAX_SOCKETS is more than the limit of open files allows");
    }
    config.max_sockets = Some(config.max_sockets.unwrap_or(USUAL_SOCKETS).min(quarter));
    let options = ServeOptions { keep_alive: config.keep_alive, ..ServeOptions::default() };
    ServeOptions { max_connections: options.max_connections.min(quarter), ..options }
}

/// The WebSocket API that this process plays itself, if it is to.
fn emulator(config: &Config) -> Option<Emulator> {
    let Some(WebsocketApi::Local { stage }) = &config.addresses.websocket_api else {
        return None;
    };
    Some(Emulator::new(EmulatorOptions {
        stage: stage.clone(),
        delay: Some(config.emulator_delay).filter(|delay| !delay.is_zero()),
        lose_disconnect: config.emulator_lose_disconnect,
        ..EmulatorOptions::default()
    }))
}

fn url_host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

async fn follow(events: Events, endpoint: String, prefix: String) {
    if let Err(error) = events.follow(endpoint, prefix).await {
        tracing::error!(error = %Causes(&error), "events cannot be followed");
    }
}

/// The server's heartbeat: apart from the looks, which wait for the fleet. Whoever misses it takes out the connections
/// that this server carries.
async fn beat(app: App) {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_ms = now_ms();
    loop {
        timer.tick().await;
        let beat_ms = now_ms();
        let beaten = async {
            app.store.beat_server(&app.server_id, beat_ms).await?;
            // Half of what it takes to be given up: clocks differ, and to do it in vain costs little.
            if beat_ms >= heard_ms + app.policy.lost_after_ms / 2 {
                lifecycle::enter_again(&app).await?;
            }
            Ok::<_, StoreError>(())
        };
        // While Redis is away the looks say so.
        if beaten.await.is_ok() {
            heard_ms = beat_ms;
        }
    }
}

/// The timer. A look that fails is made up for by the next.
async fn tick(app: App) {
    let mut timer = interval(TICK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        timer.tick().await;
        match scaling::tick(&app).await {
            Ok(_) => failing = false,
            // Once, not every second.
            Err(error) if !failing => {
                failing = true;
                tracing::error!(error = %Causes(&error), "the look at the fleet failed");
            }
            Err(_) => {}
        }
    }
}

async fn forget_files(app: App) {
    let mut timer = interval(FORGET);
    loop {
        timer.tick().await;
        if let Err(error) = lifecycle::forget_files(&app, now_ms()).await {
            tracing::warn!(error = %Causes(&error), "old files could not be removed");
        }
    }
}

/// A child that ended is lost at once: nobody has to wait for its heartbeat to fail.
async fn watch_exits(app: App, mut exits: mpsc::UnboundedReceiver<ContainerId>) {
    let mut lost: HashSet<ContainerId> = HashSet::new();
    let mut retry = interval(TICK);
    loop {
        tokio::select! {
            exited = exits.recv() => match exited {
                Some(container) => lost.insert(container),
                None => return,
            },
            _ = retry.tick(), if !lost.is_empty() => false,
        };
        // What Redis could not be told is told again.
        for container in lost.clone() {
            if lifecycle::lose_container(&app, &container, "its process ended", None).await.is_ok() {
                lost.remove(&container);
            }
        }
    }
}
