//! What a task on ECS is told about itself ("Amazon ECS task metadata endpoint version 4" in AWS's documentation).

use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;
use tokio::time::sleep;

const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct TaskMetadata {
    #[serde(rename = "TaskARN")]
    task_arn: String,
}

/// The task's name. `None` if it cannot be had: it is shown to people, and nothing rests on it.
pub async fn task_arn(metadata: &str) -> Option<String> {
    // It is on this machine, and no proxy leads there.
    let client = Client::builder().no_proxy().timeout(TIMEOUT).build().ok()?;
    for attempt in 1..=ATTEMPTS {
        match ask(&client, metadata).await {
            Ok(told) => return Some(told.task_arn),
            Err(error) => tracing::warn!(attempt, %error, "the task's metadata cannot be read"),
        }
        sleep(PAUSE).await;
    }
    None
}

async fn ask(client: &Client, metadata: &str) -> Result<TaskMetadata, reqwest::Error> {
    client.get(format!("{metadata}/task")).send().await?.error_for_status()?.json().await
}
