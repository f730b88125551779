//! Which proxies in front of a server are believed when they say whose request it is.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that have so many bits in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

/// The proxies that are believed: `TRUSTED_PROXIES`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

/// A text that names no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be addresses and networks separated by commas, as in 10.0.0.0/16,2001:db8::/32")]
pub struct InvalidNetwork;

/// All addresses as numbers of one kind: an IPv4 address reaches a socket for both kinds as an IPv6 one.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let plain = |bits: &str| bits.bytes().all(|b| b.is_ascii_digit()).then(|| bits.parse().ok()).flatten();
        let bits = bits.map_or(Some(width), plain).filter(|bits| *bits <= width).ok_or(InvalidNetwork)?;
        let network = Self { address, bits: bits + 128 - width };
        // Whoever writes 10.1.2.3/8 has meant something else.
        if number(address) & !network.mask() == 0 { Ok(network) } else { Err(InvalidNetwork) }
    }
}

impl Network {
    fn mask(self) -> u128 {
        u128::MAX.checked_shl(128 - self.bits).unwrap_or(0)
    }
}

impl FromStr for TrustedProxies {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        text.split(',').map(|network| network.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl TrustedProxies {
    pub fn believes(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|network| number(peer) & network.mask() == number(network.address))
    }

    /// Who asks, by what `X-Forwarded-For` says: each proxy has added who asked it, and the last that is none of ours is
    /// as far as we can know. What stands before it the client may have made up.
    pub fn client<'a>(&self, peer: IpAddr, forwarded_for: impl DoubleEndedIterator<Item = &'a str>) -> IpAddr {
        let mut client = peer;
        for said in forwarded_for.rev() {
            if !self.believes(client) {
                break;
            }
            match said.trim().parse() {
                Ok(address) => client = address,
                Err(_) => break,
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_is_all_that_begins_like_it() {
        let trusted: TrustedProxies = "10.0.0.0/8, 192.0.2.7,2001:db8::/33, 0:0:0:0:0:0:0:1".parse().expect("networks");
        for address in ["10.0.0.0", "10.255.255.255", "192.0.2.7", "::ffff:10.1.2.3", "2001:db8:7fff::1", "::1"] {
            assert!(trusted.believes(ip(address)), "{address}");
        }
        for address in ["11.0.0.0", "9.255.255.255", "192.0.2.8", "2001:db8:8000::", "::ffff:11.0.0.1", "::2", "::"] {
            assert!(!trusted.believes(ip(address)), "{address}");
        }
        let all: TrustedProxies = "0.0.0.0/0".parse().expect("networks");
        assert!(all.believes(ip("203.0.113.1")) && !all.believes(ip("2001:db8::1")));
        assert!("::/0".parse::<TrustedProxies>().expect("networks").believes(ip("203.0.113.1")));
        assert!(!TrustedProxies::default().believes(ip("127.0.0.1")), "nobody is, unless it was said");
    }

    #[test]
    fn what_names_no_network_is_refused() {
        for text in [
            "",
            ",",
            "10.0.0.0/8,",
            "10.0.0/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::/129",
            "2001:db8::1/32",
            "localhost",
            "*",
            "10.0.0.0/8/8",
            "10.0.0.0 /8",
            "[::1]",
            "127.0.0.1:80",
        ] {
            assert_eq!(text.parse::<TrustedProxies>(), Err(InvalidNetwork), "{text:?}");
        }
    }

    #[test]
    fn the_client_is_the_last_who_is_none_of_our_proxies() {
        let trusted: TrustedProxies = "10.0.0.0/8".parse().expect("networks");
        for (peer, said, client) in [
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", vec!["198.51.100.1", "203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", vec!["203.0.113.1", "10.0.0.2"], "203.0.113.1"),
            ("10.0.0.1", vec!["203.0.113.1", "unknown", "10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", vec![" 2001:db8::1 "], "2001:db8::1"),
            ("203.0.113.9", vec!["10.0.0.1"], "203.0.113.9"),
        ] {
            assert_eq!(trusted.client(ip(peer), said.iter().copied()), ip(client), "{peer}, {said:?}");
        }
    }
}
