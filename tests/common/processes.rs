//! Processes, as the kernel shows them.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long one that was asked to end may take.
const ENDING: Duration = Duration::from_secs(30);

fn read(pid: u32, file: &str) -> String {
    let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ")
}

pub fn command_line(pid: u32) -> String {
    read(pid, "cmdline")
}

fn all() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Every living process whose command line or environment names the directory. Zombies have neither.
pub fn naming(dir: &Path) -> Vec<u32> {
    let name = dir.display().to_string();
    // A longer name that begins alike is another's.
    let names = |text: &str| {
        text.match_indices(&name)
            .any(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let me = std::process::id();
    all().filter(|&pid| pid != me && (names(&command_line(pid)) || names(&read(pid, "environ")))).collect()
}

/// Ends them all, those too that they start meanwhile.
pub fn kill_all_naming(dir: &Path) {
    for _ in 0..100 {
        let left = naming(dir);
        if left.is_empty() {
            break;
        }
        left.into_iter().for_each(kill);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes that lead browsers with their profiles in the directory.
pub fn browsers(dir: &Path) -> Vec<u32> {
    let profile = format!("--user-data-dir={}/", dir.display());
    let leads = |pid: &u32| {
        let line = command_line(*pid);
        line.contains(&profile) && !line.contains("--type=")
    };
    all().filter(leads).collect()
}

pub fn is_container(pid: u32) -> bool {
    command_line(pid).ends_with("wallcrawler container ")
}

pub fn lives(pid: u32) -> bool {
    !command_line(pid).is_empty()
}

/// One that has ended already is left alone.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    let _ = kill_process(pid, signal);
}

pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// A port that nobody listens on, outside the range from which the system takes ports for others: it must
/// still be free when a server that was killed is started again.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 1_000).expect("small") * 12;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits for a child that was asked to end.
pub async fn ended(mut child: Child) -> ExitStatus {
    let waiting = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + ENDING;
        loop {
            match child.try_wait().expect("a child") {
                Some(status) => return status,
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("a process did not end within {ENDING:?}");
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    waiting.await.expect("it ends")
}

/// What a directory holds. One that is not there holds nothing.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}
