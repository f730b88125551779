//! A Redis of this process's own: started with it on a socket nobody else sees, and ended with it. What it
//! holds is not kept.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{child, sweep};

const START_WAIT: Duration = Duration::from_secs(10);

/// It could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PrivateRedisError {
    #[error(
        "redis-server is not installed. Install it (Debian: apt-get install redis-server; macOS: brew install redis), or set REDIS_ENDPOINT"
    )]
    NotInstalled,
    #[error("redis-server could not be started")]
    Io(#[from] io::Error),
    #[error("redis-server ended or did not answer within 10 s; it said: {0}")]
    NotReady(String),
}

pub struct PrivateRedis {
    child: Child,
    dir: PathBuf,
}

impl PrivateRedis {
    /// Starts it in `dir`, which is made, and waits until it accepts connections.
    pub async fn start(dir: &Path) -> Result<Self, PrivateRedisError> {
        // With its owner's name in it: what a killed server leaves is swept by the next.
        sweep::occupy(dir)?;
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--unixsocket", "redis.sock", "--unixsocketperm", "700"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "notice", "--dir"])
            .arg(".")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        child::die_with_parent(&mut command);
        let mut child = child::spawn(command).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PrivateRedisError::NotInstalled,
            _ => error.into(),
        })?;
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut said = String::new();
        let ready = timeout(START_WAIT, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("ready to accept connections") || line.contains("Ready to accept connections") {
                    return true;
                }
                said = line;
            }
            false
        })
        .await;
        if ready != Ok(true) {
            let _ = child.kill().await;
            sweep::sweep(dir);
            return Err(PrivateRedisError::NotReady(said));
        }
        // A full pipe would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, dir: dir.to_owned() })
    }

    pub fn endpoint(&self) -> String {
        format!("redis+unix://{}", self.dir.join("redis.sock").display())
    }

    /// Ends it and removes what it left.
    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
        sweep::sweep(&self.dir);
    }
}
