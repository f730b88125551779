//! What this container is called, and with which token it speaks.

use tokio::time::{Instant, sleep};

use super::api::{Api, ApiError, Backoff};
use super::claim::OUT_OF_CONTACT;
use super::{AgentConfig, AgentError};
use crate::causes::Causes;
use crate::ids::ContainerId;
use crate::protocol::JoinRequest;

/// As it was told; or, in a task that a service of ECS has started, where all are told the same, after its task, with a
/// token for which it shows the service's. A task whose first process has died is called as before, and has to wait until
/// that one was given up.
pub async fn name(config: &AgentConfig, task_arn: Option<&str>) -> Result<(ContainerId, Api), AgentError> {
    let api = |token: &str| Api::new(&config.api_endpoint, token).map_err(AgentError::Client);
    if let Some(id) = &config.container_id {
        return Ok((id.clone(), api(&config.token)?));
    }
    let container_id = task_arn.and_then(ContainerId::of_task).ok_or(AgentError::Nameless)?;
    let of_service = api(&config.token)?;
    let request = JoinRequest { container_id };
    let (began, mut backoff) = (Instant::now(), Backoff::default());
    loop {
        match of_service.join(&request).await {
            Ok(joined) => return Ok((joined.container_id, api(&joined.token)?)),
            Err(ApiError::Refused(status)) => return Err(AgentError::Refused(status.as_u16())),
            Err(error) if began.elapsed() >= OUT_OF_CONTACT => return Err(AgentError::OutOfContact(error)),
            Err(error) => tracing::warn!(error = %Causes(&error), "there is no token for this container yet"),
        }
        sleep(backoff.next_wait()).await;
    }
}
