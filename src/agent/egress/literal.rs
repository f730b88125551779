//! Addresses: how they are written, and which of them a page has no business with. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Amazon's over IPv6: the instance's metadata (`::254`), the task's, its DNS and its clock.
const CLOUD_V6: [u16; 2] = [0xfd00, 0x0ec2];

/// Whether the address is one of the cloud's own, which answer only this machine: where credentials are to be had. The
/// whole link-local network counts, not only the known addresses in it.
pub fn is_clouds(address: IpAddr) -> bool {
    any_reading(address, |address| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.segments()[..2] == CLOUD_V6,
    })
}

/// Whether the address means this machine, wherever one is. The unspecified one does too, for whoever connects to it.
pub fn is_loopback(address: IpAddr) -> bool {
    any_reading(address, |address| match address {
        IpAddr::V4(address) => address.is_loopback() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_loopback() || address.is_unspecified(),
    })
}

/// Of the address, and of the IPv4 addresses that a gateway, or the kernel, might read in it.
fn any_reading(address: IpAddr, is: impl Fn(IpAddr) -> bool) -> bool {
    let embedded = match address {
        IpAddr::V4(_) => [None, None],
        IpAddr::V6(address) => embedded(address),
    };
    is(address) || embedded.into_iter().flatten().any(|address| is(address.into()))
}

fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    let last = v4(segments[6], segments[7]);
    match segments {
        // As they are, as all of ::/96 once was: what is compatible with IPv4.
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => [last, None],
        // IPv4-mapped, and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => [last, None],
        // NAT64: the well-known prefix (RFC 6052), and those that networks choose for themselves (RFC 8215).
        [0x64, 0xff9b, ..] => [last, None],
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo (RFC 4380): the server's, and the client's with its bits turned.
        [0x2001, 0, high, low, ..] => [v4(high, low), v4(!segments[6], !segments[7])],
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [last, None],
        _ => [None, None],
    }
}

/// An address as it is written in a URL, or in any other way that a resolver or Chromium takes: `[::1]`, `fe80::1%eth0`,
/// `127.1`, `0x7f.1`, `0177.0.0.1`, `2130706433`. `None`: it is a name.
pub fn parse(host: &str) -> Option<IpAddr> {
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if host.contains(':') {
        return host.split('%').next()?.parse().ok().map(IpAddr::V6);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) || u64::from(*last) >> (8 * (4 - first.len())) > 0 {
        return None;
    }
    let high = first.iter().zip([24, 16, 8]).fold(0, |high, (part, shift)| high | (part << shift));
    Some(Ipv4Addr::from_bits(high | last).into())
}

fn number(part: &str) -> Option<u32> {
    if let Some(hexadecimal) = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        return if hexadecimal.is_empty() { Some(0) } else { u32::from_str_radix(hexadecimal, 16).ok() };
    }
    match part.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
        _ => part.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        parse(text).unwrap_or_else(|| panic!("{text} is an address"))
    }

    #[test]
    fn the_clouds_addresses_are_known_in_every_spelling() {
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "2852039166",
            "0xa9fea9fe",
            "169.254.1",
            "0251.0376.0251.0376",
            "169.254.169.254.",
            "[::ffff:169.254.169.254]",
            "::ffff:a9fe:a9fe",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:808:808::5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "fe80::1",
            "fe80::1%eth0",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
        ] {
            assert!(is_clouds(address(text)) && !is_loopback(address(text)), "{text}");
        }
    }

    #[test]
    fn this_machines_addresses_are_known_in_every_spelling() {
        for text in [
            "127.0.0.1",
            "127.1",
            "127.255.255.254",
            "0x7f000001",
            "0X7F.1",
            "0177.0.0.1",
            "2130706433",
            "0",
            "0.0.0.0",
            "0.1.2.3",
            "[::1]",
            "::",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(is_loopback(address(text)) && !is_clouds(address(text)), "{text}");
        }
    }

    #[test]
    fn other_addresses_and_names_are_neither() {
        for text in
            ["10.0.0.7", "93.184.215.14", "169.253.1.1", "128.0.0.1", "2001:db8::1", "64:ff9b::8.8.8.8", "fc00::1"]
        {
            assert!(!is_loopback(address(text)) && !is_clouds(address(text)), "{text}");
        }
        for name in ["", ".", "localhost", "127.example", "1.2.3.4.5", "256.1.1.1", "0xg", "08", "1..1", "::1::", "a:1"]
        {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
