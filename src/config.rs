//! Configuration from the environment. Every fault is reported at once, by name; values are never
//! repeated, since they may be secrets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use axum::http::Uri;

use crate::addresses::{Addresses, WebsocketApi};
use crate::api_keys::{ApiKeys, KeyFaults};
use crate::container::{ClaimPace, FleetPolicy};
use crate::protocol::{MAX_CLAIM_WAIT_SECONDS, MAX_SESSIONS_LIMIT, MISSED_HEARTBEATS};
use crate::secrets::Timing;
use crate::store::Limits;
use crate::tokens::MIN_SECRET_BYTES;

/// The key a development server accepts when none is configured.
pub const DEV_API_KEY: &str = "wc_dev";
/// The timer of a native server.
pub const TICK: Duration = Duration::from_secs(1);
/// Where events are heard, one may still be lost.
const CLAIM_PACE: ClaimPace = ClaimPace { look: Duration::from_secs(2), yield_for: Duration::from_millis(50) };

/// How strict to be: only development has defaults for what must be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Dev,
    Staging,
    Prod,
}

/// A text that is never shown.
#[derive(Clone)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What the control plane runs with.
#[derive(Debug)]
pub struct Config {
    pub environment: Environment,
    pub bind: SocketAddr,
    /// `None`: a private Redis, started and ended with this process.
    pub redis_endpoint: Option<Secret>,
    pub key_prefix: String,
    pub api_keys: ApiKeys,
    /// Where the keys are instead.
    pub api_keys_secret: Option<SecretRef>,
    /// Whether the keys are the development default.
    pub default_api_key: bool,
    /// `None`: it is elsewhere, or else one that all processes on this Redis share, made when first needed
    /// (development only).
    pub jwe_secret: Option<Secret>,
    /// Where it is instead.
    pub jwe_secret_at: Option<SecretRef>,
    /// How long, and how often, what was read from secrets is made use of.
    pub secrets: Timing,
    pub accept_signed_tokens: bool,
    /// `api_endpoint` is empty if this process itself is meant.
    pub addresses: Addresses,
    /// For tests: how late the local WebSocket API may begin to handle a message, so that messages overtake each
    /// other as they do in AWS.
    pub emulator_delay: Duration,
    /// For tests: the local WebSocket API keeps to itself that a client has gone. AWS promises nothing else.
    pub emulator_lose_disconnect: bool,
    pub limits: Limits,
    pub policy: FleetPolicy,
    /// `None`: containers are child processes, where there can be any.
    pub ecs: Option<EcsOptions>,
    pub connect_wait: Duration,
    pub warm_browsers: u32,
    pub heartbeat: Duration,
    /// Each home says how much it hears of other processes.
    pub claim_pace: ClaimPace,
    pub tmp_dir: PathBuf,
    /// What child processes get of this environment.
    pub child_env: Vec<(String, String)>,
}

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

/// All that is wrong with the environment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has faults:{}", .0.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
pub struct Faults(pub Vec<String>);

/// The environment, read with all faults collected.
pub(crate) struct Reader<'a> {
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) faults: Vec<String>,
}

impl Reader<'_> {
    /// Blank counts as not set.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(crate) fn fault(&mut self, name: &str, message: impl fmt::Display) {
        self.faults.push(format!("{name} {message}"));
    }

    pub(crate) fn parse<T: FromStr>(&mut self, name: &str, default: T, expected: &str) -> T {
        match self.text(name).map(|value| value.parse()) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(_)) => {
                self.fault(name, format_args!("must be {expected}"));
                default
            }
        }
    }

    pub(crate) fn number(&mut self, name: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.parse(name, default, &expected);
        if !range.contains(&value) {
            self.fault(name, format_args!("must be {expected}"));
            return default;
        }
        value
    }

    /// Seconds, with decimals if need be.
    pub(crate) fn seconds(&mut self, name: &str, default: f64, max: f64) -> Duration {
        let expected = format!("a number of seconds from 0 to {max}");
        let value = self.parse(name, default, &expected);
        if !(0.0..=max).contains(&value) {
            self.fault(name, format_args!("must be {expected}"));
            return Duration::from_secs_f64(default);
        }
        Duration::from_secs_f64(value)
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => {
                self.fault(name, "must be true or false");
                false
            }
        }
    }

    /// A base URL of one of these schemes, without a slash at its end.
    pub(crate) fn url(&mut self, name: &str, schemes: &[&str]) -> Option<String> {
        let value = self.text(name)?;
        let rest = schemes.iter().find_map(|scheme| value.strip_prefix(scheme)?.strip_prefix("://"));
        match rest {
            Some(rest) if is_host_and_path(rest) => Some(value.trim_end_matches('/').to_owned()),
            _ => {
                self.fault(name, format_args!("must be a URL that begins with {}://", schemes.join(":// or ")));
                None
            }
        }
    }

    /// As AWS's own programs are told it.
    fn aws_region(&self) -> Option<String> {
        self.text("AWS_REGION").or_else(|| self.text("AWS_DEFAULT_REGION"))
    }

    /// The secret that `name` refers to, if `instead` does not hold what is in it.
    fn secret(&mut self, name: &str, instead: &str) -> Option<SecretRef> {
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
    fn websocket_api(&mut self, dev: bool) -> Option<WebsocketApi> {
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

    /// What is separated by commas, each a name as AWS gives them.
    fn list(&mut self, name: &str) -> Vec<String> {
        let items: Vec<String> = self.text(name).map_or_else(Vec::new, |text| {
            text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
        });
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':');
        if !items.iter().all(|item| item.bytes().all(plain)) {
            self.fault(name, "must be names separated by commas");
        }
        items
    }

    /// The fleet in ECS, if there is to be one.
    fn ecs(&mut self) -> Option<EcsOptions> {
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

    /// A host, with or without a scheme in front of it.
    fn host(&mut self, name: &str) -> Option<String> {
        let value = self.text(name)?;
        let rest = ["ws://", "wss://"].iter().find_map(|scheme| value.strip_prefix(scheme)).unwrap_or(&value);
        if is_host_and_path(rest) && !rest.contains("://") {
            return Some(value.trim_end_matches('/').to_owned());
        }
        self.fault(name, "must be a host, or a URL that begins with ws:// or wss://");
        None
    }
}

pub(crate) fn is_host_and_path(rest: &str) -> bool {
    !rest.is_empty()
        && !rest.starts_with('/')
        && rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'?' | b'#' | b'@'))
}

/// Whether a URL leads to this machine.
pub(crate) fn is_loopback_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `REDIS_ENDPOINT` as people write it: a host, `host:port`, or a URL.
fn redis_url(endpoint: &str) -> Option<String> {
    if endpoint.contains("://") {
        let known = ["redis://", "rediss://", "redis-cluster://", "rediss-cluster://", "redis+unix://"];
        return known.iter().any(|scheme| endpoint.starts_with(scheme)).then(|| endpoint.to_owned());
    }
    if !is_host_and_path(endpoint) || endpoint.contains('/') {
        return None;
    }
    let has_port = endpoint.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { format!("redis://{endpoint}") } else { format!("redis://{endpoint}:6379") })
}

/// Whether all keys that begin with it belong to one slot of a cluster, by Redis' rule: what stands between the first
/// brace and the next closing one decides, if anything does.
fn has_hash_tag(prefix: &str) -> bool {
    let tag = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
}

impl Config {
    pub fn from_env() -> Result<Self, Faults> {
        Self::read(&env)
    }

    /// What all processes of this control plane have in common, and no other control plane has. Two that differ only
    /// in how they write it do not know of each other's tasks, which is harmless; two that should differ and do not
    /// would stop each other's.
    pub fn deployment(&self) -> [&str; 3] {
        let redis = self.redis_endpoint.as_ref().map_or("", |url| without_credentials(&url.0));
        [redis, &self.key_prefix, &self.addresses.api_endpoint]
    }

    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut env = Reader { lookup, faults: Vec::new() };
        let environment = match env.text("ENVIRONMENT").as_deref() {
            None | Some("dev") => Environment::Dev,
            Some("staging") => Environment::Staging,
            Some("prod") => Environment::Prod,
            Some(_) => {
                env.fault("ENVIRONMENT", "must be dev, staging or prod");
                Environment::Prod
            }
        };
        let dev = environment == Environment::Dev;
        let required = |env: &mut Reader<'_>, name: &str| {
            if !dev {
                env.fault(name, "must be set unless ENVIRONMENT is dev");
            }
        };

        let default_bind = IpAddr::from(if dev { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED });
        let bind = env.parse("BIND", default_bind, "an IP address");
        let port = u16::try_from(env.number("PORT", 8080, 0..=65_535)).unwrap_or(8080);

        let redis_endpoint = env.text("REDIS_ENDPOINT").and_then(|endpoint| {
            let url = redis_url(&endpoint);
            if url.is_none() {
                env.fault(
                    "REDIS_ENDPOINT",
                    "must be host, host:port, or a redis://, rediss:// or redis-cluster:// URL",
                );
            }
            url.map(Secret)
        });
        if env.text("REDIS_ENDPOINT").is_none() {
            required(&mut env, "REDIS_ENDPOINT");
        }
        let key_prefix = env.text("KEY_PREFIX").unwrap_or_default();
        if redis_endpoint.as_ref().is_some_and(|url| url.0.contains("-cluster://")) && !has_hash_tag(&key_prefix) {
            env.fault("KEY_PREFIX", "must hold a hash tag on a cluster, as in {wallcrawler}:");
        }

        let keys = env.text("API_KEYS");
        let api_keys_secret = env.secret("API_KEYS_SECRET_ARN", "API_KEYS");
        let default_api_key = keys.is_none() && env.text("API_KEYS_SECRET_ARN").is_none();
        if default_api_key {
            required(&mut env, "API_KEYS_SECRET_ARN or API_KEYS");
            if !bind.is_loopback() {
                env.fault("API_KEYS", "must be set when BIND is not a loopback address");
            }
        }
        let api_keys = match keys {
            Some(text) => ApiKeys::parse(&text),
            None if default_api_key => Ok(ApiKeys::development(DEV_API_KEY)),
            None => Ok(ApiKeys::default()),
        };
        let api_keys = api_keys.unwrap_or_else(|KeyFaults(faults)| {
            env.faults.extend(faults);
            ApiKeys::default()
        });
        let jwe_secret = env.text("JWE_SECRET").map(Secret);
        let jwe_secret_at = env.secret("JWE_SECRET_ARN", "JWE_SECRET");
        match &jwe_secret {
            None if env.text("JWE_SECRET_ARN").is_none() => required(&mut env, "JWE_SECRET_ARN or JWE_SECRET"),
            None => {}
            Some(secret) if secret.0.len() < MIN_SECRET_BYTES => {
                env.fault("JWE_SECRET", format_args!("must be at least {MIN_SECRET_BYTES} bytes long"));
            }
            Some(_) => {}
        }

        let addresses = Addresses {
            cdp_endpoint: env.host("CDP_ENDPOINT"),
            load_balancer: env.host("ALB_DNS_NAME"),
            websocket_api: env.websocket_api(dev),
            public_url: env.url("PUBLIC_URL", &["http", "https"]),
            api_endpoint: env.url("API_ENDPOINT", &["http", "https"]).unwrap_or_default(),
        };
        let names = ["CDP_ENDPOINT", "ALB_DNS_NAME", "WEBSOCKET_API_ID", "PUBLIC_URL"];
        if names.iter().all(|name| env.text(name).is_none()) {
            required(&mut env, "CDP_ENDPOINT, ALB_DNS_NAME, WEBSOCKET_API_ID or PUBLIC_URL");
        }

        let ecs = env.ecs();
        // A task's image takes most of a minute to arrive; a child process is there at once.
        let start_wait = if env.text("ECS_CLUSTER_ARN").is_some() { 120.0 } else { 30.0 };
        let heartbeat = Duration::from_secs(env.number("HEARTBEAT_SECONDS", 5, 1..=MAX_CLAIM_WAIT_SECONDS));
        let policy = FleetPolicy {
            sessions_per_container: env.number("MAX_SESSIONS_PER_CONTAINER", 20, 1..=u64::from(MAX_SESSIONS_LIMIT)),
            warm_slots: env.number("WARM_SLOTS", 0, 0..=100_000),
            min_containers: env.number("MIN_CONTAINERS", 0, 0..=10_000),
            max_containers: env.number("MAX_CONTAINERS", 10, 0..=10_000),
            start_wait_ms: ms(env.seconds("START_TIMEOUT_SECONDS", start_wait, 3_600.0)),
            idle_ms: ms(env.seconds("CONTAINER_IDLE_SECONDS", 300.0, 86_400.0)),
            lost_after_ms: ms(heartbeat) * MISSED_HEARTBEATS,
            blind_after_ms: ms(heartbeat.clamp(TICK * 2, TICK * 5)),
        };
        if policy.min_containers > policy.max_containers {
            env.fault("MIN_CONTAINERS", "must not be greater than MAX_CONTAINERS");
        }
        let limits = Limits {
            max_pending: env.number("MAX_PENDING_SESSIONS", 1_000, 1..=10_000_000),
            max_per_user: env.number("MAX_SESSIONS_PER_USER", 0, 0..=10_000_000),
            creates_per_minute: env.number("CREATES_PER_MINUTE", 0, 0..=1_000_000),
            queue_wait_ms: ms(env.seconds("QUEUE_TIMEOUT_SECONDS", 300.0, 86_400.0)),
            browser_wait_ms: ms(env.seconds("BROWSER_TIMEOUT_SECONDS", 60.0, 3_600.0)),
            connect_wait_ms: ms(env.seconds("NEVER_CONNECTED_SECONDS", 300.0, 86_400.0)),
            grace_ms: ms(env.seconds("DISCONNECT_GRACE_SECONDS", 10.0, 3_600.0)),
            retention_ms: ms(env.seconds("SESSION_RETENTION_SECONDS", 86_400.0, 31_536_000.0)),
            max_leases: 3,
        };
        let config = Config {
            environment,
            bind: SocketAddr::new(bind, port),
            redis_endpoint,
            key_prefix,
            api_keys,
            api_keys_secret,
            default_api_key,
            jwe_secret,
            jwe_secret_at,
            secrets: Timing::of(Duration::from_secs(env.number("SECRETS_MAX_AGE_SECONDS", 300, 1..=86_400))),
            accept_signed_tokens: env.flag("ACCEPT_SIGNED_TOKENS"),
            addresses,
            emulator_delay: env.seconds("EMULATOR_DELAY_SECONDS", 0.0, 60.0),
            emulator_lose_disconnect: env.flag("EMULATOR_LOSE_DISCONNECT"),
            limits,
            policy,
            ecs,
            connect_wait: env.seconds("CONNECT_WAIT_SECONDS", 120.0, 3_600.0),
            warm_browsers: u32::try_from(env.number("WARM_BROWSERS", 1, 0..=100)).unwrap_or(1),
            heartbeat,
            claim_pace: CLAIM_PACE,
            tmp_dir: tmp_dir(&env),
            child_env: PASSED_ON
                .iter()
                .filter_map(|name| env.text(name).map(|value| ((*name).to_owned(), value)))
                .collect(),
        };
        if env.faults.is_empty() { Ok(config) } else { Err(Faults(env.faults)) }
    }
}

/// A URL without the user and password in it.
fn without_credentials(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

/// What a browser container on this machine needs of our environment. Nothing of it is a secret.
const PASSED_ON: [&str; 12] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "CHROME_PATH",
    "CHROME_HEADLESS_SHELL_PATH",
    "FONTCONFIG_PATH",
    "XDG_RUNTIME_DIR",
    "LOG_FORMAT",
];

pub(crate) fn tmp_dir(env: &Reader<'_>) -> PathBuf {
    env.text("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

/// A variable of this process.
#[allow(clippy::disallowed_methods)]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Config, Faults> {
        Config::read(&|name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn nothing_configured_is_a_local_server_on_loopback() {
        let config = read(&[]).expect("valid");
        assert_eq!(config.bind.to_string(), "127.0.0.1:8080");
        assert!(config.redis_endpoint.is_none());
        assert!(config.default_api_key && config.api_keys.find(DEV_API_KEY).is_some());
        assert_eq!((config.policy.sessions_per_container, config.policy.max_containers), (20, 10));
    }

    #[test]
    fn production_refuses_every_default_that_is_a_secret_or_local() {
        for environment in ["prod", "staging"] {
            let faults = read(&[("ENVIRONMENT", environment)]).expect_err("not enough").0;
            for name in
                ["REDIS_ENDPOINT", "API_KEYS_SECRET_ARN or API_KEYS", "JWE_SECRET_ARN or JWE_SECRET", "CDP_ENDPOINT"]
            {
                assert!(faults.iter().any(|fault| fault.starts_with(name)), "{name} in {faults:?}");
            }
        }
        let config = read(&[
            ("ENVIRONMENT", "prod"),
            ("REDIS_ENDPOINT", "redis.internal"),
            ("API_KEYS", "one,two"),
            ("JWE_SECRET", "0123456789abcdef0123456789abcdef"),
            ("CDP_ENDPOINT", "cdp.example.com"),
        ])
        .expect("valid");
        assert_eq!(config.redis_endpoint.expect("set").0, "redis://redis.internal:6379");
        assert_eq!(config.bind.to_string(), "0.0.0.0:8080");
    }

    #[test]
    fn secrets_may_be_elsewhere_but_not_in_two_places() {
        let arn = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:wallcrawler/keys-AbCdEf";
        let base = [("ENVIRONMENT", "prod"), ("REDIS_ENDPOINT", "redis.internal"), ("CDP_ENDPOINT", "cdp.example.com")];
        let with = |vars: &[(&str, &str)]| read(&[&base[..], vars].concat());
        let config = with(&[("API_KEYS_SECRET_ARN", arn), ("JWE_SECRET_ARN", "tokens"), ("AWS_REGION", "eu-north-1")]);
        let config = config.expect("valid");
        assert!(!config.default_api_key && config.api_keys.find(DEV_API_KEY).is_none());
        assert_eq!(config.api_keys_secret, Some(SecretRef { id: arn.to_owned(), region: "eu-west-1".to_owned() }));
        let named = SecretRef { id: "tokens".to_owned(), region: "eu-north-1".to_owned() };
        assert_eq!((config.jwe_secret_at, config.jwe_secret.is_none()), (Some(named), true));
        assert_eq!(config.secrets.max_age, Duration::from_secs(300));

        let long = "0123456789abcdef0123456789abcdef";
        let both =
            [("API_KEYS_SECRET_ARN", arn), ("JWE_SECRET_ARN", arn), ("API_KEYS", "hunter2"), ("JWE_SECRET", long)];
        assert_eq!(
            with(&both).expect_err("two places").0,
            [
                "API_KEYS and API_KEYS_SECRET_ARN must not both be set",
                "JWE_SECRET and JWE_SECRET_ARN must not both be set"
            ]
        );
        for (value, fault) in [
            ("arn:aws:s3:::bucket", "JWE_SECRET_ARN must be the ARN or the name of a secret in Secrets Manager"),
            ("arn:aws:secretsmanager::1:secret:a", "JWE_SECRET_ARN must be the ARN or the name of a secret"),
            ("hunter2 hunter2", "JWE_SECRET_ARN must be the ARN or the name of a secret"),
            ("tokens", "AWS_REGION must be set with JWE_SECRET_ARN, unless that is a whole ARN"),
        ] {
            let faults = with(&[("API_KEYS", "a"), ("JWE_SECRET_ARN", value)]).expect_err("a fault").0;
            assert!(faults.len() == 1 && faults[0].starts_with(fault) && !faults[0].contains("hunter2"), "{faults:?}");
        }
        assert!(read(&[("BIND", "0.0.0.0"), ("API_KEYS_SECRET_ARN", arn)]).is_ok());
    }

    #[test]
    fn the_default_key_is_good_on_loopback_only() {
        let faults = read(&[("BIND", "0.0.0.0")]).expect_err("refused").0;
        assert_eq!(faults, ["API_KEYS must be set when BIND is not a loopback address"]);
    }

    #[test]
    fn every_fault_is_reported_at_once_by_name_and_without_the_value() {
        let faults = read(&[
            ("PORT", "eighty"),
            ("ENVIRONMENT", "qa"),
            ("MAX_CONTAINERS", "-1"),
            ("DISCONNECT_GRACE_SECONDS", "soon"),
            ("JWE_SECRET", "too short to be one"),
            ("PUBLIC_URL", "example.com"),
            ("REDIS_ENDPOINT", "http://redis"),
            ("ACCEPT_SIGNED_TOKENS", "maybe"),
        ])
        .expect_err("faults");
        let text = faults.to_string();
        for name in [
            "PORT",
            "ENVIRONMENT",
            "MAX_CONTAINERS",
            "DISCONNECT_GRACE_SECONDS",
            "JWE_SECRET",
            "PUBLIC_URL",
            "REDIS_ENDPOINT",
            "ACCEPT_SIGNED_TOKENS",
        ] {
            assert_eq!(text.matches(&format!("\n  {name} ")).count(), 1, "{name} in {text}");
        }
        assert!(!text.contains("too short to be one") && !text.contains("eighty"));
    }

    #[test]
    fn a_websocket_api_is_found_in_its_region_or_where_a_fake_is() {
        let id = ("WEBSOCKET_API_ID", "abc123");
        let region = ("AWS_REGION", "eu-west-1");
        let endpoint = |vars: &[(&str, &str)]| match read(vars).expect("valid").addresses.websocket_api {
            Some(WebsocketApi::Aws { endpoint, .. }) => endpoint,
            other => panic!("{other:?}"),
        };
        assert_eq!(endpoint(&[id, region]), "https://abc123.execute-api.eu-west-1.amazonaws.com/prod");
        let china = [id, ("AWS_DEFAULT_REGION", "cn-north-1"), ("WEBSOCKET_STAGE", "v1")];
        assert_eq!(endpoint(&china), "https://abc123.execute-api.cn-north-1.amazonaws.com.cn/v1");
        let any = ("AWS_ENDPOINT_URL", "http://127.0.0.1:5000");
        assert_eq!(endpoint(&[id, region, any]), "http://127.0.0.1:5000/prod");
        let own = ("AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI", "http://127.0.0.1:8080/gateway/");
        assert_eq!(endpoint(&[id, region, any, own]), "http://127.0.0.1:8080/gateway/prod");
        let local = read(&[("WEBSOCKET_API_ID", "local")]).expect("valid").addresses.websocket_api;
        assert_eq!(local, Some(WebsocketApi::Local { stage: "prod".to_owned() }));
        assert_eq!(read(&[region, any]).expect("valid").addresses.websocket_api, None);
    }

    #[test]
    fn a_websocket_api_that_cannot_be_is_a_fault() {
        for (vars, fault) in [
            (&[("WEBSOCKET_API_ID", "abc123")][..], "AWS_REGION must be set with WEBSOCKET_API_ID"),
            (
                &[("WEBSOCKET_API_ID", "abc.example"), ("AWS_REGION", "eu-west-1")],
                "WEBSOCKET_API_ID must be the id of a WebSocket API, letters and digits, or local",
            ),
            (
                &[("WEBSOCKET_API_ID", "local"), ("WEBSOCKET_STAGE", "a/b")],
                "WEBSOCKET_STAGE must be at most 128 letters, digits, - and _",
            ),
            (
                &[("WEBSOCKET_API_ID", "a1"), ("AWS_REGION", "evil.example/")],
                "AWS_REGION must be the name of a region, as in eu-west-1",
            ),
            (
                &[("WEBSOCKET_API_ID", "a1"), ("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL", "fake")],
                "AWS_ENDPOINT_URL must be a URL that begins with http:// or https://",
            ),
        ] {
            assert_eq!(read(vars).expect_err("a fault").0, [fault], "{vars:?}");
        }
    }

    #[test]
    fn a_websocket_api_is_enough_of_an_address_and_a_local_one_is_not_for_production() {
        let with = |id: &str| {
            read(&[
                ("ENVIRONMENT", "prod"),
                ("REDIS_ENDPOINT", "redis.internal"),
                ("API_KEYS", "one,two"),
                ("JWE_SECRET", "0123456789abcdef0123456789abcdef"),
                ("AWS_REGION", "eu-west-1"),
                ("WEBSOCKET_API_ID", id),
            ])
        };
        assert!(with("abc123").is_ok());
        let faults = with("local").expect_err("refused").0;
        assert_eq!(faults, ["WEBSOCKET_API_ID must not be local unless ENVIRONMENT is dev"]);
    }

    const ECS: [(&str, &str); 5] = [
        ("ECS_CLUSTER_ARN", "arn:aws:ecs:eu-west-1:111122223333:cluster/browsers"),
        ("ECS_TASK_DEFINITION_ARN", "arn:aws:ecs:eu-west-1:111122223333:task-definition/browser:7"),
        ("SUBNET_IDS", "subnet-a, subnet-b"),
        ("SECURITY_GROUP_ID", "sg-a"),
        ("API_ENDPOINT", "https://api.example.com"),
    ];

    fn with_ecs(vars: &[(&str, &str)]) -> Result<Config, Faults> {
        read(&[vars, &ECS[..]].concat())
    }

    #[test]
    fn a_cluster_is_a_fleet_of_tasks() {
        let config = with_ecs(&[("ECS_CAPACITY_PROVIDERS", "FARGATE_SPOT:4,FARGATE")]).expect("valid");
        assert_eq!(config.policy.start_wait_ms, 120_000);
        let ecs = config.ecs.expect("configured");
        assert_eq!((ecs.region.as_str(), ecs.container_name.as_str()), ("eu-west-1", "browser"));
        assert_eq!(
            (ecs.subnets, ecs.security_groups),
            (vec!["subnet-a".into(), "subnet-b".into()], vec!["sg-a".into()])
        );
        assert_eq!(ecs.capacity_providers, [("FARGATE_SPOT".to_owned(), 4), ("FARGATE".to_owned(), 1)]);
        assert!(!ecs.assign_public_ip);
        let other =
            with_ecs(&[("START_TIMEOUT_SECONDS", "90"), ("ECS_CLUSTER_ARN", "browsers"), ("AWS_REGION", "eu-north-1")]);
        let other = other.expect("valid");
        assert_eq!(
            (other.policy.start_wait_ms, other.ecs.expect("configured").region.as_str()),
            (90_000, "eu-north-1")
        );
        assert!(read(&ECS[1..4]).expect("valid").ecs.is_none(), "without a cluster the rest means nothing");
    }

    #[test]
    fn a_cluster_without_all_that_belongs_to_it_is_as_many_faults() {
        let faults = read(&[("ECS_CLUSTER_ARN", "browsers")]).expect_err("not enough").0;
        for name in ["AWS_REGION", "ECS_TASK_DEFINITION_ARN", "SUBNET_IDS", "SECURITY_GROUP_ID", "API_ENDPOINT"] {
            assert_eq!(faults.iter().filter(|fault| fault.starts_with(name)).count(), 1, "{name} in {faults:?}");
        }
        for (var, value) in [
            ("API_ENDPOINT", "http://127.0.0.1:8080"),
            ("API_ENDPOINT", "http://localhost"),
            ("API_ENDPOINT", "http://[::1]:1"),
            ("SUBNET_IDS", "subnet a"),
            ("ASSIGN_PUBLIC_IP", "perhaps"),
            ("ECS_CAPACITY_PROVIDERS", "FARGATE:heavy"),
            ("ECS_CAPACITY_PROVIDERS", "FARGATE:0"),
        ] {
            let faults = with_ecs(&[(var, value)]).expect_err("a fault").0;
            assert!(faults.len() == 1 && faults[0].starts_with(var), "{var}: {faults:?}");
        }
    }

    #[test]
    fn redis_is_named_as_people_name_it() {
        for (endpoint, url) in [
            ("cache", Some("redis://cache:6379")),
            ("cache:6380", Some("redis://cache:6380")),
            ("rediss://user:pass@cache:6380", Some("rediss://user:pass@cache:6380")),
            ("redis-cluster://a:1", Some("redis-cluster://a:1")),
            ("memcached://a", None),
            ("a b", None),
        ] {
            assert_eq!(redis_url(endpoint).as_deref(), url, "{endpoint}");
        }
    }

    #[test]
    fn on_a_cluster_the_prefix_keeps_all_keys_in_one_slot() {
        for endpoint in ["redis-cluster://a:1", "rediss-cluster://a:1"] {
            let read = |prefix| read(&[("REDIS_ENDPOINT", endpoint), ("KEY_PREFIX", prefix)]);
            for prefix in ["{wallcrawler}:", "staging:{w}", "{{}:"] {
                assert!(read(prefix).is_ok(), "{prefix}");
            }
            for prefix in ["", "wallcrawler:", "{}:", "{wallcrawler:", "}wallcrawler{:", "{}{w}:"] {
                let faults = read(prefix).expect_err("refused").0;
                assert_eq!(faults, ["KEY_PREFIX must hold a hash tag on a cluster, as in {wallcrawler}:"], "{prefix}");
            }
        }
        assert!(read(&[("REDIS_ENDPOINT", "redis://a:1"), ("KEY_PREFIX", "wallcrawler:")]).is_ok());
    }

    #[test]
    fn an_endpoint_on_this_machine_is_recognised() {
        for endpoint in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:80", "https://localhost:1/x"] {
            assert!(is_loopback_url(endpoint), "{endpoint}");
        }
        for endpoint in ["https://localhost.example", "http://10.0.0.1:80", "http://127.0.0.1.example:1"] {
            assert!(!is_loopback_url(endpoint), "{endpoint}");
        }
    }
}
