//! Leftovers: what an agent that was killed could not clean up itself.
//!
//! A working directory belongs to the process named in its `owner.pid`. Only a directory with that file is
//! ever removed: a mistyped path must not cost anybody their files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgid, getpid, kill_process, kill_process_group};

const OWNER_FILE: &str = "owner.pid";
/// How long killed processes may take to be gone.
const DEATH_DEADLINE: Duration = Duration::from_secs(5);
const DEATH_POLL: Duration = Duration::from_millis(10);

/// Makes `workdir` and writes down whose it is.
///
/// # Errors
/// When it is in use by a living process, or holds files that no agent put there.
pub fn occupy(workdir: &Path) -> io::Result<()> {
    if let Some(owner) = owner(workdir).filter(|owner| owner.pid != getpid() && owner.lives()) {
        let message = format!("{} is in use by process {}", workdir.display(), owner.pid.as_raw_nonzero());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    sweep(workdir);
    std::fs::create_dir_all(workdir)?;
    if std::fs::read_dir(workdir)?.next().is_some() {
        let message = format!("{} is not empty, and no agent's", workdir.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    // Browsers that are users of their own pass through it to their directories, and see of it no more.
    std::fs::set_permissions(workdir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    let me = getpid();
    let started = start_time(me).unwrap_or_default();
    std::fs::write(workdir.join(OWNER_FILE), format!("{} {started}\n", me.as_raw_nonzero()))
}

/// Kills every process whose profile is under `workdir`, then removes `workdir`, if it is an agent's.
///
/// It blocks, for a few milliseconds when there is nothing to kill and for seconds at most.
pub fn sweep(workdir: &Path) {
    let deadline = Instant::now() + DEATH_DEADLINE;
    // A browser that is just starting children may need a second look; one that is dying, a few.
    loop {
        let left = browsers_under(workdir);
        if left.is_empty() || Instant::now() >= deadline {
            break;
        }
        for pid in left {
            // Of a browser's processes only some name the profile; its group has them all.
            match getpgid(Some(pid)) {
                Ok(group) if group == pid => drop(kill_process_group(group, Signal::KILL)),
                _ => drop(kill_process(pid, Signal::KILL)),
            }
        }
        std::thread::sleep(DEATH_POLL);
    }
    if !workdir.join(OWNER_FILE).is_file() {
        return;
    }
    while let Err(error) = remove(workdir) {
        if Instant::now() >= deadline {
            tracing::warn!(error = %error, "a working directory could not be removed");
            return;
        }
        std::thread::sleep(DEATH_POLL);
    }
}

/// Sweeps every directory in `root` whose owner no longer lives.
pub fn sweep_orphans(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let workdir = entry.path();
        if owner(&workdir).is_some_and(|owner| !owner.lives()) {
            sweep(&workdir);
        }
    }
}

/// The owner's name goes last: as long as something is left, it is known to be an agent's. Another process may be
/// doing the same: servers that share a directory sweep what a dead one's containers left.
fn remove(workdir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(workdir) {
        Ok(entries) => entries,
        Err(error) => return unless_gone(Err(error)),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == OWNER_FILE {
            continue;
        }
        unless_gone(if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            std::fs::remove_dir_all(entry.path())
        } else {
            std::fs::remove_file(entry.path())
        })?;
    }
    unless_gone(std::fs::remove_file(workdir.join(OWNER_FILE)))?;
    unless_gone(std::fs::remove_dir(workdir))
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

struct Owner {
    pid: Pid,
    /// As the kernel counts it. A pid alone may by now be somebody else's.
    started: u64,
}

impl Owner {
    fn lives(&self) -> bool {
        start_time(self.pid).is_some_and(|started| started == self.started)
    }
}

fn owner(workdir: &Path) -> Option<Owner> {
    let text = std::fs::read_to_string(workdir.join(OWNER_FILE)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    Some(Owner { pid: Pid::from_raw(pid.parse().ok()?)?, started: started.parse().ok()? })
}

/// Processes, zombies left out, with an argument `--user-data-dir=<workdir>/...`.
fn browsers_under(workdir: &Path) -> Vec<Pid> {
    let spellings: Vec<String> = [Some(workdir.to_owned()), workdir.canonicalize().ok()]
        .into_iter()
        .flatten()
        .map(|workdir: PathBuf| format!("--user-data-dir={}/", workdir.display()))
        .collect();
    command_lines()
        .into_iter()
        .filter(|(_, arguments)| {
            arguments.iter().any(|argument| spellings.iter().any(|prefix| argument.starts_with(prefix.as_str())))
        })
        .map(|(pid, _)| pid)
        .collect()
}

#[cfg(target_os = "linux")]
fn command_lines() -> Vec<(Pid, Vec<String>)> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        // Empty for a zombie. Chromium's children write theirs anew, with blanks between.
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        Some((pid, line.split(['\0', ' ']).map(str::to_owned).collect()))
    })
    .collect()
}

/// In clock ticks since the machine started (proc(5), field 22 of stat); none for a zombie.
#[cfg(target_os = "linux")]
fn start_time(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is the program's name in parentheses, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn command_lines() -> Vec<(Pid, Vec<String>)> {
    let Ok(listing) = std::process::Command::new("ps").args(["-axww", "-o", "pid=,command="]).output() else {
        return Vec::new();
    };
    let listing = String::from_utf8_lossy(&listing.stdout);
    listing
        .lines()
        .filter_map(|line| {
            let (pid, command) = line.trim().split_once(' ')?;
            Some((Pid::from_raw(pid.parse().ok()?)?, command.split(' ').map(str::to_owned).collect()))
        })
        .collect()
}

/// Only whether the process is there: the same number for every living one.
#[cfg(not(target_os = "linux"))]
fn start_time(pid: Pid) -> Option<u64> {
    rustix::process::test_kill_process(pid).ok().map(|()| 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn workdir() -> PathBuf {
        std::env::temp_dir().join(format!("wc-sweep-{}", crate::hex::random(8)))
    }

    /// Something that looks like a browser from outside.
    fn stand_in(profile: &Path) -> Child {
        let child = Command::new("sleep")
            .arg0(format!("--user-data-dir={}", profile.display()))
            .arg("600")
            .process_group(0)
            .stdout(Stdio::null())
            .spawn()
            .expect("sleep is there");
        // It runs before the kernel can say by what line.
        let deadline = Instant::now() + DEATH_DEADLINE;
        let pid = Pid::from_child(&child);
        while command_lines().iter().all(|(other, line)| *other != pid || line.concat().is_empty()) {
            assert!(Instant::now() < deadline, "nothing is known of {pid:?}");
        }
        child
    }

    #[test]
    fn a_sweep_kills_what_has_its_profile_there_and_nothing_else() {
        let (mine, other) = (workdir(), workdir());
        occupy(&mine).expect("occupied");
        let mut inside = stand_in(&mine.join("b-1/profile"));
        let mut outside = stand_in(&other.join("b-1/profile"));
        // A longer name that starts alike.
        let mut neighbour = stand_in(&PathBuf::from(format!("{}x/profile", mine.display())));
        sweep(&mine);
        assert!(!inside.wait().expect("waited").success());
        assert!(!mine.exists());
        for alive in [&mut outside, &mut neighbour] {
            assert!(alive.try_wait().expect("asked").is_none());
            alive.kill().and_then(|()| alive.wait()).expect("killed");
        }
    }

    #[test]
    fn several_who_sweep_the_same_do_not_wait_for_each_other() {
        let dir = workdir();
        for _ in 0..10 {
            occupy(&dir).expect("occupied");
            for name in 0..50 {
                std::fs::create_dir_all(dir.join(format!("b-{name}/profile"))).expect("made");
            }
            let began = Instant::now();
            std::thread::scope(|scope| drop([(); 4].map(|()| scope.spawn(|| sweep(&dir)))));
            assert!(began.elapsed() < DEATH_DEADLINE / 2, "one of them took {:?}", began.elapsed());
            assert!(!dir.exists());
        }
    }

    #[test]
    fn a_directory_that_is_no_agents_is_neither_removed_nor_used() {
        let dir = workdir();
        std::fs::create_dir(&dir).expect("made");
        std::fs::write(dir.join("thesis.txt"), "ten years of work").expect("written");
        sweep(&dir);
        assert!(occupy(&dir).is_err());
        assert!(dir.join("thesis.txt").exists());
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn only_directories_of_dead_owners_are_orphans() {
        let root = workdir();
        for (name, owner) in [
            ("dead", "4194303 1".to_owned()),
            // The pid lives, and is not the process that wrote it.
            ("reused", format!("{} 1", getpid().as_raw_nonzero())),
        ] {
            std::fs::create_dir_all(root.join(name)).expect("made");
            std::fs::write(root.join(name).join(OWNER_FILE), owner).expect("written");
        }
        occupy(&root.join("living")).expect("occupied");
        std::fs::create_dir_all(root.join("unowned")).expect("made");
        sweep_orphans(&root);
        let left = |name: &str| root.join(name).exists();
        assert_eq!((left("dead"), left("living"), left("unowned")), (false, true, true));
        #[cfg(target_os = "linux")]
        assert!(!left("reused"));
        std::fs::remove_dir_all(root).expect("removed");
    }
}
