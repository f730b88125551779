//! What std does not offer for child processes.

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Has the kernel kill the child when this process ends, however it ends. Linux only: elsewhere leftovers
/// are swept at the next start.
///
/// The signal is bound to the *thread* that spawns the child (prctl(2), PR_SET_PDEATHSIG): spawn from
/// one that lives as long as the process, as the runtime's own threads do and its blocking pool's do not.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
pub fn die_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only async-signal-safe calls are made: two system calls.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have ended before the line above took effect.
                if rustix::process::getppid() != Some(parent) {
                    return Err(std::io::Error::other("the parent process has ended"));
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
