//! A proxy that a session, or one of its contexts, is to use: how it is written, and how it is asked for a connection.
//! Its own address is looked at like that of any other destination. What a name behind it means is for the proxy to
//! find out, on its own machine; but for SOCKS 4, which knows no names.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::destinations::{ConnectError, Destinations};
use super::{literal, tls};
use crate::protocol::ProxyCredentials;

/// How long a proxy may take, which first has to reach the destination itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Https,
    Socks4,
    Socks5,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub protocol: Protocol,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// What it asks for, if that is known here.
    pub credentials: Option<ProxyCredentials>,
}

/// To an HTTP proxy, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Upstream {
    /// `[scheme://]host[:port]`, or `direct://`, which is none.
    ///
    /// # Errors
    /// What is wrong with it. Chromium takes more: one for each scheme, and several to be tried in turn.
    pub fn parse(server: &str) -> Result<Option<Self>, String> {
        let server: String = server.chars().filter(|character| !character.is_whitespace()).collect();
        if server.is_empty() || server.eq_ignore_ascii_case("direct://") {
            return Ok(None);
        }
        if server.contains([',', ';', '=']) {
            return Err("of several proxies none is used here: name one".to_owned());
        }
        let (scheme, authority) = server.split_once("://").unwrap_or(("http", &server));
        let (protocol, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Protocol::Http, 80),
            "https" => (Protocol::Https, 443),
            "socks4" => (Protocol::Socks4, 1_080),
            "socks5" | "socks" => (Protocol::Socks5, 1_080),
            _ => return Err("a proxy is [http|https|socks4|socks5://]host[:port]".to_owned()),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains('@') {
            return Err("credentials are not taken from a proxy's address: answer Fetch.authRequired".to_owned());
        }
        let (host, port) = split_authority(authority, default_port)
            .ok_or_else(|| "a proxy is [http|https|socks4|socks5://]host[:port]".to_owned())?;
        Ok(Some(Self { protocol, host: host.to_owned(), port, credentials: None }))
    }

    /// Whether it is the same proxy, spoken to in the same way.
    pub fn is(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.host.eq_ignore_ascii_case(&other.host) && self.port == other.port
    }

    /// A connection to the HTTP proxy itself.
    pub async fn connect(&self, destinations: &Destinations) -> Result<Box<dyn Stream>, ConnectError> {
        let stream = destinations.connect(&self.host, self.port).await?;
        match self.protocol {
            Protocol::Https => match timeout(ANSWER_TIMEOUT, tls::wrap(stream, &self.host)).await {
                Ok(Ok(stream)) => Ok(Box::new(stream)),
                Ok(Err(error)) => Err(ConnectError::Proxy(format!("does not speak TLS with us: {error}"))),
                Err(_) => Err(ConnectError::Late),
            },
            _ => Ok(Box::new(stream)),
        }
    }

    /// A connection to a destination, through the SOCKS proxy.
    pub async fn reach(&self, destinations: &Destinations, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let asking = async {
            if self.protocol == Protocol::Socks4 {
                let addresses = destinations.resolve(host, port).await?;
                let mut stream = destinations.connect(&self.host, self.port).await?;
                socks4(&mut stream, &addresses).await?;
                return Ok(stream);
            }
            destinations.check_written(host, port)?;
            let mut stream = destinations.connect(&self.host, self.port).await?;
            socks5(&mut stream, host, port, self.credentials.as_ref()).await?;
            Ok(stream)
        };
        timeout(ANSWER_TIMEOUT, asking).await.unwrap_or(Err(ConnectError::Late))
    }
}

/// `host[:port]`, the host in brackets if it is an IPv6 address. It comes without them.
pub fn split_authority(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if rest.is_empty() => default_port,
        None => return None,
    };
    let clean = host.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'@' | b'[' | b']'));
    (!host.is_empty() && host.len() <= 255 && clean).then_some((host, port))
}

fn broken(error: io::Error) -> ConnectError {
    ConnectError::Proxy(format!("broke the connection off: {error}"))
}

/// RFC 1928. Where there are credentials the proxy may do without them, as it likes.
async fn socks5(
    proxy: &mut TcpStream,
    host: &str,
    port: u16,
    credentials: Option<&ProxyCredentials>,
) -> Result<(), ConnectError> {
    let offered: &[u8] = if credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    proxy.write_all(offered).await.map_err(broken)?;
    let mut chosen = [0; 2];
    proxy.read_exact(&mut chosen).await.map_err(broken)?;
    match (chosen, credentials) {
        ([5, 0], _) => {}
        ([5, 2], Some(credentials)) => authenticate(proxy, credentials).await?,
        _ => {
            return Err(ConnectError::Proxy(
                "asks for something else than it is given, or is no SOCKS 5 proxy".to_owned(),
            ));
        }
    }
    let mut request = vec![5, 1, 0];
    match literal::parse(host) {
        Some(IpAddr::V4(address)) => {
            request.push(1);
            request.extend(address.octets());
        }
        Some(IpAddr::V6(address)) => {
            request.push(4);
            request.extend(address.octets());
        }
        None => {
            request.push(3);
            request.push(u8::try_from(host.len()).map_err(|_| ConnectError::Proxy("takes no such name".to_owned()))?);
            request.extend(host.as_bytes());
        }
    }
    request.extend(port.to_be_bytes());
    proxy.write_all(&request).await.map_err(broken)?;
    let mut answer = [0; 5];
    proxy.read_exact(&mut answer).await.map_err(broken)?;
    if answer[1] != 0 {
        return Err(ConnectError::Proxy(format!("refused, with SOCKS reply {}", answer[1])));
    }
    // From where it has connected, of which the first byte is read: nobody wants to know.
    let rest = match answer[3] {
        1 => 4 + 2 - 1,
        4 => 16 + 2 - 1,
        _ => usize::from(answer[4]) + 2,
    };
    proxy.read_exact(&mut vec![0; rest]).await.map_err(broken)?;
    Ok(())
}

/// RFC 1929.
async fn authenticate(proxy: &mut TcpStream, credentials: &ProxyCredentials) -> Result<(), ConnectError> {
    let mut said = vec![1];
    for text in [&credentials.username, &credentials.password] {
        // Longer ones are refused when a session is created.
        said.push(u8::try_from(text.len()).map_err(|_| ConnectError::Credentials)?);
        said.extend(text.as_bytes());
    }
    proxy.write_all(&said).await.map_err(broken)?;
    let mut answer = [0; 2];
    proxy.read_exact(&mut answer).await.map_err(broken)?;
    if answer[1] == 0 { Ok(()) } else { Err(ConnectError::Credentials) }
}

async fn socks4(proxy: &mut TcpStream, addresses: &[SocketAddr]) -> Result<(), ConnectError> {
    let Some(SocketAddr::V4(address)) = addresses.iter().find(|address| address.is_ipv4()) else {
        return Err(ConnectError::Proxy("reaches IPv4 addresses only, and there is none".to_owned()));
    };
    let mut request = vec![4, 1];
    request.extend(address.port().to_be_bytes());
    request.extend(address.ip().octets());
    request.push(0);
    proxy.write_all(&request).await.map_err(broken)?;
    let mut answer = [0; 8];
    proxy.read_exact(&mut answer).await.map_err(broken)?;
    match answer[1] {
        90 => Ok(()),
        code => Err(ConnectError::Proxy(format!("refused, with SOCKS reply {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_the_same_however_its_name_is_written() {
        let read = |server: &str| Upstream::parse(server).expect(server).expect(server);
        let own = read("http://proxy.example:80");
        for same in ["http://PROXY.example:80", "proxy.example", "http://proxy.example/"] {
            assert!(own.is(&read(same)), "{same}");
        }
        for other in ["https://proxy.example:80", "socks5://proxy.example:80", "proxy.example:81", "a.proxy.example"] {
            assert!(!own.is(&read(other)), "{other}");
        }
    }

    #[test]
    fn a_proxy_is_read_as_it_is_usually_written() {
        let read = |server: &str| {
            let upstream = Upstream::parse(server).expect(server).expect(server);
            (upstream.protocol, upstream.host, upstream.port)
        };
        for (server, protocol, host, port) in [
            ("http://proxy.example:3128", Protocol::Http, "proxy.example", 3_128),
            (" PROXY.example:3128/", Protocol::Http, "PROXY.example", 3_128),
            ("proxy.example", Protocol::Http, "proxy.example", 80),
            ("https://10.0.0.7", Protocol::Https, "10.0.0.7", 443),
            ("socks5://[2001:db8::1]:1", Protocol::Socks5, "2001:db8::1", 1),
            ("SOCKS://a", Protocol::Socks5, "a", 1_080),
            ("socks4://a:1", Protocol::Socks4, "a", 1),
        ] {
            assert_eq!(read(server), (protocol, host.to_owned(), port), "{server}");
        }
        for none in ["", " ", "direct://", "DIRECT://"] {
            assert_eq!(Upstream::parse(none), Ok(None));
        }
        for wrong in [
            "http=a:1;https=b:1",
            "a:1,direct://",
            "quic://a:1",
            "http://u:p@a:1",
            "http://a:0",
            "http://a:x",
            "http://:1",
            "http://[::1:1",
            "http://a:1/path",
            "http://a?b:1",
        ] {
            assert!(Upstream::parse(wrong).is_err(), "{wrong}");
        }
    }
}
