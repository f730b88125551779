//! Starting and stopping containers, wherever they run.

#[cfg(feature = "ecs")]
pub mod ecs;
#[cfg(feature = "native")]
pub mod local;
pub mod none;

use futures_util::future::BoxFuture;

use crate::container::{FleetListing, LaunchSpec};
use crate::ids::ContainerId;

/// A container could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[error("{action} failed")]
pub struct FleetError {
    pub action: &'static str,
    pub kind: FailureKind,
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// What a failure is about, for whoever decides when to try again, and for people who count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Too many have asked too often. It says nothing of the container that was to be started.
    Throttled,
    /// There is no room for it now.
    NoCapacity,
    /// It is not allowed: a permission is missing, or the credentials are not good.
    Denied,
    /// Nobody knows whether it was done.
    NoAnswer,
    Other,
}

impl FailureKind {
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Throttled => "throttled",
            FailureKind::NoCapacity => "no_capacity",
            FailureKind::Denied => "denied",
            FailureKind::NoAnswer => "no_answer",
            FailureKind::Other => "other",
        }
    }
}

/// What runs containers. A container that was launched announces itself by its first claim; a launch that
/// succeeds means only that it is on its way.
pub trait Fleet: Send + Sync {
    /// Starts a container. With an id that was started before, it does nothing. An error does not promise that
    /// nothing was started: the answer may be what was lost.
    fn launch<'a>(&'a self, spec: &'a LaunchSpec) -> BoxFuture<'a, Result<(), FleetError>>;

    /// Stops a container. One that is not there, or not there any more, is stopped already. `task` is the fleet's
    /// own name for it, where the fleet has told it; never what a container says of itself, or one could have
    /// another stopped. `why` is for people who look at what the fleet knows of it.
    fn stop<'a>(
        &'a self,
        container: &'a ContainerId,
        task: Option<&'a str>,
        why: &'a str,
    ) -> BoxFuture<'a, Result<(), FleetError>>;

    /// Whether every process is told the same by it.
    fn is_shared(&self) -> bool {
        false
    }

    /// What was started here and has not ended, what is still on its way included.
    fn list(&self) -> BoxFuture<'_, Result<FleetListing, FleetError>>;
}
