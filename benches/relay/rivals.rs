//! Who is measured: everybody is started with the same two threads, and otherwise as installed.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};

use super::{ROLE, UPSTREAM};

pub enum Contender {
    Running {
        name: &'static str,
        address: SocketAddr,
        /// `None` where nothing is in between.
        process: Option<u32>,
        _running: Option<Running>,
    },
    Missing {
        name: &'static str,
    },
}

/// A process with its children and its files; all gone when it is dropped.
pub struct Running {
    child: Child,
    directory: Option<PathBuf>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

pub fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

pub fn copy_of_this(role: &str, upstream: Option<SocketAddr>) -> (Running, SocketAddr) {
    use std::os::unix::process::CommandExt as _;

    let mut command = Command::new(std::env::current_exe().expect("known"));
    command.env(ROLE, role).stdout(Stdio::piped()).process_group(0);
    if let Some(upstream) = upstream {
        command.env(UPSTREAM, upstream.to_string());
    }
    let mut child = command.spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
    (Running { child, directory: None }, line.trim().parse().expect("an address"))
}

pub async fn all(upstream: SocketAddr) -> Vec<Contender> {
    let direct = Contender::Running { name: "direct", address: upstream, process: None, _running: None };
    let (running, address) = copy_of_this("relay", Some(upstream));
    let splice =
        Contender::Running { name: "splice", address, process: Some(running.child.id()), _running: Some(running) };
    let nginx = rival("nginx", "/usr/sbin/nginx", upstream, nginx_configuration, |path| {
        vec!["-e".into(), "stderr".into(), "-c".into(), path]
    });
    let haproxy = rival("haproxy", "/usr/sbin/haproxy", upstream, haproxy_configuration, |path| {
        vec!["-db".into(), "-q".into(), "-f".into(), path]
    });
    vec![direct, splice, nginx.await, haproxy.await]
}

async fn rival(
    name: &'static str,
    program: &str,
    upstream: SocketAddr,
    configuration: fn(&str, SocketAddr, SocketAddr) -> String,
    arguments: fn(String) -> Vec<String>,
) -> Contender {
    use std::os::unix::process::CommandExt as _;

    if !std::path::Path::new(program).exists() {
        return Contender::Missing { name };
    }
    let directory = std::env::temp_dir().join(format!("relay-bench-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("writable");
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a port");
    let path = directory.join("configuration");
    let text = configuration(&directory.display().to_string(), address, upstream);
    // HAProxy takes a last line without an end for a file that was cut short.
    std::fs::write(&path, text.trim_end().to_owned() + "\n").expect("writable");
    let child =
        Command::new(program).args(arguments(path.display().to_string())).process_group(0).spawn().expect("starts");
    let running = Running { child, directory: Some(directory) };
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(error) = tokio::net::TcpStream::connect(address).await {
        assert!(Instant::now() < deadline, "{name} does not listen: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Contender::Running { name, address, process: Some(running.child.id()), _running: Some(running) }
}

fn nginx_configuration(directory: &str, address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "daemon off; user root; worker_processes 2; worker_rlimit_nofile 20000; pid {directory}/pid;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; keepalive_requests 1000000;
            client_body_temp_path {directory}/a; proxy_temp_path {directory}/b; fastcgi_temp_path {directory}/c;
            uwsgi_temp_path {directory}/d; scgi_temp_path {directory}/e;
            server {{
                listen {address};
                location / {{
                    proxy_pass http://{upstream};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection upgrade;
                    proxy_read_timeout 1h;
                }}
            }}
        }}
        "
    )
}

fn haproxy_configuration(_directory: &str, address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
            nbthread 2
            maxconn 8000
        defaults
            mode http
            timeout connect 5s
            timeout client 1h
            timeout server 1h
            timeout tunnel 1h
        frontend clients
            bind {address}
            default_backend servers
        backend servers
            server one {upstream}
        "
    )
}
