//! The cast: a Redis behind addresses that stay the same, two servers on it, their containers with stand-ins for
//! browsers, two containers started by hand with real ones; and what is done to all of them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::time::sleep;
use wallcrawler::clock::now_ms;

use crate::audit::Contents;
use crate::forwarder::Forwarder;
use crate::plan::{Fault, Kind, Scene};
use crate::processes::{self, ended, free_port};
use crate::world::{Redis, SECRET, container_token, eventually, redis_command};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wallcrawler");
pub const SERVERS: usize = 2;
/// The containers with real browsers, one at each server.
const REAL: [&str; SERVERS] = ["ctr-real-0", "ctr-real-1"];
/// Those with real browsers count, too.
const MAX_CONTAINERS: usize = 6;
/// For what must come, however crowded the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than a failover pauses writes.
const PAUSE_MS: &str = "5000";

/// How much later something may come of a fault: who is silent is given up after three seconds, if somebody has
/// watched for as long.
const AFTERMATH_MS: u64 = 10_000;

/// How soon a server that was out of reach has said that it is back.
const RETURN_MS: u64 = 1_500;

/// Short times, so that what waits for them comes within the run.
const VARS: [(&str, &str); 17] = [
    ("API_KEYS", "key-one,key-two"),
    ("JWE_SECRET", SECRET),
    ("HEARTBEAT_SECONDS", "1"),
    ("DISCONNECT_GRACE_SECONDS", "2"),
    ("NEVER_CONNECTED_SECONDS", "8"),
    ("CONTAINER_IDLE_SECONDS", "3"),
    ("START_TIMEOUT_SECONDS", "10"),
    ("BROWSER_TIMEOUT_SECONDS", "20"),
    ("CONNECT_WAIT_SECONDS", "20"),
    ("QUEUE_TIMEOUT_SECONDS", "120"),
    ("MAX_SESSIONS_PER_USER", "30"),
    ("MAX_SESSIONS_PER_CONTAINER", "5"),
    ("MAX_CONTAINERS", "6"),
    ("WARM_BROWSERS", "1"),
    ("SESSION_RETENTION_SECONDS", "3600"),
    ("LOG_FORMAT", "json"),
    ("RUST_LOG", "info"),
];

/// What is to stand by although nobody asks for it: containers, and slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandBy {
    pub containers: usize,
    pub slots: usize,
}

impl StandBy {
    const NOTHING: Self = Self { containers: 0, slots: 0 };

    /// Of every other seed, something.
    pub fn of(seed: u64) -> Self {
        if seed.is_multiple_of(2) { Self::NOTHING } else { Self { containers: 3, slots: 4 } }
    }
}

/// What happened when, in milliseconds since the run began.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: Duration,
    pub what: String,
}

struct Server {
    port: u16,
    forwarder: Forwarder,
    child: Mutex<Option<Child>>,
}

pub struct Stage {
    dir: PathBuf,
    began: Instant,
    redis: tokio::sync::Mutex<Redis>,
    servers: Vec<Server>,
    by_hand: Mutex<BTreeMap<&'static str, Child>>,
    pub events: Mutex<Vec<Event>>,
    /// How often each fault struck somebody.
    pub struck: Mutex<BTreeMap<Kind, usize>>,
    /// When a server could not be heard of, from when to when.
    partitions: Mutex<Vec<(u64, u64)>>,
    /// When Redis could not be heard by somebody.
    outages: Mutex<Vec<(u64, u64)>>,
    /// Who was struck, from when to when: a container's directory, a browser's profile, a server's number.
    hits: Mutex<Vec<(String, u64, u64)>>,
    pub audits: Mutex<usize>,
    stand_by: Mutex<StandBy>,
}

impl Stage {
    pub async fn set(stand_by: StandBy) -> Self {
        let redis = Redis::start();
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            let forwarder = Forwarder::to(socket(&redis)).await;
            servers.push(Server { port: free_port(), forwarder, child: Mutex::default() });
        }
        // Short: browsers make sockets below it.
        let dir = PathBuf::from(format!("/tmp/wcc-{}", servers[0].port));
        std::fs::create_dir_all(dir.join("t")).expect("a directory");
        let stage = Self {
            dir,
            began: Instant::now(),
            redis: tokio::sync::Mutex::new(redis),
            servers,
            by_hand: Mutex::default(),
            events: Mutex::default(),
            struck: Mutex::default(),
            partitions: Mutex::default(),
            outages: Mutex::default(),
            hits: Mutex::default(),
            audits: Mutex::default(),
            stand_by: Mutex::new(stand_by),
        };
        for server in 0..SERVERS {
            stage.start_server(server);
            stage.is_ready(server).await;
        }
        for name in REAL {
            stage.start_by_hand(name);
        }
        stage
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn note(&self, what: String) {
        self.events.lock().expect("not poisoned").push(Event { at: self.elapsed(), what });
    }

    /// Whether it was struck, and that not long before this moment.
    pub fn was_hit(&self, name: &str, at_ms: u64) -> bool {
        let hits = self.hits.lock().expect("not poisoned");
        hits.iter().any(|(hit, from_ms, until_ms)| hit == name && (*from_ms..until_ms + AFTERMATH_MS).contains(&at_ms))
    }

    /// Whether a server was cut off from Redis at this moment, or until just before.
    pub fn was_partitioned(&self, at_ms: u64) -> bool {
        let partitions = self.partitions.lock().expect("not poisoned");
        partitions.iter().any(|(from_ms, until_ms)| (*from_ms..until_ms + RETURN_MS).contains(&at_ms))
    }

    /// Whether answers of Redis may have been lost, before this moment and not long ago.
    pub fn answers_were_lost(&self, at_ms: u64) -> bool {
        let outages = self.outages.lock().expect("not poisoned");
        outages.iter().any(|(from_ms, until_ms)| (*from_ms..until_ms + AFTERMATH_MS).contains(&at_ms))
    }

    /// Whether any of a container's browsers was.
    pub fn browser_was_hit(&self, container: &str, at_ms: u64) -> bool {
        let browsers = format!("{container}/");
        let hits = self.hits.lock().expect("not poisoned").clone();
        hits.iter().any(|(hit, ..)| hit.starts_with(&browsers) && self.was_hit(hit, at_ms))
    }

    fn hit(&self, name: impl Into<String>, from_ms: u64, until_ms: u64) {
        self.hits.lock().expect("not poisoned").push((name.into(), from_ms, until_ms));
    }

    fn hit_servers(&self, numbers: std::ops::Range<usize>, from_ms: u64) {
        numbers.for_each(|number| self.hit(format!("server-{number}"), from_ms, now_ms()));
    }

    pub fn url(&self, server: usize) -> String {
        format!("http://127.0.0.1:{}", self.servers[server].port)
    }

    pub fn port(&self, server: usize) -> u16 {
        self.servers[server].port
    }

    /// Where every container has its directory.
    fn root(&self) -> PathBuf {
        self.tmp().join("wallcrawler")
    }

    pub fn tmp(&self) -> PathBuf {
        self.dir.join("t")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// The server that each container claims at, by its directory.
    pub fn homes(&self) -> BTreeMap<String, String> {
        let mut homes: BTreeMap<String, String> =
            (0..SERVERS).map(|number| (REAL[number].to_owned(), format!("server-{number}"))).collect();
        for home in (0..SERVERS).map(|number| format!("server-{number}")) {
            let log = std::fs::read(self.log(&home)).unwrap_or_default();
            for line in String::from_utf8_lossy(&log).lines().filter(|line| line.contains("\"container started\"")) {
                let fields: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                homes.extend(fields["container.id"].as_str().map(|id| (directory(id).to_owned(), home.clone())));
            }
        }
        homes
    }

    /// Every line that any of the processes has written.
    pub fn log_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for path in processes::files(&self.dir) {
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read(path).unwrap_or_default();
                lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
            }
        }
        // Each begins with its time.
        lines.sort();
        lines
    }

    fn spawn(&self, args: &[&str], log: &str, vars: &[(&str, &str)]) -> Child {
        let file: File = OpenOptions::new().create(true).append(true).open(self.log(log)).expect("a log");
        let inherited = ["PATH", "HOME", "CHROME_PATH", "CHROME_HEADLESS_SHELL_PATH"];
        let inherited = inherited.into_iter().filter_map(|name| Some((name, wallcrawler::config::env(name)?)));
        Command::new(PROGRAM)
            .args(args)
            .env_clear()
            .envs(inherited)
            .env("TMPDIR", self.tmp())
            .envs(VARS)
            .envs(vars.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("it starts")
    }

    fn start_server(&self, number: usize) {
        let server = &self.servers[number];
        let redis = format!("redis://127.0.0.1:{}", server.forwarder.port);
        let stand_in = std::env::current_exe().expect("this program").display().to_string();
        let port = server.port.to_string();
        let StandBy { containers, slots } = *self.stand_by.lock().expect("not poisoned");
        let (containers, slots) = (containers.to_string(), slots.to_string());
        let vars = [
            ("PORT", port.as_str()),
            ("REDIS_ENDPOINT", &redis),
            ("CHROME_HEADLESS_SHELL_PATH", &stand_in),
            ("MIN_CONTAINERS", &containers),
            ("WARM_SLOTS", &slots),
        ];
        let mut child = server.child.lock().expect("not poisoned");
        assert!(child.is_none());
        *child = Some(self.spawn(&[], &format!("server-{number}"), &vars));
    }

    async fn is_ready(&self, number: usize) {
        let url = format!("{}/ready", self.url(number));
        eventually(PATIENCE, async || match reqwest::get(&url).await {
            Ok(answer) if answer.status() == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        })
        .await;
    }

    fn kill_server(&self, number: usize) {
        let mut server = self.servers[number].child.lock().expect("not poisoned").take().expect("it runs");
        server.kill().expect("it runs");
        server.wait().expect("it ends");
    }

    async fn stop_server(&self, number: usize) {
        let server = self.servers[number].child.lock().expect("not poisoned").take().expect("it runs");
        processes::signal(server.id(), Signal::TERM);
        let status = ended(server).await;
        assert!(status.success(), "server {number} ended with {status}");
    }

    fn start_by_hand(&self, name: &'static str) {
        let number = REAL.iter().position(|other| *other == name).expect("one of them");
        let (token, endpoint, workdir) = (container_token(name), self.url(number), self.root().join(name));
        let vars = [
            ("CONTAINER_ID", name),
            ("CONTAINER_TOKEN", &token),
            ("CONTAINER_WORKDIR", &workdir.display().to_string()),
            ("API_ENDPOINT", &endpoint),
            ("MAX_SESSIONS", "2"),
            ("PORT", "0"),
            ("DRAIN_SECONDS", "0"),
        ];
        let child = self.spawn(&["container"], name, &vars);
        self.by_hand.lock().expect("not poisoned").insert(name, child);
    }

    /// Starts containers again that somebody has started by hand and that have ended, for as long as it is polled.
    pub async fn keep_by_hand(&self) {
        loop {
            for name in REAL {
                let has_ended = {
                    let mut children = self.by_hand.lock().expect("not poisoned");
                    children.get_mut(name).is_none_or(|child| child.try_wait().expect("a child").is_some())
                };
                if has_ended {
                    self.start_by_hand(name);
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// The containers' directories, and their processes.
    pub fn containers(&self) -> Vec<(String, u32)> {
        let owner = |dir: PathBuf| {
            let text = std::fs::read_to_string(dir.join("owner.pid")).ok()?;
            let pid = text.split_whitespace().next()?.parse().ok()?;
            processes::is_container(pid).then_some((dir.file_name()?.to_str()?.to_owned(), pid))
        };
        let mut all: Vec<_> = processes::files(&self.root()).into_iter().filter_map(owner).collect();
        all.sort();
        all
    }

    /// Does what the plan says. Returns when the fault is over, except for a container that sleeps: it wakes while
    /// others are struck.
    pub async fn strike(&self, fault: &Fault) {
        let number = usize::try_from(fault.victim % SERVERS as u64).expect("small");
        let (mut struck, from_ms) = (true, now_ms());
        match fault.kind {
            Kind::RedisKilled | Kind::RedisRestarted => {
                let mut redis = self.redis.lock().await;
                if fault.kind == Kind::RedisRestarted {
                    redis.signal("-TERM");
                    let socket = socket(&redis);
                    eventually(PATIENCE, async || if socket.exists() { Err("it goes on".to_owned()) } else { Ok(()) })
                        .await;
                }
                redis.kill();
                self.note(format!("{:?}", fault.kind));
                sleep(fault.lasts).await;
                redis.restart();
                self.note("redis is back".to_owned());
            }
            Kind::RedisSilent => {
                let redis = self.redis.lock().await;
                redis.signal("-STOP");
                self.note("RedisSilent".to_owned());
                sleep(fault.lasts).await;
                redis.signal("-CONT");
                self.note("redis is back".to_owned());
            }
            Kind::RedisPaused => {
                let redis = self.redis.lock().await.client().await;
                redis_command(&redis, &["CLIENT", "PAUSE", PAUSE_MS, "WRITE"]).await;
                self.audit(&redis).await;
                redis_command(&redis, &["CLIENT", "UNPAUSE"]).await;
                self.note("redis was paused and audited".to_owned());
            }
            Kind::RedisFailover => self.fail_over().await,
            Kind::RedisConnectionsCut => {
                self.note(format!("the connections of server {number} to redis are cut"));
                self.servers[number].forwarder.cut();
            }
            Kind::ServerPartitioned => {
                self.note(format!("server {number} is cut off from redis"));
                self.servers[number].forwarder.block(true);
                sleep(fault.lasts).await;
                self.servers[number].forwarder.block(false);
                self.partitions.lock().expect("not poisoned").push((from_ms, now_ms()));
                self.hit_servers(number..number + 1, from_ms);
                self.note(format!("server {number} reaches redis again"));
            }
            Kind::ServerKilled => {
                self.note(format!("server {number} is killed"));
                self.kill_server(number);
                sleep(fault.lasts).await;
                self.start_server(number);
                self.hit_servers(number..number + 1, from_ms);
                self.note(format!("server {number} is started"));
            }
            Kind::ServerStopped => {
                self.note(format!("server {number} is asked to end"));
                let asked = Instant::now();
                self.stop_server(number).await;
                self.note(format!("server {number} has ended, {:.1} s later", asked.elapsed().as_secs_f64()));
                sleep(fault.lasts).await;
                self.start_server(number);
                self.hit_servers(number..number + 1, from_ms);
                self.note(format!("server {number} is started"));
            }
            Kind::AllServersKilled => {
                self.note("all servers are killed".to_owned());
                for number in 0..SERVERS {
                    self.kill_server(number);
                }
                sleep(fault.lasts).await;
                (0..SERVERS).for_each(|number| self.start_server(number));
                self.hit_servers(0..SERVERS, from_ms);
                self.note("all servers are started".to_owned());
            }
            Kind::ContainerKilled
            | Kind::ContainerStopped
            | Kind::ContainerFrozenBriefly
            | Kind::ContainerFrozenTooLong => {
                let all = self.containers();
                struck = !all.is_empty();
                if struck {
                    let (name, pid) = &all[usize::try_from(fault.victim).expect("64 bits") % all.len()];
                    self.strike_container(fault, name, *pid);
                }
            }
            Kind::BrowserKilled => {
                let all = processes::browsers(&self.root());
                struck = !all.is_empty();
                if struck {
                    let pid = all[usize::try_from(fault.victim).expect("64 bits") % all.len()];
                    if let Some(profile) = profile(pid) {
                        self.hit(&profile, from_ms, from_ms);
                        self.note(format!("the browser {profile} is killed"));
                        processes::kill(pid);
                    }
                }
            }
        }
        if matches!(fault.scene, Scene::Redis) {
            self.outages.lock().expect("not poisoned").push((from_ms, now_ms()));
        }
        if struck {
            *self.struck.lock().expect("not poisoned").entry(fault.kind).or_default() += 1;
        }
    }

    fn strike_container(&self, fault: &Fault, name: &str, pid: u32) {
        let lasts_ms = u64::try_from(fault.lasts.as_millis()).expect("short");
        self.hit(name, now_ms(), now_ms() + lasts_ms);
        self.note(format!("{:?} for {:?}: {name}", fault.kind, fault.lasts));
        match fault.kind {
            Kind::ContainerKilled => processes::kill(pid),
            Kind::ContainerStopped => processes::signal(pid, Signal::TERM),
            _ => {
                processes::signal(pid, Signal::STOP);
                let lasts = fault.lasts;
                tokio::spawn(async move {
                    sleep(lasts).await;
                    // Its number may be another's by now; to wake what does not sleep is harmless.
                    processes::signal(pid, Signal::CONT);
                });
            }
        }
    }

    /// A replica takes the primary's place. It has all that was answered: while writes are paused, it catches up.
    /// While they are, everything in Redis belongs to one moment, and is audited.
    async fn fail_over(&self) {
        let mut primary = self.redis.lock().await;
        let (mut replica, asking) = (Redis::start(), primary.client().await);
        let port = free_port().to_string();
        redis_command(&asking, &["CONFIG", "SET", "port", &port]).await;
        let watching = replica.client().await;
        redis_command(&watching, &["REPLICAOF", "127.0.0.1", &port]).await;
        eventually(PATIENCE, async || {
            let info = info(&watching).await;
            if info["master_link_status"] == "up" { Ok(()) } else { Err(format!("{info:?}")) }
        })
        .await;
        redis_command(&asking, &["CLIENT", "PAUSE", PAUSE_MS, "WRITE"]).await;
        self.audit(&asking).await;
        eventually(Duration::from_secs(2), async || {
            let (written, read) = (info(&asking).await, info(&watching).await);
            let (written, read) = (&written["master_repl_offset"], &read["slave_repl_offset"]);
            if written == read { Ok(()) } else { Err(format!("{read} of {written}")) }
        })
        .await;
        self.note("redis fails over".to_owned());
        primary.kill();
        redis_command(&watching, &["REPLICAOF", "NO", "ONE"]).await;
        std::mem::swap(&mut *primary, &mut replica);
        for server in &self.servers {
            server.forwarder.point_at(socket(&primary));
        }
    }

    async fn audit(&self, redis: &fred::prelude::Client) {
        let contents = Contents::read(redis).await;
        contents.check();
        let launched = contents.hashes.iter().filter(|(key, hash)| {
            key.strip_prefix("container:").is_some_and(|id| !id.contains(':')) && hash["launched"] == "1"
        });
        let starting = contents.sorted.get("containers-starting").map_or(0, Vec::len);
        let count = launched.count() + starting;
        assert!(count <= MAX_CONTAINERS, "{count} containers were started, {starting} of them are on their way");
        *self.audits.lock().expect("not poisoned") += 1;
    }

    pub async fn contents(&self) -> Contents {
        Contents::read(&self.redis.lock().await.client().await).await
    }

    /// Ends the containers that were started by hand, which have nothing to do any more.
    pub async fn end_by_hand(&self) {
        let children = std::mem::take(&mut *self.by_hand.lock().expect("not poisoned"));
        for (name, child) in children {
            processes::signal(child.id(), Signal::TERM);
            let status = ended(child).await;
            assert!(status.success(), "{name} ended with {status}");
        }
    }

    /// Servers that want nothing to stand by any more take the place of those that did.
    pub async fn stand_down(&self) {
        *self.stand_by.lock().expect("not poisoned") = StandBy::NOTHING;
        self.end_servers().await;
        for server in 0..SERVERS {
            self.start_server(server);
            self.is_ready(server).await;
        }
    }

    pub async fn end_servers(&self) {
        join_all((0..SERVERS).map(|number| self.stop_server(number))).await;
    }

    /// What a container leaves that was killed after its server had been is swept by the next server that starts there.
    pub async fn sweep_orphans(&self) {
        let names = || {
            processes::files(&self.root()).into_iter().filter_map(|dir| dir.file_name()?.to_str().map(str::to_owned))
        };
        let hits = self.hits.lock().expect("not poisoned").clone();
        if names().next().is_none() || !names().all(|name| hits.iter().any(|(hit, ..)| *hit == name)) {
            return;
        }
        self.start_server(0);
        eventually(PATIENCE, async || {
            if names().next().is_none() { Ok(()) } else { Err(format!("{:?}", names().collect::<Vec<_>>())) }
        })
        .await;
        self.is_ready(0).await;
        self.stop_server(0).await;
    }

    /// The processes and files that are left.
    pub fn left(&self) -> (Vec<String>, Vec<PathBuf>) {
        let left = processes::naming(&self.tmp()).into_iter().map(processes::command_line).collect();
        (left, processes::files(&self.tmp()))
    }
}

/// Where a container has its files, below the containers' root.
pub fn directory(container: &str) -> &str {
    if REAL.contains(&container) { container } else { &container[container.len().saturating_sub(10)..] }
}

fn socket(redis: &Redis) -> PathBuf {
    redis.dir.join("redis.sock")
}

/// What Redis says of its replication.
async fn info(redis: &fred::prelude::Client) -> BTreeMap<String, String> {
    let text = redis_command(redis, &["INFO", "replication"]).await.into_string().expect("a text");
    let mut info: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.trim().split_once(':'))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    for name in ["master_link_status", "master_repl_offset", "slave_repl_offset"] {
        info.entry(name.to_owned()).or_default();
    }
    info
}

/// `container/browser`: where a browser has its files, below the containers' root.
pub fn profile(pid: u32) -> Option<String> {
    let line = processes::command_line(pid);
    let dir = line.split(' ').find_map(|argument| argument.strip_prefix("--user-data-dir="))?;
    let mut parts = Path::new(dir).parent()?.components().rev();
    let (browser, container) = (parts.next()?, parts.next()?);
    Some(format!("{}/{}", container.as_os_str().to_str()?, browser.as_os_str().to_str()?))
}

impl Drop for Stage {
    fn drop(&mut self) {
        for server in &self.servers {
            if let Some(mut child) = server.child.lock().expect("not poisoned").take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        for (_, mut child) in std::mem::take(&mut *self.by_hand.lock().expect("not poisoned")) {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Only what belongs to this run names its directory.
        processes::kill_all_naming(&self.tmp());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
