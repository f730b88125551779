//! What a page may connect to, and the connecting: a name is resolved once, each address that it has is looked at, and
//! a connection is made to one of exactly these. Whoever changes what the name means in between changes nothing.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{literal, neighbours};

/// From the name to the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one address is waited for alone (RFC 8305 recommends it).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Why something is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    #[error("the cloud's link-local and metadata addresses cannot be reached from a page")]
    Cloud,
    #[error("loopback addresses cannot be reached from a page")]
    Loopback,
    #[error("the container's own addresses cannot be reached from a page")]
    Own,
    #[error("ports of browsers and of their container cannot be reached from a page")]
    Port,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("the name cannot be resolved")]
    Name(#[source] io::Error),
    #[error("no connection can be made")]
    Connection(#[source] io::Error),
    #[error("there was no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Late,
    #[error("the proxy {0}")]
    Proxy(String),
    #[error("the proxy refuses the session's credentials")]
    Credentials,
}

/// In threads, of which the whole container has some hundreds; a name server that a page chooses may keep one waiting for
/// half a minute.
const LOOKUPS_OF_A_BROWSER: usize = 16;

type Lookup = dyn Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync;

/// The system's, unless it is told otherwise.
#[derive(Clone, Default)]
pub struct Resolver(Option<Arc<Lookup>>);

impl Resolver {
    /// Asks `known` first, and the system for what it does not know.
    pub fn with(known: impl Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(known)))
    }

    async fn resolve(&self, host: &str, port: u16, lookups: &Arc<Semaphore>) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = literal::parse(host) {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let known = self.0.as_ref().and_then(|known| known(host)).or_else(|| localhost(host));
        let addresses: Vec<SocketAddr> = match known {
            Some(known) => known.into_iter().map(|address| SocketAddr::new(address, port)).collect(),
            None => {
                let permit = Arc::clone(lookups).acquire_owned().await.map_err(io::Error::other)?;
                let host = host.to_owned();
                let looked_up = spawn_blocking(move || {
                    // Kept for as long as the thread is, even if nobody waits for it any more.
                    let _permit = permit;
                    (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
                });
                looked_up.await.map_err(io::Error::other)??
            }
        };
        if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
    }
}

/// Names that are this machine everywhere (RFC 6761): Chromium asks no resolver for them, and not every one knows them.
fn localhost(host: &str) -> Option<Vec<IpAddr>> {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_localhost = name == "localhost" || name.ends_with(".localhost");
    is_localhost.then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(told)" } else { "Resolver(system)" })
    }
}

/// What pages of all browsers of a container may connect to.
#[derive(Debug, Clone)]
pub struct Destinations {
    shared: Arc<Shared>,
    lookups: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    /// Nothing a page could want is on this machine.
    closed_loopback: bool,
    resolver: Resolver,
    /// Of this machine, which are closed even where its others are open; and how many times each.
    ports: Mutex<HashMap<u16, usize>>,
    /// Where this container's directory is, and others' may be.
    neighbours: Option<PathBuf>,
}

/// A port of this machine that no page reaches while this lives.
#[derive(Debug)]
pub struct ClosedPort {
    destinations: Destinations,
    number: u16,
}

impl ClosedPort {
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for ClosedPort {
    fn drop(&mut self) {
        let mut ports = self.destinations.ports();
        if let Some(times) = ports.get_mut(&self.number) {
            *times -= 1;
            if *times == 0 {
                ports.remove(&self.number);
            }
        }
    }
}

impl Destinations {
    pub fn new(closed_loopback: bool, resolver: Resolver) -> Self {
        Self::beside(None, closed_loopback, resolver)
    }

    /// The same, where other containers may have their directories in `neighbours` too.
    pub fn beside(neighbours: Option<PathBuf>, closed_loopback: bool, resolver: Resolver) -> Self {
        let shared = Arc::new(Shared { closed_loopback, resolver, ports: Mutex::default(), neighbours });
        Self { shared, lookups: Arc::new(Semaphore::new(LOOKUPS_OF_A_BROWSER)) }
    }

    /// The same, for one browser: the names that its pages ask for wait for each other only.
    pub fn of_a_browser(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), lookups: Arc::new(Semaphore::new(LOOKUPS_OF_A_BROWSER)) }
    }

    pub fn close_port(&self, number: u16) -> ClosedPort {
        *self.ports().entry(number).or_default() += 1;
        ClosedPort { destinations: self.clone(), number }
    }

    /// Whether an address may be connected to.
    pub fn check(&self, address: SocketAddr) -> Result<(), Closed> {
        let ip = address.ip();
        if literal::is_clouds(ip) {
            return Err(Closed::Cloud);
        }
        if self.shared.closed_loopback {
            return match (literal::is_loopback(ip), is_own(ip)) {
                (true, _) => Err(Closed::Loopback),
                (false, true) => Err(Closed::Own),
                (false, false) => Ok(()),
            };
        }
        // DevTools listen on loopback only.
        let neighbour =
            || self.shared.neighbours.as_ref().is_some_and(|at| neighbours::is_devtools(at, address.port()));
        let closed = if self.ports().contains_key(&address.port()) {
            literal::is_loopback(ip) || is_own(ip)
        } else {
            literal::is_loopback(ip) && neighbour()
        };
        if closed { Err(Closed::Port) } else { Ok(()) }
    }

    /// The same, of what somebody else will resolve: only what is written as an address can be looked at.
    pub fn check_written(&self, host: &str, port: u16) -> Result<(), Closed> {
        literal::parse(host).map_or(Ok(()), |address| self.check(SocketAddr::new(address, port)))
    }

    /// The addresses of a host, all of which may be connected to. A name that has one that may not is up to no good.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let addresses = self.shared.resolver.resolve(host, port, &self.lookups).await.map_err(ConnectError::Name)?;
        addresses.iter().try_for_each(|&address| self.check(address))?;
        Ok(addresses)
    }

    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let connecting = async {
            let addresses = self.resolve(host, port).await?;
            first_to_answer(&addresses).await.map_err(ConnectError::Connection)
        };
        let stream = timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(ConnectError::Late))?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn ports(&self) -> std::sync::MutexGuard<'_, HashMap<u16, usize>> {
        self.shared.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One after the other, in the resolver's order, without waiting for one that does not answer.
async fn first_to_answer(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let (mut rest, mut trying) = (addresses.iter(), FuturesUnordered::new());
    let mut last = io::ErrorKind::NotFound.into();
    loop {
        match rest.next() {
            Some(&address) => trying.push(TcpStream::connect(address)),
            None if trying.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(tried) = trying.next() => match tried {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = sleep(NEXT_ADDRESS), if rest.len() > 0 => {}
        }
    }
}

/// Whether an address is one of this machine's. Connecting a datagram socket sends nothing, and the kernel chooses an
/// address of its own to send from: to one of its own, that one.
fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

#[cfg(test)]
mod tests;
