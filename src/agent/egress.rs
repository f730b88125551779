//! The only way out of a browser: it connects to nothing itself, and resolves no name. Each of its connections is made
//! here, to an address that was looked at ([`destinations`]), or through the proxy that its session, or one of its
//! contexts, is to use ([`upstream`]).
//!
//! Rules by name, which a browser can be given (`--host-resolver-rules`), do not keep a page from an address: anybody's
//! DNS may say that a name is 127.0.0.1. So the browser has a rule by which no name and no address is resolved, but for
//! the name of this egress, and is told that this is its proxy. Whatever would go around a proxy finds nothing.
//!
//! The browser speaks SOCKS 5, so what passes is spliced from the first byte on and nobody here reads a page's HTTP. Only
//! where an HTTP proxy follows does it speak as to an HTTP proxy: of what it says to such a proxy nothing is lost, not
//! even the answer to its 407.
//!
//! What the session's own proxy asks for is said here, too: no page and no client sees it, or need know that it is asked.
//!
//! One listener for each proxy, on loopback, because a connection to it does not say which context it is made for. A
//! page cannot use it: it is a port on loopback like others that are closed.

mod bypass;
mod counted;
mod destinations;
mod http;
mod literal;
mod neighbours;
mod socks;
mod tls;
mod upstream;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use self::bypass::Bypass;
pub use self::counted::Carried;
pub use self::destinations::{Closed, ClosedPort, Destinations, Resolver};
use self::upstream::{Protocol, Upstream};
use crate::hex;
use crate::protocol::ProxyCredentials;

/// Of one listener. Chromium itself keeps to about 256 for pages and as many WebSockets; each takes two file
/// descriptors, which all sessions share.
const MAX_CONNECTIONS: usize = 1_024;
/// Different proxies for the contexts of one browser.
const MAX_ROUTES: usize = 64;
/// When there is no file descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What pages send is little, and there are many connections.
const UP: usize = 8 * 1024;
const DOWN: usize = 32 * 1024;

/// Where a browser's connections go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// `None`: straight to where they are meant for.
    upstream: Option<Upstream>,
    bypass: Bypass,
}

impl Chain {
    /// As Chromium takes them: a proxy server, and a list of what goes around it.
    ///
    /// # Errors
    /// What is wrong with the server, for whoever named it.
    pub fn parse(server: Option<&str>, bypass: Option<&str>) -> Result<Self, String> {
        let upstream = server.map_or(Ok(None), Upstream::parse)?;
        // Without a proxy there is nothing to go around, and two lists are no two ways.
        let bypass = if upstream.is_some() { Bypass::parse(bypass.unwrap_or_default()) } else { Bypass::default() };
        Ok(Self { upstream, bypass })
    }

    /// With what the proxy, if there is one, asks for.
    pub fn with_credentials(mut self, credentials: Option<ProxyCredentials>) -> Self {
        if let Some(upstream) = &mut self.upstream {
            upstream.credentials = credentials;
        }
        self
    }

    /// Whether the proxy is at an address that may be connected to, if it is written as one.
    pub fn check(&self, destinations: &Destinations) -> Result<(), Closed> {
        self.upstream.as_ref().map_or(Ok(()), |proxy| destinations.check_written(&proxy.host, proxy.port))
    }

    /// The proxy for a destination, if one is to be used.
    fn upstream_for(&self, scheme: Option<&str>, host: &str, port: u16) -> Option<&Upstream> {
        self.upstream.as_ref().filter(|_| !self.bypass.matches(scheme, host, port))
    }

    fn is_http(&self) -> bool {
        matches!(&self.upstream, Some(Upstream { protocol: Protocol::Http | Protocol::Https, .. }))
    }
}

/// The egress of one browser. Its connections are closed when the last of these is dropped.
#[derive(Debug, Clone)]
pub struct Egress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Which no page knows: a rule leads from it to loopback.
    name: String,
    destinations: Destinations,
    /// The first is the session's own.
    routes: Mutex<Vec<Route>>,
    noted: Arc<Noted>,
}

/// What is noted of a browser's proxies.
#[derive(Debug, Default)]
struct Noted {
    /// That the session's own has refused its credentials. However often, it is told once.
    refused: Notify,
    carried: Carried,
}

#[derive(Debug)]
struct Route {
    chain: Chain,
    port: ClosedPort,
    task: AbortHandle,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Egress {
    pub fn new(destinations: &Destinations) -> Self {
        let destinations = destinations.of_a_browser();
        let name = format!("{}.wallcrawler", hex::random(8));
        Self(Arc::new(Inner { name, destinations, routes: Mutex::default(), noted: Arc::default() }))
    }

    /// For tests of what has nothing to do with it: loopback is closed.
    #[cfg(test)]
    pub fn closed() -> Self {
        Self::new(&Destinations::new(true, Resolver::default()))
    }

    pub fn destinations(&self) -> &Destinations {
        &self.0.destinations
    }

    /// Waits until the session's proxy has refused its credentials, which only one who waits is told.
    pub async fn refused(&self) {
        self.0.noted.refused.notified().await;
    }

    /// What goes through its proxies, those of contexts too.
    pub fn carried(&self) -> &Carried {
        &self.0.noted.carried
    }

    /// For the browser's command line: nothing is resolved but this egress.
    pub fn resolver_rules(&self) -> String {
        format!("MAP {} {}, MAP * ~NOTFOUND", self.0.name, Ipv4Addr::LOCALHOST)
    }

    /// The proxy server that the browser is to be told, so that its connections go that way. The same way is the same
    /// server. The first is the session's own way; whoever names its proxy again means it with its credentials.
    ///
    /// # Errors
    /// When nothing can be listened on, or there are too many already.
    pub fn server(&self, mut chain: Chain) -> io::Result<String> {
        let scheme = if chain.is_http() { "http" } else { "socks5" };
        let mut routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let own = routes.first().and_then(|own| own.chain.upstream.as_ref());
        if let (Some(upstream), Some(own)) = (&mut chain.upstream, own)
            && upstream.is(own)
        {
            upstream.credentials.clone_from(&own.credentials);
        }
        let port = match routes.iter().find(|route| route.chain == chain) {
            Some(route) => route.port.number(),
            None if routes.len() >= MAX_ROUTES => {
                return Err(io::Error::other(format!("a session can use at most {MAX_ROUTES} different proxies")));
            }
            None => {
                let route = self.open(chain)?;
                let port = route.port.number();
                routes.push(route);
                port
            }
        };
        Ok(format!("{scheme}://{}:{port}", self.0.name))
    }

    fn open(&self, chain: Chain) -> io::Result<Route> {
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listener.set_nonblocking(true)?;
        let port = self.0.destinations.close_port(listener.local_addr()?.port());
        let (destinations, noted) = (self.0.destinations.clone(), Arc::clone(&self.0.noted));
        let serving = serve(TcpListener::from_std(listener)?, Arc::new(chain.clone()), destinations, noted);
        Ok(Route { chain, port, task: tokio::spawn(serving).abort_handle() })
    }
}

async fn serve(listener: TcpListener, chain: Arc<Chain>, destinations: Destinations, noted: Arc<Noted>) {
    // Dropped, and its connections with it, when this task is aborted.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((browser, _)) => {
                    let (chain, noted) = (Arc::clone(&chain), Arc::clone(&noted));
                    connections.spawn(connection(browser, chain, destinations.clone(), noted));
                }
                Err(error) => {
                    tracing::warn!(%error, "a browser's connection could not be taken");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Until it has ended. How is nobody's concern but the two ends'.
async fn connection(browser: TcpStream, chain: Arc<Chain>, destinations: Destinations, noted: Arc<Noted>) {
    let _ = browser.set_nodelay(true);
    let ended = if chain.is_http() {
        http::serve(browser, &chain, &destinations, &noted).await
    } else {
        socks::serve(browser, &chain, &destinations, &noted).await
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a browser's connection broke");
    }
}

async fn splice<B, S>(browser: &mut B, server: &mut S) -> io::Result<()>
where
    B: AsyncRead + AsyncWrite + Unpin + ?Sized,
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    copy_bidirectional_with_sizes(browser, server, UP, DOWN).await.map(|_| ())
}
