//! Whose processes a browser's are. Where the agent may, each browser runs as a user that nobody else on the machine
//! is: whatever a client has it open (`file:`), upload or write, it comes by nothing of another session's, nor by
//! anything the machine keeps from strangers. And what is not root's can use Chromium's own sandbox for its pages.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, lchown};
use std::path::Path;

use tokio::process::Command;

/// What a browser is kept in on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// Each browser has a user of its own; otherwise all are the agent's.
    pub accounts: bool,
    /// Chromium's sandbox works.
    pub sandbox: bool,
}

/// A user that has no name, no group beside its own, and no files but those it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account(u32);

impl Confinement {
    /// Neither, as on a machine where nothing of it works.
    #[cfg(test)]
    pub const NONE: Self = Self { accounts: false, sandbox: false };

    /// Finds out what works here, by trying it: with `programs`, the browsers, and with a directory in `workdir`.
    /// `starts` is asked to start a browser that is kept in like that, where nothing simpler tells.
    #[cfg(target_os = "linux")]
    pub async fn probe(programs: &[&Path], workdir: &Path, starts: impl AsyncFnOnce(Self) -> bool) -> Self {
        let tried = linux::try_account(programs, workdir).await;
        let (accounts, root) = (tried.is_ok(), rustix::process::geteuid().is_root());
        if let Err(error) = tried
            && root
        {
            tracing::warn!(%error, "browsers run as root: they cannot have users of their own");
        }
        // Chromium refuses to sandbox anything of root's. Its namespaces may be denied to everybody else and allowed to
        // Chromium, by its name, or made by a program beside it.
        let kept_in = Self { accounts, sandbox: true };
        let sandbox = (accounts || !root) && (linux::try_namespaces(accounts).await || starts(kept_in).await);
        if !sandbox {
            tracing::warn!(
                accounts,
                "Chromium's own sandbox cannot be used here: pages are kept in by the container alone"
            );
        }
        Self { accounts, sandbox }
    }

    /// macOS has a sandbox that needs nothing, and lets nobody but root become somebody else.
    #[cfg(not(target_os = "linux"))]
    pub async fn probe(_: &[&Path], _: &Path, _: impl AsyncFnOnce(Self) -> bool) -> Self {
        Self { accounts: false, sandbox: !rustix::process::geteuid().is_root() }
    }

    /// Whom the next browser runs as, if not as the agent.
    pub fn account(self) -> Option<Account> {
        self.accounts.then(Account::random)
    }
}

impl Account {
    /// Far above all that are given to people and services. Two living browsers having the same by chance would take
    /// some thousands of them at once.
    const FIRST: u32 = 0x4000_0000;
    const BITS: u32 = 0x00ff_ffff;

    fn random() -> Self {
        let mut bytes = [0; 4];
        aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
        Self(Self::FIRST | u32::from_ne_bytes(bytes) & Self::BITS)
    }

    /// Has the child be this user. It must be asked for before the kernel is asked to end the child with its parent:
    /// becoming somebody else takes that back (prctl(2), `PR_SET_PDEATHSIG`).
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
    pub fn take(self, command: &mut Command) {
        #[cfg(target_os = "linux")]
        {
            let id = self.0;
            // SAFETY: between fork and exec only async-signal-safe calls are made: bare system calls.
            unsafe {
                command.pre_exec(move || linux::become_user(id));
            }
        }
    }
}

/// Makes a browser's directory, which is nobody else's.
pub fn make_home(dir: &Path, account: Option<Account>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    give(dir, account).inspect_err(|_| drop(std::fs::remove_dir(dir)))
}

/// Makes a file that was put into a browser's directory the browser's own. A link is not followed.
pub fn give(path: &Path, account: Option<Account>) -> io::Result<()> {
    account.map_or(Ok(()), |Account(id)| lchown(path, Some(id), Some(id)))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CString;
    use std::io;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    use std::process::Stdio;

    use rustix::fs::{Access, access};
    use rustix::thread::{CapabilitySet, capabilities};
    use tokio::process::Command;

    use super::{Account, make_home};
    use crate::{child, hex};

    /// The group first: whoever is no longer root may not change it. `Command`'s own calls leave an agent's other
    /// groups in place if it is not root itself, but has been given the capabilities.
    pub fn become_user(id: u32) -> io::Result<()> {
        let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: each takes plain numbers, and the list of groups is empty.
        unsafe {
            done(libc::setgroups(0, std::ptr::null()))?;
            done(libc::setresgid(id, id, id))?;
            done(libc::setresuid(id, id, id))?;
            // No program that it starts makes it somebody else again.
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        }
    }

    /// A child that does what a browser has to begin with, and then nothing.
    fn trial() -> Command {
        let mut command = Command::new("true");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.kill_on_drop(true);
        command
    }

    async fn works(command: Command) -> io::Result<()> {
        let status = child::spawn(command).await?.wait().await?;
        if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
    }

    /// Whether a browser can be somebody else, find its program and its directory as such, be killed, and what it
    /// leaves be removed.
    pub async fn try_account(programs: &[&Path], workdir: &Path) -> io::Result<()> {
        let needed = CapabilitySet::SETUID
            | CapabilitySet::SETGID
            | CapabilitySet::CHOWN
            | CapabilitySet::KILL
            | CapabilitySet::DAC_OVERRIDE;
        if !capabilities(None)?.effective.contains(needed) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let account = Account::random();
        let home = workdir.join(format!("trial-{}", hex::random(4)));
        make_home(&home, Some(account))?;
        let tried = async {
            let home = CString::new(home.as_os_str().as_bytes())?;
            let programs =
                programs.iter().map(|path| CString::new(path.as_os_str().as_bytes())).collect::<Result<Vec<_>, _>>()?;
            let mut command = trial();
            account.take(&mut command);
            // SAFETY: only bare system calls, with texts that were made before the fork.
            unsafe {
                command.pre_exec(move || {
                    access(home.as_c_str(), Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?;
                    for program in &programs {
                        access(program.as_c_str(), Access::READ_OK | Access::EXEC_OK)?;
                    }
                    Ok(())
                });
            }
            works(command).await
        };
        let tried = tried.await;
        tried.and(std::fs::remove_dir(&home))
    }

    /// Whether a browser may have the namespaces that Chromium's sandbox is made of. Containers are often denied them.
    pub async fn try_namespaces(accounts: bool) -> bool {
        let mut command = trial();
        if accounts {
            Account::random().take(&mut command);
        }
        // SAFETY: one bare system call, in a child of one thread.
        unsafe {
            command.pre_exec(|| match libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        works(command).await.is_ok()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_strangers_cannot_reach_is_run_by_the_agent_itself() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let workdir = std::env::temp_dir().join(format!("wc-account-{}", crate::hex::random(8)));
        std::fs::create_dir(&workdir).expect("a fresh directory");
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        let reachable = Path::new("/bin/sh");
        let probe = async |programs: &[&Path]| Confinement::probe(programs, &workdir, async |_| false).await;
        assert!(probe(&[reachable]).await.accounts);
        // A program in somebody's home, or a directory nobody else may pass through.
        let hidden = workdir.join("hidden");
        std::fs::create_dir(&hidden).expect("made");
        let program = hidden.join("browser");
        std::fs::copy(reachable, &program).expect("copied");
        std::fs::set_permissions(&hidden, mode(0o700)).expect("set");
        assert_eq!(probe(&[reachable, &program]).await, Confinement::NONE);
        std::fs::set_permissions(&workdir, mode(0o700)).expect("set");
        assert_eq!(probe(&[reachable]).await, Confinement::NONE);
        let left = std::fs::read_dir(&workdir).expect("readable").count();
        assert_eq!(left, 1, "only what this test has put there");
        std::fs::remove_dir_all(workdir).expect("removed");
    }
}
