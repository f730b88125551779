//! One Chromium: a process group, a directory, and the port its DevTools listen on.
//!
//! Whoever holds a `Browser` holds the processes: when it is dropped they are killed and the directory is
//! removed, so a future that is cancelled half-way through a launch leaves nothing behind.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, waitpgid};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::account::{Account, give, make_home};
use super::blocking;
use super::context::Profile;
use super::devtools::{self, Conversation, DevtoolsError};
use super::downloads::Downloads;
use super::egress::{Chain, ClosedPort, Egress};
use super::extensions::FetchError;
use super::files::FilesError;
use super::flags::{Surroundings, command_line};
use super::profile::ProfileError;
use super::window::Windows;
use crate::archive::{self, ArchiveError};
use crate::browser_settings::{BrowserSettings, DEFAULT_VIEWPORT};
use crate::{child, hex};

/// A browser that has not answered by then never will; on a crowded machine a start takes two seconds.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked whether a killed group is gone. The kernel tells nobody but a parent.
const BURIAL_POLL: Duration = Duration::from_millis(5);
const BURIAL_DEADLINE: Duration = Duration::from_secs(10);
/// Within a browser's directory.
const PROFILE: &str = "profile";

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("the browser's directory could not be made")]
    Directory(#[source] io::Error),
    #[error("the context's profile cannot be used")]
    Profile(#[from] ProfileError),
    #[error("the browser's program could not be started")]
    Spawn(#[source] io::Error),
    #[error("the browser's proxy cannot be used: {0}")]
    Proxy(String),
    #[error("there is no way out for the browser")]
    Egress(#[source] io::Error),
    #[error("the session's context cannot be had")]
    Context(#[from] FilesError),
    #[error("there is no archive of the session's extension")]
    Extension(#[from] FetchError),
    #[error("the archive of the session's extension cannot be unpacked")]
    Unpack(#[from] ArchiveError),
    /// With the last lines it wrote to stderr.
    #[error("the browser ended before it listened: {0}")]
    Ended(String),
    #[error("the browser did not answer within {} s", LAUNCH_DEADLINE.as_secs())]
    Late,
    #[error("the browser listens and does not answer")]
    Devtools(#[from] DevtoolsError),
}

/// Which program, and whether it is the whole browser rather than the headless shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub full: bool,
}

/// A browser that is to be started.
pub struct Wanted<'a> {
    pub program: &'a Program,
    pub settings: &'a BrowserSettings,
    /// The archive of the one that it loads.
    pub extension: Option<File>,
    /// What it begins with, if not with nothing.
    pub profile: Option<Profile>,
}

/// Where a browser's DevTools listen, on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub port: u16,
    /// `/devtools/browser/<uuid>`
    pub path: String,
}

impl Endpoint {
    /// DevTools listens on no other address, whatever it is told.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// What the first browser of a build has shown, and the next ones need not be asked: a browser that is starting
/// has other things to do.
#[derive(Default)]
pub struct Learned {
    windows: Windows,
    versions: Mutex<HashMap<PathBuf, Map<String, Value>>>,
}

impl Learned {
    async fn version(&self, program: &Program, endpoint: &Endpoint) -> Result<Map<String, Value>, DevtoolsError> {
        if let Some(version) = self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&program.path) {
            return Ok(version.clone());
        }
        let version = devtools::version(endpoint.port).await?;
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).insert(program.path.clone(), version.clone());
        Ok(version)
    }
}

#[derive(Debug)]
pub struct Browser {
    version: Map<String, Value>,
    group: Pid,
    dir: PathBuf,
    endpoint: Endpoint,
    egress: Egress,
    downloads: Downloads,
    /// That of its DevTools, once it is known.
    closed: Option<ClosedPort>,
    exit: watch::Receiver<Option<ExitStatus>>,
    runtime: Handle,
    buried: bool,
}

impl Browser {
    /// Starts a browser and returns as soon as it answers and shows its first page, sized as asked.
    ///
    /// # Errors
    /// Whatever kept it from answering; nothing is left of it then.
    pub async fn launch(
        wanted: Wanted<'_>,
        workdir: &Path,
        surroundings: &Surroundings,
        learned: &Learned,
    ) -> Result<Self, LaunchError> {
        tokio::time::timeout(LAUNCH_DEADLINE, Self::start(wanted, workdir, surroundings, learned))
            .await
            .unwrap_or(Err(LaunchError::Late))
    }

    async fn start(
        Wanted { program, settings, extension, profile: profile_left }: Wanted<'_>,
        workdir: &Path,
        surroundings: &Surroundings,
        learned: &Learned,
    ) -> Result<Self, LaunchError> {
        let chain = Chain::parse(settings.proxy_server.as_deref(), settings.proxy_bypass.as_deref())
            .map_err(LaunchError::Proxy)?
            .with_credentials(settings.proxy_credentials.clone());
        let egress = Egress::new(&surroundings.destinations);
        let server = egress.server(chain).map_err(LaunchError::Egress)?;
        let dir = workdir.join(format!("b-{}", hex::random(4)));
        let viewport = settings.viewport.unwrap_or(DEFAULT_VIEWPORT);
        let window = learned.windows.known(viewport).filter(|_| program.full);
        let (profile, sandbox) = (dir.join(PROFILE), surroundings.confinement.sandbox);
        let window_size = window.unwrap_or(viewport);
        let account = surroundings.confinement.account();
        make_home(&dir, account).map_err(LaunchError::Directory)?;
        let home = Home(Some(dir.clone()));
        let (home, extension) = furnished(home, profile_left, extension, account).await?;
        let out = (&egress, server.as_str());
        let line = command_line(program.full, settings, window_size, &profile, sandbox, out, extension.as_deref());
        let child = child::spawn(command(&program.path, &line, &dir, account)).await;
        let mut child = child.map_err(LaunchError::Spawn)?;
        home.hand_over();
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut browser = Self::adopt(child, dir, egress);
        browser.endpoint = listening(stderr).await?;
        browser.closed = Some(surroundings.destinations.close_port(browser.endpoint.port));
        let listening = Downloads::listen(&browser.endpoint, &browser.dir);
        let (page, downloads) = tokio::try_join!(devtools::first_page(browser.endpoint.port), listening)?;
        browser.downloads = downloads;
        if program.full && window.is_none() {
            learned.windows.size(&browser.endpoint, &page, viewport).await?;
        }
        browser.version = learned.version(program, &browser.endpoint).await?;
        Ok(browser)
    }

    fn adopt(mut child: Child, dir: PathBuf, egress: Egress) -> Self {
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("a child not yet waited for");
        let (ended, exit) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await;
            // What the main process left behind serves nobody.
            let _ = kill_process_group(group, Signal::KILL);
            ended.send_replace(status.ok());
        });
        let endpoint = Endpoint { port: 0, path: String::new() };
        Self {
            version: Map::new(),
            group,
            dir,
            endpoint,
            egress,
            downloads: Downloads::default(),
            closed: None,
            exit,
            runtime: Handle::current(),
            buried: false,
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its way out.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// What it has downloaded.
    pub fn downloads(&self) -> &Downloads {
        &self.downloads
    }

    /// Its directory. Whatever the browser writes is within.
    pub fn home(&self) -> &Path {
        &self.dir
    }

    /// Where it keeps what it knows of the pages it has seen.
    pub fn profile(&self) -> PathBuf {
        self.dir.join(PROFILE)
    }

    /// Has it end by itself, with everything written down, unless it has done so already. `false`: it has ended in
    /// another way, or not in time.
    pub async fn close(&self, deadline: Duration) -> bool {
        let asked = async {
            // The answer may not come any more.
            if let Ok(mut conversation) = Conversation::open(&self.endpoint).await {
                let _ = conversation.call(None, "Browser.close", &json!({})).await;
            }
        };
        let closed = async {
            if !self.has_exited() {
                asked.await;
            }
            self.exited().await.is_some_and(|status| status.success())
        };
        tokio::time::timeout(deadline, closed).await.unwrap_or(false)
    }

    /// The main process, leader of the group.
    pub fn pid(&self) -> u32 {
        self.group.as_raw_nonzero().get().cast_unsigned()
    }

    /// Chrome's own `/json/version`, without the address that holds only on this machine.
    pub fn version(&self) -> &Map<String, Value> {
        &self.version
    }

    /// Whether it still does.
    pub async fn answers(&self) -> bool {
        devtools::version(self.endpoint.port).await.is_ok()
    }

    /// Waits until it has ended by itself. `None` if the kernel would not say how.
    pub fn exited(&self) -> impl Future<Output = Option<ExitStatus>> + Send + 'static {
        let mut exit = self.exit.clone();
        async move {
            // An error means that the watching task is gone without a word: the child could not be waited for.
            while exit.borrow_and_update().is_none() {
                if exit.changed().await.is_err() {
                    break;
                }
            }
            *exit.borrow()
        }
    }

    pub fn has_exited(&self) -> bool {
        self.exit.borrow().is_some() || self.exit.has_changed().is_err()
    }

    /// Ends it at once, and waits until no process is left. What it has written is still there.
    pub async fn stop(&self) {
        end(self.group, self.exit.clone(), &|| true).await;
    }

    /// Ends it at once, waits until no process is left, and removes its directory.
    pub async fn kill(mut self) {
        self.buried = true;
        bury(self.group, self.dir.clone(), self.exit.clone()).await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.buried {
            self.runtime.spawn(bury(self.group, std::mem::take(&mut self.dir), self.exit.clone()));
        }
    }
}

/// A directory as long as no browser has it.
struct Home(Option<PathBuf>);

impl Home {
    fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Puts into the home what the browser begins with, and says where its extension is. The home goes along: nobody removes it
/// while something is written to it.
async fn furnished(
    home: Home,
    profile: Option<Profile>,
    archive: Option<File>,
    account: Option<Account>,
) -> Result<(Home, Option<PathBuf>), LaunchError> {
    let Some(dir) = home.0.clone().filter(|_| profile.is_some() || archive.is_some()) else { return Ok((home, None)) };
    blocking(move || {
        if let Some(profile) = profile {
            profile.restore(&dir.join(PROFILE), account)?;
        }
        let made = |path: &Path| give(path, account);
        let unpack = |archive| archive::unpack(archive, &dir.join("extension"), &made);
        Ok((home, archive.map(unpack).transpose()?))
    })
    .await
}

/// Kills what is left of a group and removes its directory once nobody writes to it any more.
async fn bury(group: Pid, dir: PathBuf, exit: watch::Receiver<Option<ExitStatus>>) {
    end(group, exit, &|| remove(&dir)).await;
}

/// Kills what is left of a group, and waits until nothing is, and until what is to be done then is done.
async fn end(group: Pid, mut exit: watch::Receiver<Option<ExitStatus>>, then: &(dyn Fn() -> bool + Sync)) {
    let deadline = tokio::time::Instant::now() + BURIAL_DEADLINE;
    if exit.borrow().is_none() {
        let _ = kill_process_group(group, Signal::KILL);
        // Ended, or the watching task is gone: either way the main process has been waited for.
        let _ = exit.changed().await;
    }
    loop {
        // Grandchildren come to this process when it is their subreaper (or the container's first process),
        // and stay zombies until they are waited for. Elsewhere init does it, and this answers "no child".
        while matches!(waitpgid(group, WaitOptions::NOHANG), Ok(Some(_))) {}
        let gone = test_kill_process_group(group).is_err();
        if gone && then() {
            return;
        }
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!(browser.pid = group.as_raw_nonzero().get(), "something is left of a killed browser");
            return;
        }
        tokio::time::sleep(BURIAL_POLL).await;
    }
}

fn remove(dir: &Path) -> bool {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Reads stderr up to the line that names the endpoint, and leaves somebody behind who goes on reading:
/// a full pipe would stop the browser.
async fn listening(stderr: ChildStderr) -> Result<Endpoint, LaunchError> {
    let mut stderr = BufReader::new(stderr);
    let mut last = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        // Bounded, because nothing else bounds what a browser calls a line.
        let read = (&mut stderr).take(16_384).read_until(b'\n', &mut line).await.map_err(LaunchError::Spawn)?;
        if read == 0 {
            return Err(LaunchError::Ended(last));
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(endpoint) = parse_listening(&text) {
            tokio::spawn(async move { tokio::io::copy_buf(&mut stderr, &mut tokio::io::sink()).await });
            return Ok(endpoint);
        }
        if !text.trim().is_empty() {
            text.trim().chars().take(300).collect::<String>().clone_into(&mut last);
        }
    }
}

fn parse_listening(line: &str) -> Option<Endpoint> {
    let address = line.trim().strip_prefix("DevTools listening on ws://")?;
    let (host, path) = address.split_at(address.find('/')?);
    let port = host.rsplit_once(':')?.1.parse().ok()?;
    Some(Endpoint { port, path: path.to_owned() })
}

/// A browser's process: the leader of a group of its own, so that one signal reaches all of the browser and
/// nothing else, in an environment made here: the agent's own holds its token.
fn command(program: &Path, args: &[String], home: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("HOME", home)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // A Unix socket's path holds 107 bytes, and Chromium appends 45 for the one it makes in here.
    if home.as_os_str().len() <= 60 {
        command.env("TMPDIR", home);
    }
    if let Some(account) = account {
        account.take(&mut command);
    }
    child::die_with_parent(&mut command);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::account::Confinement;
    use crate::agent::egress::{Destinations, Resolver};

    #[test]
    fn the_endpoint_is_read_from_the_line_that_names_it() {
        assert_eq!(
            parse_listening("DevTools listening on ws://127.0.0.1:4711/devtools/browser/ab-c\n"),
            Some(Endpoint { port: 4711, path: "/devtools/browser/ab-c".into() })
        );
        for line in ["", "DevTools listening on ws://127.0.0.1:x/d", "[1:2:ERROR] DevTools listening", "DevTools"] {
            assert_eq!(parse_listening(line), None, "{line}");
        }
    }

    #[tokio::test]
    async fn a_program_that_ends_without_listening_says_why_and_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("wc-launch-{}", hex::random(8)));
        std::fs::create_dir(&dir).expect("a fresh directory");
        let script = dir.join("broken");
        std::fs::write(&script, "#!/bin/sh\necho 'cannot open display' >&2\nexit 3\n").expect("written");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
        let program = Program { path: script.clone(), full: false };
        let destinations = Destinations::new(false, Resolver::default());
        let surroundings = Surroundings { confinement: Confinement::NONE, destinations };
        let wanted =
            Wanted { program: &program, settings: &BrowserSettings::default(), extension: None, profile: None };
        let error = Browser::launch(wanted, &dir, &surroundings, &Learned::default()).await.expect_err("no browser");
        assert!(error.to_string().contains("cannot open display"), "{error}");
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let left = || std::fs::read_dir(&dir).expect("readable").count() - 1;
        while left() > 0 {
            assert!(std::time::Instant::now() < deadline, "{} directories left", left());
            tokio::task::yield_now().await;
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
