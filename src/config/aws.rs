//! What is configured of AWS.

use std::path::PathBuf;

use super::Reader;
use super::reader::is_loopback_url;
use crate::addresses::WebsocketApi;
use crate::storage::StorageAt;

/// A secret in Secrets Manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// Its ARN or its name.
    pub id: String,
    pub region: String,
}

/// How tasks are started on ECS: `ECS_CLUSTER_ARN` and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcsOptions {
    pub region: String,
    pub cluster: String,
    pub task_definition: String,
    /// A service of the cluster whose tasks run browsers, too.
    pub service: Option<String>,
    /// Which container of the task definition is `wallcrawler container`.
    pub container_name: String,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    pub assign_public_ip: bool,
    /// Names and weights. Empty: plain Fargate.
    pub capacity_providers: Vec<(String, i32)>,
}

impl Reader<'_> {
    /// As AWS's own programs are told it.
    pub(super) fn aws_region(&self) -> Option<String> {
        self.text("AWS_REGION").or_else(|| self.text("AWS_DEFAULT_REGION"))
    }

    /// The secret that `name` refers to, if `instead` does not hold what is in it.
    pub(super) fn secret(&mut self, name: &str, instead: &str) -> Option<SecretRef> {
        let id = self.text(name)?;
        if self.text(instead).is_some() {
            self.faults.push(format!("{instead} and {name} must not both be set"));
        }
        // `arn:aws:secretsmanager:{region}:{account}:secret:{name}`
        let arn: Vec<&str> = id.split(':').collect();
        let region = match arn.as_slice() {
            ["arn", _, "secretsmanager", region, _, "secret", _] if !region.is_empty() => Some((*region).to_owned()),
            // What a name may be made of.
            [plain] if plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+=.@-".contains(&b)) => {
                let region = self.aws_region();
                if region.is_none() {
                    self.fault("AWS_REGION", format_args!("must be set with {name}, unless that is a whole ARN"));
                }
                region
            }
            _ => {
                self.fault(name, "must be the ARN or the name of a secret in Secrets Manager");
                None
            }
        };
        Some(SecretRef { id, region: region? })
    }

    /// Who is to hold the clients' sockets. The one in AWS has an address only in a region.
    pub(super) fn websocket_api(&mut self, dev: bool) -> Option<WebsocketApi> {
        let stage = self.text("WEBSOCKET_STAGE").unwrap_or_else(|| "prod".to_owned());
        // What API Gateway allows a stage to be called.
        if !(1..=128).contains(&stage.len())
            || !stage.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            self.fault("WEBSOCKET_STAGE", "must be at most 128 letters, digits, - and _");
        }
        let fake = ["AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", "AWS_ENDPOINT_URL"]
            .into_iter()
            .find(|name| self.text(name).is_some());
        let id = self.text("WEBSOCKET_API_ID")?;
        if id == "local" {
            if !dev {
                self.fault("WEBSOCKET_API_ID", "must not be local unless ENVIRONMENT is dev");
            }
            return Some(WebsocketApi::Local { stage });
        }
        if id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            self.fault("WEBSOCKET_API_ID", "must be the id of a WebSocket API, letters and digits, or local");
        }
        let region = match self.aws_region() {
            Some(region) if region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => region,
            Some(_) => {
                self.fault("AWS_REGION", "must be the name of a region, as in eu-west-1");
                return None;
            }
            None => {
                self.fault("AWS_REGION", "must be set with WEBSOCKET_API_ID");
                return None;
            }
        };
        let endpoint = match fake {
            Some(name) => format!("{}/{stage}", self.url(name, &["http", "https"])?),
            None => format!("https://{}/{stage}", WebsocketApi::host(&id, &region)),
        };
        Some(WebsocketApi::Aws { id, region, stage, endpoint })
    }

    /// Where files are to be kept, if anywhere.
    pub(super) fn storage(&mut self) -> Option<StorageAt> {
        let (name, dir) = (self.text("STORAGE_BUCKET"), self.text("STORAGE_DIR"));
        if name.is_some() && dir.is_some() {
            self.faults.push("STORAGE_BUCKET and STORAGE_DIR must not both be set".to_owned());
        }
        let Some(name) = name else { return dir.map(|dir| StorageAt::Directory(PathBuf::from(dir))) };
        // What S3 allows a bucket to be called.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        if !(3..=63).contains(&name.len()) || !name.bytes().all(plain) {
            self.fault("STORAGE_BUCKET", "must be the name of a bucket");
        }
        let region = self.aws_region();
        if region.is_none() {
            self.fault("AWS_REGION", "must be set with STORAGE_BUCKET");
        }
        Some(StorageAt::Bucket { name, region: region? })
    }

    /// The fleet in ECS, if there is to be one.
    pub(super) fn ecs(&mut self) -> Option<EcsOptions> {
        let cluster = self.text("ECS_CLUSTER_ARN")?;
        // A cluster may be named by its name alone. Where it has its ARN, that says where it is.
        let in_arn = cluster.strip_prefix("arn:").and_then(|arn| arn.split(':').nth(2)).map(str::to_owned);
        let region = in_arn.or_else(|| self.aws_region());
        if region.is_none() {
            self.fault("AWS_REGION", "must be set with ECS_CLUSTER_ARN, unless that is a whole ARN");
        }
        let task_definition = self.text("ECS_TASK_DEFINITION_ARN");
        if task_definition.is_none() {
            self.fault("ECS_TASK_DEFINITION_ARN", "must be set with ECS_CLUSTER_ARN");
        }
        let mut required = |name: &str| {
            let items = self.list(name);
            if self.text(name).is_none() {
                self.fault(name, "must be set with ECS_CLUSTER_ARN");
            }
            items
        };
        let (subnets, security_groups) = (required("SUBNET_IDS"), required("SECURITY_GROUP_ID"));
        match self.text("API_ENDPOINT") {
            None => {
                self.fault("API_ENDPOINT", "must be set with ECS_CLUSTER_ARN: tasks must know where to ask for work")
            }
            Some(url) if is_loopback_url(&url) => {
                self.fault("API_ENDPOINT", "must not be a loopback address with ECS_CLUSTER_ARN: no task can reach it");
            }
            Some(_) => {}
        }
        let capacity_providers = self.list("ECS_CAPACITY_PROVIDERS");
        let weighed: Option<Vec<_>> = capacity_providers
            .iter()
            .map(|item| {
                let (name, weight) = item.split_once(':').unwrap_or((item, "1"));
                let weight = weight.parse().ok().filter(|weight| (0..=1_000).contains(weight))?;
                (!name.is_empty()).then(|| (name.to_owned(), weight))
            })
            .collect();
        let strategy = weighed.filter(|items| items.is_empty() || items.iter().any(|(_, weight)| *weight > 0));
        if strategy.is_none() {
            self.fault(
                "ECS_CAPACITY_PROVIDERS",
                "must be names with weights from 0 to 1000, as in FARGATE_SPOT:4,FARGATE:1",
            );
        }
        Some(EcsOptions {
            region: region?,
            cluster,
            task_definition: task_definition?,
            service: self.text("ECS_SERVICE_NAME"),
            container_name: self.text("ECS_CONTAINER_NAME").unwrap_or_else(|| "browser".to_owned()),
            subnets,
            security_groups,
            assign_public_ip: self.flag("ASSIGN_PUBLIC_IP"),
            capacity_providers: strategy?,
        })
    }
}
