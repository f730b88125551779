//! Whether the machine at the other end of a socket is still there.
//!
//! Keepalive probes tell while nothing is on its way. While something is, the system retries for a quarter of
//! an hour. `TCP_USER_TIMEOUT` would shorten that, but it also cuts off a peer that is there and merely does
//! not read (Linux applies it to a closed window, measured: a client stopped in a debugger was dropped). So the
//! socket is asked when it last heard of the peer: a stopped process' system answers for it.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence while data is sent again and again: nobody is there.
#[cfg(target_os = "linux")]
const UNANSWERED: Duration = Duration::from_secs(60);
/// Silence in any other state. Probes of a closed window are at most 120 s apart (`TCP_RTO_MAX`).
#[cfg(target_os = "linux")]
const SILENT: Duration = Duration::from_secs(150);

/// Probes a connection that is idle. How many probes may stay unanswered is left to the system (two minutes' worth
/// on Linux): each option is a system call for every connection.
pub(super) fn keep_alive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    // A socket that refuses is one that is closing; reading it will tell.
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Looks at one peer, again and again.
#[derive(Default)]
pub(super) struct Liveness {
    suspected: bool,
}

impl Liveness {
    /// Whether the peer has vanished. It must look so twice in a row: when this machine itself was suspended,
    /// everybody seems to have been silent.
    pub(super) fn has_vanished(&mut self, stream: &TcpStream) -> bool {
        let silent = is_silent(stream);
        std::mem::replace(&mut self.suspected, silent) && silent
    }
}

#[cfg(target_os = "linux")]
fn is_silent(stream: &TcpStream) -> bool {
    tcp_info(stream).is_some_and(|info| {
        let limit = if info.tcpi_retransmits > 0 { UNANSWERED } else { SILENT };
        Duration::from_millis(u64::from(info.tcpi_last_ack_recv)) > limit
    })
}

#[cfg(not(target_os = "linux"))]
fn is_silent(_stream: &TcpStream) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn tcp_info(stream: &TcpStream) -> Option<libc::tcp_info> {
    use std::os::fd::AsRawFd as _;

    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as the stream lives, and the kernel writes at most `len` bytes.
    let failed = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    // SAFETY: a structure of plain numbers, zeroed before the kernel filled it in, in part or whole.
    (failed == 0).then(|| unsafe { info.assume_init() })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_answers_has_not_vanished_and_its_last_word_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let (_far, _) = listener.accept().await.expect("accepts");
        near.write_all(b"hello").await.expect("sent");
        let info = tcp_info(&near).expect("a TCP socket");
        assert!(info.tcpi_last_ack_recv < 5_000 && info.tcpi_retransmits == 0);
        assert!(info.tcpi_snd_mss > 500, "the structure is laid out as the kernel's is");
        let mut liveness = Liveness::default();
        assert!(!liveness.has_vanished(&near) && !liveness.has_vanished(&near));
    }
}
