//! No fleet: containers are started by hand, and end by themselves.

use std::future::ready;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{FailureKind, Fleet, FleetError};
use crate::container::{FleetListing, LaunchSpec};
use crate::ids::ContainerId;

/// For a home that can start no containers. Whoever uses it sets `max_containers` to 0, or reservations would
/// be made only to be given back.
#[derive(Debug, Clone, Copy)]
pub struct NoFleet;

impl Fleet for NoFleet {
    fn launch<'a>(&'a self, _: &'a LaunchSpec) -> BoxFuture<'a, Result<(), FleetError>> {
        let cause = "no fleet is configured here: start containers by hand".into();
        ready(Err(FleetError { action: "starting a container", kind: FailureKind::Other, cause })).boxed()
    }

    fn stop<'a>(&'a self, _: &'a ContainerId, _: Option<&'a str>, _: &'a str) -> BoxFuture<'a, Result<(), FleetError>> {
        ready(Ok(())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<FleetListing, FleetError>> {
        ready(Ok(FleetListing::default())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_launch_is_refused_and_says_what_to_do_instead() {
        let spec = LaunchSpec {
            container_id: ContainerId::random(),
            token: String::new(),
            api_endpoint: String::new(),
            max_sessions: 1,
            warm_browsers: 0,
            heartbeat: Duration::from_secs(5),
        };
        let refused = NoFleet.launch(&spec).await.expect_err("refused");
        assert!(refused.source().is_some_and(|cause| cause.to_string().contains("by hand")));
        NoFleet.stop(&spec.container_id, None, "a test").await.expect("it is not there");
    }
}
