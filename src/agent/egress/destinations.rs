//! What a page may connect to, and the connecting: a name is resolved once, each address that it has is looked at, and
//! a connection is made to one of exactly these. Whoever changes what the name means in between changes nothing.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::literal;

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
        let shared = Arc::new(Shared { closed_loopback, resolver, ports: Mutex::default() });
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
        let closed = self.ports().contains_key(&address.port()) && (literal::is_loopback(ip) || is_own(ip));
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
mod tests {
    use super::*;

    fn named(host: &'static str, addresses: &'static [&'static str]) -> Resolver {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        Resolver::with(move |asked| (asked == host).then(|| addresses.clone()))
    }

    async fn refused(resolver: Resolver, closed_loopback: bool, host: &str) -> Option<Closed> {
        match Destinations::new(closed_loopback, resolver).connect(host, 9).await {
            Err(ConnectError::Closed(closed)) => Some(closed),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_name_is_refused_if_one_of_its_addresses_is() {
        for (addresses, closed) in [
            (&["127.0.0.1"][..], Closed::Loopback),
            (&["::1"], Closed::Loopback),
            (&["0.0.0.0"], Closed::Loopback),
            (&["::ffff:127.0.0.1"], Closed::Loopback),
            (&["64:ff9b::127.0.0.1"], Closed::Loopback),
            (&["192.0.2.1", "127.0.0.1"], Closed::Loopback),
            (&["169.254.169.254"], Closed::Cloud),
            (&["192.0.2.1", "169.254.170.2"], Closed::Cloud),
            (&["fe80::1"], Closed::Cloud),
            (&["fd00:ec2::254"], Closed::Cloud),
        ] {
            assert_eq!(refused(named("a.example", addresses), true, "a.example").await, Some(closed), "{addresses:?}");
            let open = refused(named("a.example", addresses), false, "a.example").await;
            assert_eq!(open, (closed == Closed::Cloud).then_some(closed), "where loopback is open: {addresses:?}");
        }
    }

    #[tokio::test]
    async fn the_address_that_was_looked_at_is_the_one_that_is_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let times = Arc::clone(&asked);
        // The second answer, had anybody asked for it, is the one a page is after.
        let rebinding = Resolver::with(move |_| {
            let first = times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
            Some(vec![if first { Ipv4Addr::new(127, 0, 0, 2) } else { Ipv4Addr::LOCALHOST }.into()])
        });
        let destinations = Destinations::new(false, rebinding);
        let connected = destinations.connect("a.example", port).await;
        assert!(matches!(connected, Err(ConnectError::Connection(_))), "{connected:?}");
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        // Nobody is at the first (refused), nor anywhere in the documentation's network (silent, or unreachable).
        let destinations = Destinations::new(false, named("a.example", &["127.0.0.2", "192.0.2.1", "127.0.0.1"]));
        let started = tokio::time::Instant::now();
        let stream = destinations.connect("a.example", port).await.expect("the third answers");
        assert_eq!(stream.peer_addr().expect("connected").ip(), Ipv4Addr::LOCALHOST);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_closed_port_is_closed_on_this_machine_only_and_as_long_as_anybody_says_so() {
        let destinations = Destinations::new(false, Resolver::default());
        let at = |host: &str| destinations.check_written(host, 4_711);
        let (one, other) = (destinations.close_port(4_711), destinations.close_port(4_711));
        for here in ["127.0.0.1", "127.0.0.9", "0.0.0.0", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(at(here), Err(Closed::Port), "{here}");
        }
        assert_eq!(at("192.0.2.1"), Ok(()));
        assert_eq!(destinations.check_written("127.0.0.1", 4_712), Ok(()));
        drop(one);
        assert_eq!(at("127.0.0.1"), Err(Closed::Port));
        drop(other);
        assert_eq!(at("127.0.0.1"), Ok(()));
    }

    #[test]
    fn the_machines_own_addresses_are_known_and_closed_with_loopback() {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // Whatever would be used to reach others; a machine without any network has none.
        let own = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
        let Ok(own) = own else { return };
        assert!(is_own(own.ip()) && !is_own("192.0.2.1".parse().expect("an address")));
        if own.ip().is_loopback() {
            return;
        }
        assert_eq!(Destinations::new(true, Resolver::default()).check(own), Err(Closed::Own));
        let open = Destinations::new(false, Resolver::default());
        assert_eq!(open.check(own), Ok(()));
        let _port = open.close_port(own.port());
        assert_eq!(open.check(own), Err(Closed::Port));
    }
}
