//! Starting and stopping containers, wherever they run.

#[cfg(feature = "native")]
pub mod local;
pub mod none;

use futures_util::future::BoxFuture;

use crate::container::LaunchSpec;
use crate::ids::ContainerId;

/// A container could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[error("{action} failed")]
pub struct FleetError {
    pub action: &'static str,
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// What runs containers. A container that was launched announces itself by its first claim; a launch that
/// succeeds means only that it is on its way.
pub trait Fleet: Send + Sync {
    /// Starts a container. With an id that was started before, it does nothing.
    fn launch<'a>(&'a self, spec: &'a LaunchSpec) -> BoxFuture<'a, Result<(), FleetError>>;

    /// Stops a container. One that is not there, or not there any more, is stopped already.
    fn stop<'a>(&'a self, container: &'a ContainerId) -> BoxFuture<'a, Result<(), FleetError>>;

    /// The containers that were started here and have not ended.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ContainerId>, FleetError>>;
}
