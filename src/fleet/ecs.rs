//! Containers as tasks on Fargate, each started by a `RunTask` of its own.
//!
//! Tasks that a service keeps running come to the registry by themselves, as containers that are started by hand do. They
//! are listed, so that nothing is started in the place of those that are on their way, and never stopped.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_lc_rs::digest;
use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::Builder;
use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ecs::operation::list_tasks::builders::ListTasksFluentBuilder;
use aws_sdk_ecs::types::{
    AssignPublicIp, AwsVpcConfiguration, CapacityProviderStrategyItem, ContainerOverride, KeyValuePair, LaunchType,
    NetworkConfiguration, Tag, Task, TaskOverride,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::{FailureKind, Fleet, FleetError};
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::config::EcsOptions;
use crate::container::{FleetListing, FleetTask, LaunchSpec, StartedBy};
use crate::hex;
use crate::ids::ContainerId;

/// A create waits for `RunTask`, which answers within some hundred milliseconds. Whoever creates must not wait much
/// longer, however ECS is: the next look is the retry.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// All the calls for one listing.
const LIST_TIMEOUT: Duration = Duration::from_secs(8);
/// How old a listing may be in which a container's task is looked up. What is stopped was there for longer.
const LISTED_FRESH: Duration = Duration::from_secs(5);
/// The most `DescribeTasks` takes, and `ListTasks` gives.
const PAGE: usize = 100;
/// So that people find a container's task.
const CONTAINER_TAG: &str = "wallcrawler:container";

/// What ECS said, or did not say.
#[derive(Debug, thiserror::Error)]
enum EcsError {
    /// Throttling, missing permissions and a wrong configuration among them: the code says which.
    #[error("ECS refused: {code}: {message}")]
    Refused { code: String, message: String },
    /// What `RunTask` says of a task in an answer that is itself a success: no capacity, for one.
    #[error("ECS could not place the task: {reason}{detail}")]
    NotPlaced { reason: String, detail: String },
    #[error("ECS did not answer: {0}; what was asked of it may have been done")]
    NoAnswer(&'static str, #[source] Box<dyn StdError + Send + Sync>),
    #[error("ECS answered without a task and without a failure")]
    Empty,
    #[error("ECS_SERVICE_NAME: the cluster has no active service of that name: {0}")]
    NoService(String),
    #[error("ECS took longer than {} s to list its tasks", LIST_TIMEOUT.as_secs())]
    SlowList,
}

impl EcsError {
    /// ECS has the codes from "Common Errors" of its API reference, and tells a lack of capacity in words.
    fn kind(&self) -> FailureKind {
        match self {
            Self::Refused { code, message } => match code.as_str() {
                "ThrottlingException" | "Throttling" | "TooManyRequestsException" | "RequestLimitExceeded" => {
                    FailureKind::Throttled
                }
                "AccessDeniedException"
                | "NotAuthorized"
                | "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "ExpiredTokenException"
                | "InvalidSignatureException"
                | "OptInRequired" => FailureKind::Denied,
                _ if message.to_ascii_lowercase().contains("rate exceeded") => FailureKind::Throttled,
                _ if message.to_ascii_lowercase().contains("capacity") => FailureKind::NoCapacity,
                _ => FailureKind::Other,
            },
            // "RESOURCE:MEMORY" and the like; what is "MISSING" or "INACTIVE" will not be there in a minute either.
            Self::NotPlaced { reason, .. } if reason.starts_with("RESOURCE") => FailureKind::NoCapacity,
            Self::NotPlaced { reason, .. } if reason.to_ascii_lowercase().contains("capacity") => {
                FailureKind::NoCapacity
            }
            Self::NotPlaced { .. } => FailureKind::Other,
            Self::NoAnswer(..) | Self::SlowList => FailureKind::NoAnswer,
            Self::Empty | Self::NoService(_) => FailureKind::Other,
        }
    }

    fn during(self, action: &'static str) -> FleetError {
        FleetError { action, kind: self.kind(), cause: self.into() }
    }
}

impl<E, R> From<SdkError<E, R>> for EcsError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    R: fmt::Debug + Send + Sync + 'static,
{
    fn from(error: SdkError<E, R>) -> Self {
        if let Some(refusal) = error.as_service_error() {
            return Self::Refused {
                code: refusal.code().unwrap_or("an error without a code").to_owned(),
                message: refusal.message().unwrap_or("no message").to_owned(),
            };
        }
        let what = match &error {
            SdkError::TimeoutError(_) => "in time",
            SdkError::DispatchFailure(_) => "as the connection failed",
            SdkError::ConstructionFailure(_) => "as it could not be asked",
            _ => "in a way that can be read",
        };
        Self::NoAnswer(what, error.into())
    }
}

/// The tasks that this deployment has started in a cluster.
pub struct EcsFleet {
    options: EcsOptions,
    /// By which this deployment's tasks are told from others in the cluster.
    started_by: String,
    /// Made when it is first needed: most invocations start nothing, and none should wait for what it does not need.
    client: OnceCell<Client>,
    /// What was listed last. Where many containers are lost at once, each is looked up in it.
    listed: Mutex<Option<Listed>>,
}

struct Listed {
    at: Instant,
    tasks: Vec<FleetTask>,
}

impl EcsFleet {
    /// `deployment` is what this control plane has in common with all its processes, and with no other one: other
    /// deployments' tasks in the same cluster must be none of its affairs.
    pub fn new(options: EcsOptions, deployment: &[&str]) -> Self {
        Self { started_by: started_by(deployment), options, client: OnceCell::new(), listed: Mutex::default() }
    }

    /// With access to AWS that was set up elsewhere, and not from this process's environment.
    pub fn with_access(options: EcsOptions, deployment: &[&str], access: &SdkConfig) -> Self {
        let client = Client::from_conf(bounded(access));
        Self { client: OnceCell::new_with(Some(client)), ..Self::new(options, deployment) }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async {
                let region = Region::new(self.options.region.clone());
                let access = aws_config::defaults(BehaviorVersion::latest()).region(region).load().await;
                Client::from_conf(bounded(&access))
            })
            .await
    }

    async fn run_task(&self, spec: &LaunchSpec) -> Result<(), EcsError> {
        let variable = |(name, value): (&str, String)| KeyValuePair::builder().name(name).value(value).build();
        let container = ContainerOverride::builder()
            .name(&self.options.container_name)
            .set_environment(Some(spec.env().into_iter().map(variable).collect()))
            .build();
        // One call could start ten, but they would all get the same overrides, and each container has an id and a
        // token of its own.
        let call = self
            .client()
            .await
            .run_task()
            .cluster(&self.options.cluster)
            .task_definition(&self.options.task_definition)
            .count(1)
            .client_token(spec.container_id.as_str())
            .started_by(&self.started_by)
            .tags(Tag::builder().key(CONTAINER_TAG).value(spec.container_id.as_str()).build())
            .network_configuration(self.network())
            .overrides(TaskOverride::builder().container_overrides(container).build());
        let call = match self.capacity_providers() {
            Some(strategy) => call.set_capacity_provider_strategy(Some(strategy)),
            None => call.launch_type(LaunchType::Fargate),
        };
        // An answer that is lost leaves a task that may come although its reservation was given back, and the next
        // look starts another in its stead. If there is room when the first one comes it takes part, and one of the
        // two is idle in the end and drained; if not, its claim is answered `surplus`, and it ends by itself. One
        // that never claims is found by the reconciliation. Keeping the reservation instead would have every session
        // wait for a task that most likely does not exist until `START_TIMEOUT_SECONDS` are over.
        let answer = call.send().await?;
        if let Some(failure) = answer.failures().first() {
            return Err(EcsError::NotPlaced {
                reason: failure.reason().unwrap_or("no reason given").to_owned(),
                detail: failure.detail().map(|detail| format!(" ({detail})")).unwrap_or_default(),
            });
        }
        let task = answer.tasks().first().ok_or(EcsError::Empty)?;
        tracing::info!(container.id = %spec.container_id, task.arn = task.task_arn(), "task started");
        Ok(())
    }

    fn network(&self) -> NetworkConfiguration {
        let public = if self.options.assign_public_ip { AssignPublicIp::Enabled } else { AssignPublicIp::Disabled };
        let vpc = AwsVpcConfiguration::builder()
            .set_subnets(Some(self.options.subnets.clone()))
            .set_security_groups(Some(self.options.security_groups.clone()))
            .assign_public_ip(public)
            .build()
            .expect("the subnets are set");
        NetworkConfiguration::builder().awsvpc_configuration(vpc).build()
    }

    /// `None`: plain Fargate.
    fn capacity_providers(&self) -> Option<Vec<CapacityProviderStrategyItem>> {
        let item = |(name, weight): &(String, i32)| {
            CapacityProviderStrategyItem::builder()
                .capacity_provider(name)
                .weight(*weight)
                .build()
                .expect("the name is set")
        };
        let providers = &self.options.capacity_providers;
        (!providers.is_empty()).then(|| providers.iter().map(item).collect())
    }

    async fn stop_task(&self, container: &ContainerId, known: Option<&str>, why: &str) -> Result<(), EcsError> {
        // What it was called at its start is known only to the process that started it.
        let tasks = match known {
            Some(task) => vec![task.to_owned()],
            None => self.tasks_of(container).await?,
        };
        for task in tasks {
            let call = self.client().await.stop_task().cluster(&self.options.cluster).task(&task);
            let answer = call.reason(format!("stopped by wallcrawler: {why}")).send().await;
            match answer.map_err(EcsError::from) {
                Ok(_) => tracing::info!(container.id = %container, task.arn = task, "task stopped"),
                // ECS forgets tasks an hour after their end.
                Err(EcsError::Refused { code, message })
                    if code == "InvalidParameterException" && message.contains("not found") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The names of a container's tasks.
    async fn tasks_of(&self, container: &ContainerId) -> Result<Vec<String>, EcsError> {
        // Held while they are listed: whoever comes in the meantime gets the same list.
        let mut listed = self.listed.lock().await;
        if listed.as_ref().is_none_or(|listed| listed.at.elapsed() >= LISTED_FRESH) {
            *listed = Some(Listed { at: Instant::now(), tasks: self.tasks().await? });
        }
        let tasks = listed.as_ref().into_iter().flat_map(|listed| &listed.tasks);
        Ok(tasks.filter(|task| task.container == *container).filter_map(|task| task.task.clone()).collect())
    }

    /// This deployment's tasks that have not stopped and are not meant to.
    async fn tasks(&self) -> Result<Vec<FleetTask>, EcsError> {
        tokio::time::timeout(LIST_TIMEOUT, self.all_tasks()).await.unwrap_or(Err(EcsError::SlowList))
    }

    /// Those of the service, if there is to be one. Of our own all can be told without it.
    async fn tasks_of_service(&self) -> Vec<FleetTask> {
        let Some(service) = &self.options.service else { return Vec::new() };
        let listed = tokio::time::timeout(LIST_TIMEOUT, self.service_tasks(service)).await;
        listed.unwrap_or(Err(EcsError::SlowList)).unwrap_or_else(|error| {
            tracing::warn!(error = %Causes(&error), "the service's tasks are not known");
            Vec::new()
        })
    }

    async fn all_tasks(&self) -> Result<Vec<FleetTask>, EcsError> {
        // With `startedBy`, ECS takes no other filter. By itself it lists what is desired to run, which includes what is
        // being started (ListTasks in its API reference).
        let tasks = self.described(|call| call.started_by(&self.started_by)).await?;
        Ok(tasks.iter().filter_map(|task| self.container_of(task)).collect())
    }

    /// The tasks that the service keeps running.
    async fn service_tasks(&self, service: &str) -> Result<Vec<FleetTask>, EcsError> {
        let call = self.client().await.describe_services().cluster(&self.options.cluster).services(service);
        let answer = call.send().await?;
        let active = answer.services().iter().find(|service| service.status() == Some("ACTIVE"));
        let Some(found) = active else {
            let why = answer.failures().first().and_then(|failure| failure.reason());
            return Err(EcsError::NoService(why.unwrap_or("it is not active").to_owned()));
        };
        let (desired, running, pending) = (found.desired_count(), found.running_count(), found.pending_count());
        tracing::debug!(service, desired, running, pending, "the service that runs browsers, too");
        let name = found.service_name().unwrap_or(service);
        // ECS calls the group of a service's tasks so, and lets nobody else use the name.
        let group = format!("service:{name}");
        let tasks = self.described(|call| call.service_name(name)).await?;
        let of_service = tasks.iter().filter(|task| task.group() == Some(&group) && is_wanted(task));
        Ok(of_service.filter_map(reserved_as).collect())
    }

    /// The tasks that are desired to run, and chosen so.
    async fn described(
        &self,
        chosen: impl Fn(ListTasksFluentBuilder) -> ListTasksFluentBuilder,
    ) -> Result<Vec<Task>, EcsError> {
        let client = self.client().await;
        let mut arns = Vec::new();
        let mut next = None;
        loop {
            let call = chosen(client.list_tasks().cluster(&self.options.cluster));
            let page = call.set_next_token(next).send().await?;
            arns.extend(page.task_arns().iter().cloned());
            next = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if next.is_none() {
                break;
            }
        }
        let mut tasks = Vec::with_capacity(arns.len());
        for page in arns.chunks(PAGE) {
            let call = client.describe_tasks().cluster(&self.options.cluster).set_tasks(Some(page.to_vec()));
            tasks.extend(call.send().await?.tasks.unwrap_or_default());
        }
        Ok(tasks)
    }

    /// What the task was told to be. `None` if it is over, or nothing of ours.
    fn container_of(&self, task: &Task) -> Option<FleetTask> {
        if task.started_by() != Some(&self.started_by) || !is_wanted(task) {
            return None;
        }
        let overrides = task.overrides()?.container_overrides();
        let mut variables = overrides.iter().flat_map(ContainerOverride::environment);
        let id = variables.find(|variable| variable.name() == Some("CONTAINER_ID"))?.value()?;
        Some(FleetTask {
            container: id.parse().ok()?,
            task: Some(task.task_arn()?.to_owned()),
            started_at_ms: created_at_ms(task),
            started_by: StartedBy::Us,
        })
    }
}

fn is_wanted(task: &Task) -> bool {
    task.desired_status() != Some("STOPPED")
}

/// One whose age is not told counts as new.
fn created_at_ms(task: &Task) -> u64 {
    task.created_at().and_then(|at| at.to_millis().ok()?.try_into().ok()).unwrap_or_else(now_ms)
}

/// A service's task, by the name that it gives itself: nobody told it what to be.
fn reserved_as(task: &Task) -> Option<FleetTask> {
    let arn = task.task_arn()?;
    Some(FleetTask {
        container: ContainerId::of_task(arn)?,
        task: Some(arn.to_owned()),
        started_at_ms: created_at_ms(task),
        started_by: StartedBy::Service,
    })
}

/// At most 128 letters, digits, `-`, `_` and `/`, says ECS.
fn started_by(deployment: &[&str]) -> String {
    let hash = digest::digest(&digest::SHA256, deployment.join("\n").as_bytes());
    format!("wallcrawler-{}", hex::encode(&hash.as_ref()[..8]))
}

/// One attempt, which is soon over: the next look is the retry, and knocking at once where too many do gains nothing.
fn bounded(access: &SdkConfig) -> aws_sdk_ecs::Config {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_timeout(CALL_TIMEOUT).build();
    Builder::from(access).timeout_config(timeouts).retry_config(RetryConfig::disabled()).build()
}

impl Fleet for EcsFleet {
    fn launch<'a>(&'a self, spec: &'a LaunchSpec) -> BoxFuture<'a, Result<(), FleetError>> {
        async move { self.run_task(spec).await.map_err(|error| error.during("starting a task")) }.boxed()
    }

    fn stop<'a>(
        &'a self,
        container: &'a ContainerId,
        task: Option<&'a str>,
        why: &'a str,
    ) -> BoxFuture<'a, Result<(), FleetError>> {
        async move { self.stop_task(container, task, why).await.map_err(|error| error.during("stopping a task")) }
            .boxed()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn list(&self) -> BoxFuture<'_, Result<FleetListing, FleetError>> {
        async move {
            let taken_at_ms = now_ms();
            let (ours, of_service) = tokio::join!(self.tasks(), self.tasks_of_service());
            let mut tasks = ours.map_err(|error| error.during("listing the tasks"))?;
            tasks.extend(of_service);
            Ok(FleetListing { taken_at_ms, whole: true, tasks })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_are_told_apart_in_a_form_that_ecs_takes() {
        let name = started_by(&["redis://a:6379", "", "https://api"]);
        assert_eq!(name, started_by(&["redis://a:6379", "", "https://api"]));
        assert_ne!(name, started_by(&["redis://a:6379", "b", "https://api"]));
        assert!(name.len() <= 36 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{name}");
    }
}
