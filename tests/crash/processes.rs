//! Processes, as the kernel shows them.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

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
