//! What goes around a proxy, in Chromium's own words ("Proxy bypass rules" in its documentation, `net/docs/proxy.md`):
//! it is not Chromium any more that goes by them. Pure.

use std::net::IpAddr;

use super::literal;
use super::upstream::split_authority;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bypass {
    rules: Vec<Rule>,
    /// Loopback and link-local addresses are not fetched through a proxy, unless `<-loopback>` says so.
    explicit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    /// Names without a dot.
    Local,
    Host {
        scheme: Option<String>,
        pattern: String,
        port: Option<u16>,
    },
    Network {
        address: IpAddr,
        prefix: u32,
    },
}

impl Bypass {
    /// What cannot be read matches nothing, as in Chromium.
    pub fn parse(list: &str) -> Self {
        let mut bypass = Self::default();
        for rule in list.split([',', ';']).map(str::trim).filter(|rule| !rule.is_empty()) {
            match rule.to_ascii_lowercase().as_str() {
                "<-loopback>" => bypass.explicit = true,
                "<local>" => bypass.rules.push(Rule::Local),
                rule => bypass.rules.extend(Rule::parse(rule)),
            }
        }
        bypass
    }

    /// `scheme`: if it is known. A connection that passes encrypted does not tell `https:` from `wss:`, but no others.
    pub fn matches(&self, scheme: Option<&str>, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = literal::parse(&host);
        let implicit = !self.explicit && is_implicit(&host, address);
        implicit || self.rules.iter().any(|rule| rule.matches(scheme, &host, address, port))
    }
}

fn is_implicit(host: &str, address: Option<IpAddr>) -> bool {
    match address {
        Some(address) => literal::is_loopback(address) || literal::is_clouds(address),
        None => host == "localhost" || host.ends_with(".localhost"),
    }
}

impl Rule {
    fn parse(rule: &str) -> Option<Self> {
        let (scheme, rest) = match rule.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_owned()), rest),
            None => (None, rule),
        };
        if let Some((network, prefix)) = rest.split_once('/') {
            let address = literal::parse(network)?;
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= if address.is_ipv4() { 32 } else { 128 })?;
            return Some(Self::Network { address, prefix });
        }
        // An IPv6 address has colons, and no port behind it unless there are brackets.
        let whole = rest.parse::<IpAddr>().is_ok();
        let (host, port) = if whole { (rest, 0) } else { split_authority(rest, u16::MAX)? };
        let port = (!whole && rest.ends_with(&format!(":{port}"))).then_some(port);
        let pattern = match literal::parse(host) {
            Some(address) => address.to_string(),
            None if host.starts_with('.') => format!("*{host}"),
            None => host.to_owned(),
        };
        Some(Self::Host { scheme, pattern, port })
    }

    fn matches(&self, scheme: Option<&str>, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::Local => address.is_none() && !host.contains('.'),
            Self::Network { address: network, prefix } => {
                address.is_some_and(|address| is_within(address, *network, *prefix))
            }
            Self::Host { scheme: wanted, pattern, port: only } => {
                let host = address.map_or_else(|| host.to_owned(), |address| address.to_string());
                let same_scheme = match (wanted.as_deref(), scheme) {
                    (None, _) => true,
                    (Some("https" | "wss"), None) => true,
                    (Some(wanted), scheme) => scheme == Some(wanted),
                };
                same_scheme && only.is_none_or(|only| only == port) && is_like(host.as_bytes(), pattern.as_bytes())
            }
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, prefix: u32) -> bool {
    // The upper bits, of addresses of either length written from the left.
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
    address.is_ipv4() == network.is_ipv4() && (bits(address) ^ bits(network)) & mask == 0
}

/// `*` is any text. Each is tried as short as possible first; only the last one can have been too short.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut next, mut retry) = (0, 0, None);
    while at < text.len() {
        match pattern.get(next) {
            Some(b'*') => {
                retry = Some((at, next));
                next += 1;
            }
            Some(byte) if *byte == text[at] => (at, next) = (at + 1, next + 1),
            _ => match retry {
                Some((from, star)) => {
                    retry = Some((from + 1, star));
                    (at, next) = (from + 1, star + 1);
                }
                None => return false,
            },
        }
    }
    pattern[next..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_what_chromium_says_they_do() {
        for (list, host, port, matches) in [
            ("a.example", "a.example", 443, true),
            ("A.example", "a.EXAMPLE.", 443, true),
            ("a.example", "b.a.example", 443, false),
            (".a.example", "b.a.example", 443, true),
            (".a.example", "a.example", 443, false),
            ("*a.example", "a.example", 443, true),
            ("*.a.example;x", "c.b.a.example", 443, true),
            ("a*c*e", "abcde", 443, true),
            ("a*c*e", "abcdef", 443, false),
            ("a*bb", "abab", 443, false),
            ("a*bb", "abbb", 443, true),
            ("a.example:8443", "a.example", 443, false),
            ("a.example:8443", "a.example", 8_443, true),
            ("https://a.example", "a.example", 443, true),
            ("http://a.example", "a.example", 443, false),
            ("<local>", "intranet", 443, true),
            ("<local>", "a.example", 443, false),
            ("<local>", "2001:db8::1", 443, false),
            ("10.0.0.0/8", "10.9.8.7", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("0.0.0.0/0", "11.0.0.1", 443, true),
            ("2001:db8::/32", "2001:db8:1::1", 443, true),
            ("2001:db8::/32", "2001:db9::1", 443, false),
            ("10.0.0.0/8", "10.example", 443, false),
            ("2001:db8::1", "2001:db8::1", 443, true),
            ("[2001:db8::1]:81", "2001:db8::1", 81, true),
            ("[2001:db8::1]:81", "2001:db8::1", 443, false),
            ("10.0.0.1", "10.0.0.1", 443, true),
            ("10.0.0.0/33, ::/129, /, a:b:c", "10.0.0.1", 443, false),
            ("", "a.example", 443, false),
            ("", "localhost", 80, true),
            ("", "a.localhost", 80, true),
            ("", "127.0.0.1", 80, true),
            ("", "::1", 80, true),
            ("<-loopback>", "localhost", 80, false),
            ("<-loopback>,127.0.0.1", "127.0.0.1", 80, true),
        ] {
            assert_eq!(Bypass::parse(list).matches(None, host, port), matches, "{list} {host}:{port}");
        }
        let plain = Bypass::parse("http://a.example");
        assert!(plain.matches(Some("http"), "a.example", 80) && !plain.matches(Some("https"), "a.example", 80));
    }
}
