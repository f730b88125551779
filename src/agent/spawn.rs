//! Starts browser processes, each the leader of a process group of its own, so that one signal reaches
//! all of a browser and nothing else.
//!
//! On Linux the kernel kills a browser when its parent is gone (`PR_SET_PDEATHSIG`), also after a kill -9
//! of the agent. "Parent" means the *thread* that forked: a runtime's worker or blocking thread may end
//! any time and would take its browsers along. So one thread does all the forking. It waits on a channel
//! whose sending end is a static: it ends with the process, never before.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{OnceLock, mpsc};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    /// Whose reactor watches the child.
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

fn spawner() -> &'static mpsc::Sender<Order> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("browser-spawner".to_owned())
            .spawn(move || {
                for Order { mut command, runtime, reply } in inbox {
                    let _in_runtime = runtime.enter();
                    // Nobody waiting any more: the child is dropped, and `kill_on_drop` ends it.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        orders
    })
}

/// Starts `program`, its stderr piped, in an environment made here: the agent's own holds its token.
pub async fn spawn(program: &Path, args: &[String], home: &Path) -> io::Result<Child> {
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
    #[cfg(target_os = "linux")]
    die_with_this_process(&mut command);
    let (reply, child) = oneshot::channel();
    let gone = || io::Error::other("the spawning thread is gone");
    spawner().send(Order { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

#[cfg(target_os = "linux")]
fn die_with_this_process(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are made: two bare system calls.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the signal was asked for; then nobody would send it.
            if getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
            }
            Ok(())
        });
    }
}
