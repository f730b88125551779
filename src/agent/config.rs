//! What a container is told, by its environment.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::egress::Resolver;
use super::find::SearchPlaces;
use super::gateway::IDLE_BEAT;
use crate::config::{self, Faults, Reader, is_host_and_path, is_loopback_url, tmp_dir};
use crate::ids::ContainerId;
use crate::protocol::{CONTAINER_TOKEN_MS, MAX_CLAIM_WAIT_SECONDS, MAX_SESSIONS_LIMIT};

/// A day before its token ends: a session lasts for six hours at most.
const RETIRE_AFTER: Duration = Duration::from_millis(CONTAINER_TOKEN_MS - 24 * 60 * 60 * 1_000);

/// What a container is told when it is started.
#[derive(Clone)]
pub struct AgentConfig {
    /// `None`: a task that a service of ECS has started. It is called after its task, and gets a token for that name by
    /// showing the service's.
    pub container_id: Option<ContainerId>,
    pub token: String,
    /// `http(s)://host:port`
    pub api_endpoint: String,
    pub max_sessions: u32,
    /// How many browsers are launched ahead.
    pub warm_browsers: u32,
    /// How long a claim waits at the server, and so how often one goes out. Whole seconds, at least one.
    pub heartbeat: Duration,
    /// Where the proxy is listened for; port 0 takes any.
    pub bind: SocketAddr,
    /// `host` or `host:port` under which the proxy reaches that listener; `None` finds out.
    pub advertise: Option<String>,
    /// Where browsers are looked for.
    pub search: SearchPlaces,
    /// Everything this container puts on disk is in here. It is removed at the end, and swept first when a
    /// killed predecessor left it. No two agents may share one.
    pub workdir: PathBuf,
    /// Whether the control plane started this container.
    pub launched: bool,
    /// Where a task on ECS is told what it is. On one, nothing else is on the loopback interface, so pages are kept off
    /// it.
    pub task_metadata: Option<String>,
    /// What names mean to pages. No variable changes it: it is for tests.
    pub resolver: Resolver,
    /// How long running sessions may go on after a shutdown was asked for.
    pub drain_timeout: Duration,
    /// After so long it takes no more sessions, and ends with the last it has: before its token does, so that no session
    /// falls with that. `None`: whoever has started it by hand sees to it.
    pub retire_after: Option<Duration>,
    /// After so long without a message a gateway client is sent one.
    pub gateway_idle_beat: Duration,
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("container_id", &self.container_id)
            .field("token", &"(redacted)")
            .field("api_endpoint", &self.api_endpoint)
            .field("max_sessions", &self.max_sessions)
            .field("warm_browsers", &self.warm_browsers)
            .field("heartbeat", &self.heartbeat)
            .field("bind", &self.bind)
            .field("advertise", &self.advertise)
            .field("workdir", &self.workdir)
            .field("launched", &self.launched)
            .field("task_metadata", &self.task_metadata)
            .field("resolver", &self.resolver)
            .field("drain_timeout", &self.drain_timeout)
            .field("retire_after", &self.retire_after)
            .field("gateway_idle_beat", &self.gateway_idle_beat)
            .finish_non_exhaustive()
    }
}

impl AgentConfig {
    pub fn from_env() -> Result<Self, Faults> {
        Self::read(&config::env)
    }

    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut env = Reader { lookup, faults: Vec::new() };
        let required = |env: &mut Reader<'_>, name: &str| {
            let value = env.text(name);
            if value.is_none() {
                env.fault(name, "must be set");
            }
            value
        };
        let api_endpoint = required(&mut env, "API_ENDPOINT").and_then(|_| env.url("API_ENDPOINT", &["http", "https"]));
        let task_metadata = env.text("ECS_CONTAINER_METADATA_URI_V4");
        let given_id =
            if task_metadata.is_some() { env.text("CONTAINER_ID") } else { required(&mut env, "CONTAINER_ID") };
        let container_id = given_id.and_then(|id| {
            let id = id.parse::<ContainerId>();
            if id.is_err() {
                env.fault("CONTAINER_ID", "must be at most 64 letters, digits and . _ -");
            }
            id.ok()
        });
        let token = required(&mut env, "CONTAINER_TOKEN");
        let max_sessions = env.number("MAX_SESSIONS", 20, 1..=u64::from(MAX_SESSIONS_LIMIT));
        let warm_browsers = env.number("WARM_BROWSERS", 1, 0..=100);
        let heartbeat = Duration::from_secs(env.number("HEARTBEAT_SECONDS", 5, 1..=MAX_CLAIM_WAIT_SECONDS));
        let local = api_endpoint.as_deref().is_some_and(is_loopback_url);
        let default_bind = IpAddr::from(if local { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED });
        let bind = env.parse("BIND", default_bind, "an IP address");
        let port = u16::try_from(env.number("PORT", 0, 0..=65_535)).unwrap_or(0);
        let advertise = env.text("CONTAINER_ADDRESS");
        if advertise.as_deref().is_some_and(|address| !is_host_and_path(address) || address.contains('/')) {
            env.fault("CONTAINER_ADDRESS", "must be a host or host:port");
        }
        let launched = env.flag("CONTAINER_LAUNCHED");
        let drain_timeout = env.seconds("DRAIN_SECONDS", 80.0, 3_600.0);
        let (Some(token), Some(api_endpoint), true) = (token, api_endpoint, env.faults.is_empty()) else {
            return Err(Faults(env.faults));
        };
        let workdir = env.text("CONTAINER_WORKDIR").map(PathBuf::from);
        Ok(AgentConfig {
            workdir: workdir.unwrap_or_else(|| {
                let name = container_id.as_ref().map_or("task", ContainerId::as_str);
                tmp_dir(&env).join("wallcrawler").join(name)
            }),
            container_id,
            token,
            api_endpoint,
            max_sessions: u32::try_from(max_sessions).unwrap_or(MAX_SESSIONS_LIMIT),
            warm_browsers: u32::try_from(warm_browsers).unwrap_or(1),
            heartbeat,
            bind: SocketAddr::new(bind, port),
            advertise,
            search: SearchPlaces::read(lookup),
            // Its token is minted when it is started by us, or comes by itself.
            retire_after: (launched || task_metadata.is_some()).then_some(RETIRE_AFTER),
            launched,
            task_metadata,
            resolver: Resolver::default(),
            drain_timeout,
            gateway_idle_beat: IDLE_BEAT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_not_in_what_is_printed() {
        let config = AgentConfig {
            container_id: Some(ContainerId::random()),
            token: "very-secret".into(),
            api_endpoint: "http://127.0.0.1:1".into(),
            max_sessions: 1,
            warm_browsers: 0,
            heartbeat: Duration::from_secs(1),
            bind: "127.0.0.1:0".parse().expect("an address"),
            advertise: None,
            search: SearchPlaces::default(),
            workdir: "/nowhere".into(),
            launched: false,
            task_metadata: None,
            resolver: Resolver::default(),
            drain_timeout: Duration::ZERO,
            retire_after: None,
            gateway_idle_beat: IDLE_BEAT,
        };
        assert!(!format!("{config:?}").contains("very-secret"));
    }

    #[test]
    fn a_container_says_all_that_it_misses() {
        let faults = AgentConfig::read(&|_| None).expect_err("nothing is set").0;
        assert_eq!(faults, ["API_ENDPOINT must be set", "CONTAINER_ID must be set", "CONTAINER_TOKEN must be set"]);
        // A task can be called after itself.
        let task =
            |name: &str| (name == "ECS_CONTAINER_METADATA_URI_V4").then(|| "http://169.254.170.2/v4/x".to_owned());
        let faults = AgentConfig::read(&task).expect_err("too little is set").0;
        assert_eq!(faults, ["API_ENDPOINT must be set", "CONTAINER_TOKEN must be set"]);
    }
}
