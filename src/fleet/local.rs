//! Containers as child processes of this binary: what ECS tasks are in the cloud.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{FailureKind, Fleet, FleetError};
use crate::clock::now_ms;
use crate::container::{FleetListing, FleetTask, LaunchSpec, StartedBy};
use crate::ids::ContainerId;
use crate::{child, sweep};

/// How long a container that was asked to end may take before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Where containers come from and where they may write.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The `wallcrawler` binary.
    pub program: PathBuf,
    /// Each container has a directory of its own below it.
    pub root: PathBuf,
    /// Variables passed on besides those of the launch specification (`PATH`, `CHROME_PATH`, ..).
    pub env: Vec<(String, String)>,
    /// Whether containers must not outlive this process, however it ends.
    pub die_with_us: bool,
}

/// The containers that run: how each is asked to end, and when it was started.
type Children = Arc<Mutex<HashMap<ContainerId, (oneshot::Sender<()>, u64)>>>;

/// The child processes.
#[derive(Clone)]
pub struct LocalFleet {
    options: LocalOptions,
    children: Children,
    exits: mpsc::UnboundedSender<ContainerId>,
    /// Closed when everything is to end: nothing is started from then on.
    watchers: TaskTracker,
}

impl LocalFleet {
    /// The fleet, and the ids of its containers as they end.
    pub fn new(options: LocalOptions) -> (Self, mpsc::UnboundedReceiver<ContainerId>) {
        let (exits, exited) = mpsc::unbounded_channel();
        (Self { options, children: Arc::default(), exits, watchers: TaskTracker::new() }, exited)
    }

    async fn start(&self, spec: &LaunchSpec) -> io::Result<()> {
        let (stop, stopped) = oneshot::channel();
        // Whoever waits for all to end waits for what is being started, too.
        let Some(_starting) = self.enter(&spec.container_id, stop)? else { return Ok(()) };
        let workdir = self.options.root.join(directory(&spec.container_id));
        let mut command = Command::new(&self.options.program);
        // Nothing of this process's own environment: it holds secrets that containers must not have.
        // What it does the server says, too: only what goes wrong is worth a second line in the same terminal.
        command
            .arg("container")
            .env_clear()
            .env("RUST_LOG", "warn")
            .envs(self.options.env.iter().cloned())
            .envs(spec.env());
        // Asked to end, they are to end: who stops the server stops the browsers.
        command.env("DRAIN_SECONDS", "0");
        command.env("CONTAINER_WORKDIR", &workdir).stdin(Stdio::null()).stdout(Stdio::null());
        // Ctrl-C in a terminal goes to the whole group; containers are ended by us, in order.
        command.process_group(0);
        if self.options.die_with_us {
            child::die_with_parent(&mut command);
        }
        let child = match child::spawn(command).await {
            Ok(child) => child,
            Err(error) => {
                self.children.lock().expect("not poisoned").remove(&spec.container_id);
                return Err(error);
            }
        };
        tracing::info!(container.id = %spec.container_id, process.id = child.id(), "container started");
        let (children, exits) = (self.children.clone(), self.exits.clone());
        self.watchers.spawn(watch(child, stopped, spec.container_id.clone(), workdir, children, exits));
        Ok(())
    }

    /// Makes room for a child, unless there is one of that name.
    fn enter(&self, container: &ContainerId, stop: oneshot::Sender<()>) -> io::Result<Option<TaskTrackerToken>> {
        let mut children = self.children.lock().expect("not poisoned");
        // What ended containers gave up waits in the queue, and whoever looks at the queue wants to start others.
        if self.watchers.is_closed() {
            return Err(io::Error::other("the server is about to end"));
        }
        match children.entry(container.clone()) {
            Entry::Occupied(_) => Ok(None),
            Entry::Vacant(entry) => {
                entry.insert((stop, now_ms()));
                Ok(Some(self.watchers.token()))
            }
        }
    }

    /// Ends all containers and waits until they have.
    pub async fn stop_all(&self) {
        {
            let mut children = self.children.lock().expect("not poisoned");
            self.watchers.close();
            children.clear();
        }
        self.watchers.wait().await;
    }
}

/// Below it browsers make sockets, whose paths hold few characters: the id's random end will do.
fn directory(container: &ContainerId) -> &str {
    let id = container.as_str();
    &id[id.len().saturating_sub(10)..]
}

/// Follows one child to its end, and clears up behind it.
async fn watch(
    mut child: Child,
    stopped: oneshot::Receiver<()>,
    id: ContainerId,
    workdir: PathBuf,
    children: Children,
    exits: mpsc::UnboundedSender<ContainerId>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        // Sent, or the sender was dropped: both mean that it is to end.
        _ = stopped => {
            child::terminate(&child);
            match tokio::time::timeout(STOP_WAIT, child.wait()).await {
                Ok(status) => status,
                Err(_) => {
                    tracing::warn!(container.id = %id, "container did not end in time and is killed");
                    let _ = child.start_kill();
                    child.wait().await
                }
            }
        }
    };
    match status {
        Ok(status) if status.success() => tracing::info!(container.id = %id, "container ended"),
        Ok(status) => tracing::warn!(container.id = %id, %status, "container ended unexpectedly"),
        Err(error) => tracing::error!(container.id = %id, %error, "container's end cannot be read"),
    }
    // A container that was killed left its browsers and its files.
    let swept = tokio::task::spawn_blocking(move || sweep::sweep(&workdir)).await;
    if swept.is_err() {
        tracing::error!(container.id = %id, "container's leftovers could not be swept");
    }
    children.lock().expect("not poisoned").remove(&id);
    // Nobody listens any more when the process is ending.
    let _ = exits.send(id);
}

impl Fleet for LocalFleet {
    fn launch<'a>(&'a self, spec: &'a LaunchSpec) -> BoxFuture<'a, Result<(), FleetError>> {
        let failed = |error: io::Error| FleetError {
            action: "starting a container",
            kind: FailureKind::Other,
            cause: error.into(),
        };
        self.start(spec).map_err(failed).boxed()
    }

    fn stop<'a>(
        &'a self,
        container: &'a ContainerId,
        _: Option<&'a str>,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), FleetError>> {
        if let Some((stop, _)) = self.children.lock().expect("not poisoned").remove(container) {
            let _ = stop.send(());
        }
        std::future::ready(Ok(())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<FleetListing, FleetError>> {
        let children = self.children.lock().expect("not poisoned");
        let task = |(id, (_, started_at_ms)): (&ContainerId, &(_, u64))| FleetTask {
            container: id.clone(),
            task: None,
            started_at_ms: *started_at_ms,
            started_by: StartedBy::Us,
        };
        // Another server on the same Redis has children of its own.
        let listing = FleetListing { taken_at_ms: now_ms(), whole: false, tasks: children.iter().map(task).collect() };
        std::future::ready(Ok(listing)).boxed()
    }
}
