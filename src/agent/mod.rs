//! `wallcrawler container`: the agent beside the browsers. It claims sessions, runs one Chromium for each,
//! and lets the proxy through to it. It knows nothing of users, queues or Redis; it keeps no state that
//! outlives its process.
//!
//! [`claim`](self) is the loop that talks to the control plane, `life` what happens to one session, `browser` one
//! Chromium, `account` whose processes it is, `warm` those launched ahead, `relay` the listener,
//! `gateway` the clients whose sockets API Gateway holds, `filter` what neither kind of client may say, `live` those
//! who watch, `egress` where the pages of a browser may go, `extensions` what the browsers load, `left` what is kept of a
//! session when its browser is gone, `context` what a browser begins with that another has left.

mod account;
mod address;
mod api;
mod browser;
mod claim;
mod config;
mod context;
mod devtools;
mod downloads;
mod egress;
mod extensions;
mod files;
mod filter;
mod filtered;
pub mod find;
mod flags;
mod frames;
pub mod gateway;
mod held;
mod http;
mod join;
mod left;
mod life;
mod live;
mod logs;
mod pack;
mod profile;
mod relay;
mod task;
mod uploads;
mod warm;
mod window;

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use self::account::Confinement;
use self::api::Api;
use self::browser::{Browser, LaunchError, Learned, Program, Wanted};
use self::claim::ClaimLoop;
pub use self::config::AgentConfig;
use self::context::Profile;
pub use self::egress::Resolver;
use self::egress::{ClosedPort, Destinations};
use self::extensions::Extensions;
use self::files::Files;
use self::find::Found;
use self::flags::Surroundings;
use self::held::Held;
use self::relay::Routes;
use self::warm::{Room, WarmPool};
use crate::browser_settings::BrowserSettings;
use crate::ids::ContainerId;
use crate::{hex, open_files, sweep};

/// Why a container ends other than by being drained.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Browsers(#[from] find::FindError),
    #[error("the working directory {} cannot be used", path.display())]
    Workdir { path: PathBuf, source: io::Error },
    #[error("nothing can listen on {address}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    #[error("the control plane cannot be spoken to")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the control plane refused the container's token (HTTP {0}): it is not valid there, or no longer")]
    Refused(u16),
    #[error("CONTAINER_ID is not set, and the metadata of the task does not say which task this is")]
    Nameless,
    #[error("another process has come under this container's CONTAINER_ID: each needs one of its own")]
    Replaced,
    #[error("the control plane has not answered for two minutes")]
    OutOfContact(#[source] api::ApiError),
}

/// What every session's task shares.
pub(crate) struct Agent {
    id: ContainerId,
    config: AgentConfig,
    /// Under which the proxy reaches `routes`.
    address: String,
    task_arn: Option<String>,
    /// By which the control plane tells this process from another one of the same container id.
    process: String,
    api: Api,
    files: Files,
    browsers: Found,
    extensions: Extensions,
    surroundings: Surroundings,
    /// That of `routes`.
    _closed: ClosedPort,
    learned: Learned,
    held: Held,
    routes: Routes,
    warm: WarmPool,
    draining: AtomicBool,
}

impl Agent {
    async fn launch(
        &self,
        program: &Program,
        settings: &BrowserSettings,
        extension: Option<File>,
        profile: Option<Profile>,
    ) -> Result<Browser, LaunchError> {
        let wanted = Wanted { program, settings, extension, profile };
        Browser::launch(wanted, &self.config.workdir, &self.surroundings, &self.learned).await
    }

    fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.warm.look_again();
    }

    async fn keep_warm(&self) {
        let size = usize::try_from(self.config.warm_browsers).unwrap_or(usize::MAX);
        let room = || Room {
            free_slots: self.held.free_slots(),
            starting: self.held.any_starting(),
            draining: self.draining.load(Ordering::Relaxed),
        };
        let program = self.browsers.default_program();
        let settings = BrowserSettings::default();
        self.warm.keep(size, room, || self.launch(&program, &settings, None, None)).await;
    }
}

/// Runs a container until `shutdown` resolves and it has drained, or until the control plane drains it.
/// Nothing of it is left then: no process, no file.
///
/// # Errors
/// When it cannot start, when the control plane refuses its token, or after two minutes without an answer.
pub async fn run(mut config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    let browsers = find::find(&config.search)?;
    let task_arn = match &config.task_metadata {
        Some(metadata) => task::task_arn(metadata).await,
        None => None,
    };
    let mut shutdown = Box::pin(shutdown);
    let (id, api) = tokio::select! {
        named = join::name(&config, task_arn.as_deref()) => named?,
        () = &mut shutdown => return Ok(()),
    };
    let unusable = |path: &PathBuf, source| AgentError::Workdir { path: path.clone(), source };
    config.workdir = std::path::absolute(&config.workdir).map_err(|error| unusable(&config.workdir, error))?;
    let listener =
        TcpListener::bind(config.bind).await.map_err(|source| AgentError::Listen { address: config.bind, source })?;
    let bound = listener.local_addr().map_err(|source| AgentError::Listen { address: config.bind, source })?;
    let workdir = config.workdir.clone();
    blocking(move || sweep::occupy(&workdir)).await.map_err(|error| unusable(&config.workdir, error))?;
    prepare_process();
    let programs = [Some(browsers.default_program()), browsers.full_program()];
    let programs: Vec<&Path> = programs.iter().flatten().map(|program| program.path.as_path()).collect();
    let for_files = http::for_files(&config.api_endpoint).map_err(|error| AgentError::Client(error.into()))?;
    let learned = Learned::default();
    let destinations = Destinations::beside(
        config.workdir.parent().map(Path::to_owned),
        config.task_metadata.is_some(),
        config.resolver.clone(),
    );
    let closed = destinations.close_port(bound.port());
    let starts = async |confinement| {
        let surroundings = Surroundings { confinement, destinations: destinations.clone() };
        let (program, settings) = (browsers.default_program(), BrowserSettings::default());
        let wanted = Wanted { program: &program, settings: &settings, extension: None, profile: None };
        Browser::launch(wanted, &config.workdir, &surroundings, &learned).await.is_ok()
    };
    let confinement = Confinement::probe(&programs, &config.workdir, starts).await;

    let agent = Arc::new(Agent {
        id,
        task_arn,
        process: hex::random(16),
        address: address::advertised(config.advertise.as_deref(), bound, &config.api_endpoint),
        extensions: Extensions::new(&config.workdir, for_files.clone()),
        api,
        files: Files::new(for_files),
        browsers,
        surroundings: Surroundings { confinement, destinations },
        _closed: closed,
        learned,
        held: Held::new(config.max_sessions),
        routes: Routes::default(),
        warm: WarmPool::default(),
        draining: AtomicBool::new(false),
        config,
    });
    tracing::info!(
        container.id = %agent.id,
        address = agent.address,
        max_sessions = agent.config.max_sessions,
        browser = %agent.browsers.default_program().path.display(),
        accounts = confinement.accounts,
        sandbox = confinement.sandbox,
        "the container is up"
    );
    let outcome = tokio::select! {
        outcome = ClaimLoop::new(Arc::clone(&agent), shutdown).run() => outcome,
        served = relay::serve(listener, agent.routes.clone()) => match served {
            Ok(()) => unreachable!("it serves for ever"),
            Err(source) => Err(AgentError::Listen { address: bound, source }),
        },
        () = agent.keep_warm() => unreachable!("it keeps them for ever"),
    };
    agent.warm.clear().await;
    let workdir = agent.config.workdir.clone();
    // For what a cancelled launch may just have started.
    blocking(move || sweep::sweep(&workdir)).await;
    tracing::info!(container.id = %agent.id, "the container is done");
    outcome
}

/// What an agent asks of the kernel for its whole process.
fn prepare_process() {
    // Every connection of every page takes two.
    open_files::raise();
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, getpid, set_child_subreaper, set_dumpable_behavior};
        // Orphaned children of a browser come here to be waited for, and do not stay zombies where the first
        // process of a container is not an init.
        let _ = set_child_subreaper(Some(getpid()));
        // The environment holds the token, and a client can have its browser open file:///proc/<pid>/environ.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
