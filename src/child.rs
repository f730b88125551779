//! Child processes: started by one thread that lives as long as the process, so that the kernel can be asked
//! to end them with it.

use std::io;
use std::sync::{OnceLock, mpsc};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    /// Whose reactor watches the child.
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The thread that forks. It waits on a channel whose sending end is a static: it ends with the process, never
/// before.
fn spawner() -> &'static mpsc::Sender<Order> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
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

/// Starts a child.
pub async fn spawn(command: Command) -> io::Result<Child> {
    let (reply, child) = oneshot::channel();
    let gone = || io::Error::other("the spawning thread is gone");
    spawner().send(Order { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

/// Has the kernel kill the child when this process ends, however it ends. Linux only: elsewhere what is left
/// over is swept at the next start.
///
/// "This process" means the *thread* that forks (prctl(2), `PR_SET_PDEATHSIG`): a runtime's worker or blocking
/// thread may end any time and would take its children along. Hence [`spawn`].
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
pub fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpid, getppid, set_parent_process_death_signal};
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
}

/// Asks a child to end. One that has ended already is left alone.
pub fn terminate(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
}
