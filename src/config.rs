//! Configuration from the environment. Every fault is reported at once, by name; values are never
//! repeated, since they may be secrets.

mod aws;
mod reader;

pub use aws::{EcsOptions, SecretRef};
pub use reader::Faults;
#[cfg(feature = "agent")]
pub(crate) use reader::is_loopback_url;
pub(crate) use reader::{Reader, is_host_and_path};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;

use crate::addresses::Addresses;
use crate::api_keys::{ApiKeys, KeyFaults};
use crate::container::{ClaimPace, FleetPolicy};
use crate::forwarded::TrustedProxies;
use crate::ids::Audience;
use crate::protocol::{MAX_CLAIM_WAIT_SECONDS, MAX_SESSIONS_LIMIT, MISSED_HEARTBEATS};
use crate::secrets::Timing;
use crate::storage::StorageAt;
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
    /// Which deployment tokens are for, if several have one secret.
    pub token_audience: Option<Audience>,
    /// `api_endpoint` is empty if this process itself is meant.
    pub addresses: Addresses,
    pub trusted_proxies: TrustedProxies,
    /// As browsers write them.
    pub cors_origins: Vec<HeaderValue>,
    /// For tests: how late the local WebSocket API may begin to handle a message, so that messages overtake each
    /// other as they do in AWS.
    pub emulator_delay: Duration,
    /// For tests: the local WebSocket API keeps to itself that a client has gone. AWS promises nothing else.
    pub emulator_lose_disconnect: bool,
    pub limits: Limits,
    pub policy: FleetPolicy,
    /// `None`: containers are child processes, where there can be any.
    pub ecs: Option<EcsOptions>,
    /// `None`: nowhere, or where this process has a Redis of its own, beside that, and no longer than that.
    pub storage: Option<StorageAt>,
    pub connect_wait: Duration,
    /// How many clients' sockets this process carries at a time, those that are held included. `None`: as is usual.
    pub max_sockets: Option<usize>,
    /// How long a client's connection may be idle between requests.
    pub keep_alive: Duration,
    /// How long open sockets may go on after a shutdown was asked for.
    pub drain: Duration,
    pub warm_browsers: u32,
    pub heartbeat: Duration,
    /// Each home says how much it hears of other processes.
    pub claim_pace: ClaimPace,
    pub tmp_dir: PathBuf,
    /// What child processes get of this environment.
    pub child_env: Vec<(String, String)>,
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

    /// Which deployment tokens are for, for one who only mints them.
    pub fn token_audience(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<Audience>, Faults> {
        let mut env = Reader { lookup, faults: Vec::new() };
        let audience = env.audience();
        if env.faults.is_empty() { Ok(audience) } else { Err(Faults(env.faults)) }
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
            region: env.aws_region(),
        };
        let names = ["CDP_ENDPOINT", "ALB_DNS_NAME", "WEBSOCKET_API_ID", "PUBLIC_URL"];
        if names.iter().all(|name| env.text(name).is_none()) {
            required(&mut env, "CDP_ENDPOINT, ALB_DNS_NAME, WEBSOCKET_API_ID or PUBLIC_URL");
        }

        let trusted_proxies = env.text("TRUSTED_PROXIES").map_or(Ok(TrustedProxies::default()), |text| text.parse());
        let trusted_proxies = trusted_proxies.unwrap_or_else(|fault| {
            env.fault("TRUSTED_PROXIES", fault);
            TrustedProxies::default()
        });

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
            max_per_project: 0,
            project_creates_per_minute: 0,
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
            token_audience: env.audience(),
            addresses,
            trusted_proxies,
            cors_origins: env.origins("CORS_ORIGINS"),
            emulator_delay: env.seconds("EMULATOR_DELAY_SECONDS", 0.0, 60.0),
            emulator_lose_disconnect: env.flag("EMULATOR_LOSE_DISCONNECT"),
            limits,
            policy,
            ecs,
            storage: env.storage(),
            connect_wait: env.seconds("CONNECT_WAIT_SECONDS", 120.0, 3_600.0),
            // Longer than a load balancer of AWS keeps its own by default.
            max_sockets: env
                .text("MAX_SOCKETS")
                .map(|_| usize::try_from(env.number("MAX_SOCKETS", 1, 1..=1_000_000)).unwrap_or(usize::MAX)),
            keep_alive: env.seconds("KEEP_ALIVE_SECONDS", 75.0, 86_400.0),
            // Fargate kills a task two minutes after it has asked it to end. Whoever develops ends it and wants it gone.
            drain: env.seconds("DRAIN_SECONDS", if dev { 0.0 } else { 110.0 }, 3_600.0),
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

impl Reader<'_> {
    fn audience(&mut self) -> Option<Audience> {
        let audience = self.text("TOKEN_AUDIENCE")?.parse().ok();
        if audience.is_none() {
            let form = "must be at most 64 letters, digits, _, . and -, and begin with a letter or digit";
            self.fault("TOKEN_AUDIENCE", form);
        }
        audience
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
mod tests;
