//! Under which address the proxy reaches this container.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// `host:port` as the control plane is told it.
///
/// `advertised` is what the operator said, with or without a port. Nothing said: the listener's own
/// address, or, when it listens everywhere, the address this machine would reach the control plane from.
pub fn advertised(advertised: Option<&str>, listener: SocketAddr, api_endpoint: &str) -> String {
    match advertised {
        Some(address) if has_port(address) => address.to_owned(),
        Some(host) => format!("{host}:{}", listener.port()),
        None if listener.ip().is_unspecified() => {
            let ip = outgoing(api_endpoint).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            SocketAddr::new(ip, listener.port()).to_string()
        }
        None => listener.to_string(),
    }
}

/// Connecting a datagram socket sends nothing; it only makes the kernel choose a route and so an address.
fn outgoing(endpoint: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(authority(endpoint)?).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn authority(endpoint: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let authority = rest.split('/').next()?;
    let (host, port) = if has_port(authority) {
        let (host, port) = authority.rsplit_once(':')?;
        (host, port.parse().ok()?)
    } else {
        (authority, if scheme == "https" { 443 } else { 80 })
    };
    Some((host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// An IPv6 address has colons of its own, and brackets where a port follows.
fn has_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (host.ends_with(']') || !host.contains(':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_says_wins_and_a_missing_port_is_the_listeners() {
        let everywhere = "0.0.0.0:4000".parse().expect("an address");
        let here = "127.0.0.1:4000".parse().expect("an address");
        let api = "http://127.0.0.1:9";
        assert_eq!(advertised(Some("10.0.0.5:81"), everywhere, api), "10.0.0.5:81");
        assert_eq!(advertised(Some("box.internal"), everywhere, api), "box.internal:4000");
        assert_eq!(advertised(Some("[fd00::1]"), everywhere, api), "[fd00::1]:4000");
        assert_eq!(advertised(None, here, api), "127.0.0.1:4000");
        assert_eq!(advertised(None, everywhere, api), "127.0.0.1:4000");
    }
}
