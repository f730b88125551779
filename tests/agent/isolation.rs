//! What a client's browser comes by of other sessions, and of the machine. Only an agent that is root can give each
//! browser a user of its own; elsewhere these tests have nothing to look at.
#![cfg(target_os = "linux")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::container::{Cdp, Container, children_of, command_line, config};
use crate::control_plane::ControlPlane;
use crate::{HOUR, connect};

fn may_become_others() -> bool {
    rustix::process::geteuid().is_root()
}

/// Its main process, and its directory.
async fn where_it_is(cdp: &mut Cdp) -> (u32, PathBuf) {
    let processes = cdp.call("SystemInfo.getProcessInfo", json!({})).await;
    let mut processes = processes["processInfo"].as_array().expect("a list").iter();
    let main = processes.find(|process| process["type"] == "browser").expect("a browser");
    let pid = u32::try_from(main["id"].as_u64().expect("a pid")).expect("a pid");
    let line = command_line(pid);
    let profile = line.split(' ').find_map(|argument| argument.strip_prefix("--user-data-dir=")).expect("a profile");
    (pid, Path::new(profile).parent().expect("its directory").to_owned())
}

/// A socket to a browser itself.
async fn straight_to(home: &Path) -> Cdp {
    let port = std::fs::read_to_string(home.join("profile/DevToolsActivePort")).expect("where it listens");
    let (port, path) = port.trim().split_once('\n').expect("a port and a path");
    Cdp::open(format!("ws://127.0.0.1:{port}{path}").into_client_request().expect("a URL")).await.expect("a connection")
}

fn uid_of(pid: u32) -> u32 {
    std::fs::metadata(format!("/proc/{pid}")).expect("it lives").uid()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_comes_by_nothing_of_another_session_or_of_the_machines_secrets() {
    if !may_become_others() {
        return;
    }
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    for browser in ["headless-shell", "chromium"] {
        let (mine, other) = (
            plane.hand_out(json!({"browser": browser}), 1, HOUR),
            plane.hand_out(json!({"browser": browser}), 1, HOUR),
        );
        let (mut cdp, mut others) = (connect(&plane, &mine, 1).await, connect(&plane, &other, 1).await);
        let ((me, my_home), (them, their_home)) = (where_it_is(&mut cdp).await, where_it_is(&mut others).await);
        // Without the container's filter, which refuses most of what follows.
        let mut cdp = straight_to(&my_home).await;
        let (my_uid, their_uid) = (uid_of(me), uid_of(them));
        assert!(my_uid != 0 && their_uid != 0 && my_uid != their_uid, "{my_uid} {their_uid}");

        let write = |home: &Path, uid: u32| {
            let file = home.join("note.txt");
            std::fs::write(&file, "a note").expect("written");
            std::os::unix::fs::chown(&file, Some(uid), Some(uid)).expect("given away");
            // Even if it were careless with it.
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("set");
            file
        };
        let (my_file, their_file) = (write(&my_home, my_uid), write(&their_home, their_uid));
        let agents_environment = PathBuf::from(format!("/proc/{}/environ", std::process::id()));
        for secret in [&their_file, &agents_environment, &"/etc/shadow".into()] {
            let answer = cdp.navigate(&format!("file://{}", secret.display())).await;
            // What is in a directory that it may not look into is not there, for Chromium.
            let refused = ["net::ERR_ACCESS_DENIED", "net::ERR_FILE_NOT_FOUND"].map(|error| json!(error));
            assert!(refused.contains(&answer["errorText"]), "{browser} {}: {answer}", secret.display());
            let uploaded = cdp.upload(secret).await;
            // Chromium believes what the kernel says of a process's environment: that it is empty.
            assert!(uploaded.is_null() || uploaded == "", "{browser} {}", secret.display());
        }
        for (directory, entry) in [(&their_home, "note.txt"), (&container.workdir, "b-")] {
            // Chromium shows what it may not list as if it were empty.
            cdp.navigate(&format!("file://{}/", directory.display())).await;
            let links = cdp.evaluate("[...document.querySelectorAll('a')].map(a => a.textContent).join(' ')").await;
            assert!(!links.as_str().expect("a text").contains(entry), "{browser} {}: {links}", directory.display());
        }
        // It is not that nothing can be read.
        assert_eq!(cdp.upload(&my_file).await, "a note");
        for cdp in [&mut cdp, &mut others] {
            cdp.send("Browser.close").await;
        }
        plane.ended(&mine).await;
        plane.ended(&other).await;
    }
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_in_chromiums_own_sandbox_where_it_works() {
    const SOMEBODY: u32 = 0x4000_0000;
    let mut namespaces = std::process::Command::new("unshare");
    namespaces.args(["--user", "--pid", "--net", "--fork", "true"]);
    if may_become_others() {
        namespaces.uid(SOMEBODY).gid(SOMEBODY);
    }
    if !namespaces.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
        return;
    }
    let plane = ControlPlane::start().await;
    let container = Container::start(config(&plane));
    for browser in ["headless-shell", "chromium"] {
        let session = plane.hand_out(json!({"browser": browser}), 1, HOUR);
        let mut cdp = connect(&plane, &session, 1).await;
        assert_eq!(cdp.evaluate("1").await, 1);
        let (pid, _) = where_it_is(&mut cdp).await;
        let renderers = children_of(pid, "renderer");
        assert!(!renderers.is_empty());
        for renderer in renderers {
            let status = std::fs::read_to_string(format!("/proc/{renderer}/status")).expect("it lives");
            // 2: a filter says which system calls it may make.
            assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{browser}: {status}");
        }
        cdp.send("Browser.close").await;
        plane.ended(&session).await;
    }
    container.stop().await;
}
