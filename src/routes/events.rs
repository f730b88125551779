//! What AWS itself tells: the schedule, and tasks that ended. It comes by invocation of the function alone, so
//! there is no route for it.
//!
//! The invocations are asynchronous: nobody reads the answer, but an `Err` has Lambda try again, and then put
//! the event where failed ones are kept.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::causes::Causes;
use crate::clock::now_ms;
use crate::config::TICK;
use crate::ids::ContainerId;
use crate::store::StoreError;
use crate::{lifecycle, metrics, scaling, telemetry};

/// What is left of an invocation's time for its end.
const MARGIN_MS: u64 = 3_000;

/// Why an event is not to be taken for done.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    #[error("an event that nobody here understands")]
    Unknown,
    #[error("the event could not be acted on")]
    Store(#[from] StoreError),
    #[error("a client's message could not be brought to its browser")]
    NotBrought,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Event {
    source: String,
    detail_type: String,
    #[serde(default)]
    detail: Value,
}

/// What Lambda says of an invocation.
#[derive(Debug, Default)]
pub struct Invocation {
    /// When it is cut off, in milliseconds since the Unix epoch.
    pub deadline_ms: u64,
    /// The function's name.
    pub function: String,
}

/// Acts on an event, and says what was done.
pub async fn take_event(app: &App, body: &[u8], invocation: &Invocation) -> Result<Value, EventError> {
    let Ok(event) = serde_json::from_slice::<Event>(body) else {
        // Not even its beginning: it may be a request that its adapter did not understand, with a key in it.
        tracing::error!(bytes = body.len(), "an event that nobody here understands");
        return Err(EventError::Unknown);
    };
    match (event.source.as_str(), event.detail_type.as_str()) {
        // The rule of an event bus, and the scheduler that is a service of its own.
        ("aws.events" | "aws.scheduler", "Scheduled Event") => {
            let done = look(app, invocation.deadline_ms).await;
            tell_metrics(app, &invocation.function).await;
            Ok(done)
        }
        ("aws.ecs", "ECS Task State Change") => task_changed(app, &event.detail).await,
        (source, detail_type) => {
            tracing::error!(source, detail_type, "an event that nobody here understands");
            Err(EventError::Unknown)
        }
    }
}

/// Looks at the fleet, as the native home does each second. A look that fails is no error: the next is made up
/// for by it, and a repeated one would only come in between.
///
/// Once a minute is too seldom to tell who is silent from who could not be heard; so while somebody is silent,
/// the look is kept up until there is a judgement, or the invocation's time is over. And sessions that wait for a
/// container whose start has failed need not wait for the next minute: it is tried again when the pause is over.
async fn look(app: &App, deadline_ms: u64) -> Value {
    let mut looks = 0u32;
    loop {
        let plan = match scaling::tick(app).await {
            Ok(plan) => plan,
            Err(error) => {
                tracing::error!(error = %Causes(&error), "the look at the fleet failed");
                return json!({ "ok": false, "looks": looks, "error": error.to_string() });
            }
        };
        looks += 1;
        // Whether what was started will come is seen only by looking again.
        let retry = if plan.start > 0 { Some(Duration::ZERO) } else { plan.pause_ms().map(Duration::from_millis) };
        let watch = plan.wants_watch().then_some(TICK);
        let Some(pause) = retry.into_iter().chain(watch).min() else {
            return json!({ "ok": true, "looks": looks });
        };
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        if now_ms().saturating_add(pause_ms) + MARGIN_MS >= deadline_ms {
            if plan.wants_watch() {
                tracing::warn!(
                    looks,
                    lost_after_ms = app.policy.lost_after_ms,
                    "the function's time is too short to see who is lost"
                );
            }
            return json!({ "ok": true, "looks": looks, "undecided": true });
        }
        tokio::time::sleep(pause).await;
    }
}

/// Once a minute, however many invocations there are.
async fn tell_metrics(app: &App, function: &str) {
    match app.store.show_fleet(now_ms()).await {
        Ok((fleet, _)) => {
            telemetry::tell(&metrics::embedded_fleet(&fleet, function, now_ms()));
        }
        Err(error) => tracing::warn!(error = %Causes(&error), "the fleet's metrics could not be told"),
    }
}

/// A task ends, or has ended. If it is one of our containers it gets no more work from the moment on at which its end
/// is certain (two minutes ahead, if Spot takes it back), and it is lost as soon as it has ended, not when its heartbeat
/// is missed. Then the fleet is looked at: what it held may want another container, and the schedule is a minute away.
async fn task_changed(app: &App, detail: &Value) -> Result<Value, EventError> {
    let stopped = detail["lastStatus"] == "STOPPED";
    if !stopped && detail["desiredStatus"] != "STOPPED" {
        return Ok(json!({ "ok": true, "ignored": "the task goes on" }));
    }
    let task = detail["taskArn"].as_str();
    let Some(container) = container_of(detail).or_else(|| ContainerId::of_task(task?)) else {
        return Ok(json!({ "ok": true, "ignored": "the task has no name" }));
    };
    let why = reason(detail);
    // An error has the event delivered again: a container whose loss could not be written down is still held
    // to run its sessions.
    let changed = if stopped {
        tracing::info!(container.id = %container, task.stopped_reason = why, "task stopped");
        // There is nothing left to stop.
        lifecycle::lose_container(app, &container, &why, None).await?
    } else {
        lifecycle::drain(app, &container, &why).await?
    };
    if changed && let Err(error) = scaling::tick(app).await {
        tracing::error!(error = %Causes(&error), "the look at the fleet failed");
    }
    // Other tasks run in the cluster too, the proxies for one; and an event may come more than once.
    if !changed {
        return Ok(json!({ "ok": true, "ignored": "the task is no container that is known" }));
    }
    Ok(json!({ "ok": true, "containerId": container }))
}

/// Why ECS ends a task, in its own words.
pub fn reason(detail: &Value) -> String {
    let texts = [&detail["stopCode"], &detail["stoppedReason"]];
    let known: Vec<&str> = texts.into_iter().filter_map(Value::as_str).collect();
    if known.is_empty() { "ECS stopped its task".to_owned() } else { known.join(": ") }
}

/// What the task was told to be, by the variable that every container is started with.
pub fn container_of(detail: &Value) -> Option<ContainerId> {
    detail["overrides"]["containerOverrides"]
        .as_array()?
        .iter()
        .flat_map(|container| container["environment"].as_array().into_iter().flatten())
        .find(|variable| variable["name"] == "CONTAINER_ID")
        .and_then(|variable| variable["value"].as_str()?.parse().ok())
}
