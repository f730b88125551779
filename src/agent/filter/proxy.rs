//! Which proxies a client may not have its browser use. Only what is written as an address is looked at: a name is
//! resolved by the browser, with the same rules as that of a page.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// Amazon's metadata over IPv6.
const METADATA_V6: [u16; 2] = [0xfd00, 0x0ec2];

pub fn check(servers: Option<&Value>, closed_loopback: bool) -> Result<(), String> {
    let Some(servers) = servers.and_then(Value::as_str) else { return Ok(()) };
    // As Chrome takes it: `http=a:1;https=b:2`, and several in turn for one of them.
    for server in servers.split([';', ',']) {
        let host = host(server);
        if is_closed(&host, closed_loopback) {
            return Err(format!("the proxy {host} is an address of the container or of its cloud"));
        }
    }
    Ok(())
}

fn host(server: &str) -> String {
    let server: String = server.chars().filter(|character| *character > ' ').collect();
    let server = server.rsplit_once('=').map_or(&*server, |(_, after)| after);
    let server = server.split_once("://").map_or(server, |(_, after)| after);
    let server = server.split(['/', '?', '#']).next().unwrap_or_default();
    let server = server.rsplit_once('@').map_or(server, |(_, after)| after);
    let host = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        // More than one colon: an IPv6 address without brackets.
        None if server.matches(':').count() > 1 => server,
        None => server.split(':').next().unwrap_or_default(),
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn is_closed(host: &str, closed_loopback: bool) -> bool {
    if host == "metadata.google.internal" {
        return true;
    }
    if host == "localhost" || host.ends_with(".localhost") {
        return closed_loopback;
    }
    let address = host.split('%').next().unwrap_or_default().parse::<Ipv6Addr>().map(IpAddr::V6);
    match address.ok().or_else(|| ipv4(host).map(IpAddr::V4)) {
        Some(IpAddr::V4(address)) => closed_v4(address, closed_loopback),
        Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(inside) => closed_v4(inside, closed_loopback),
            None => {
                address.is_unicast_link_local()
                    || address.segments()[..2] == METADATA_V6
                    || (closed_loopback && (address.is_loopback() || address.is_unspecified()))
            }
        },
        None => false,
    }
}

fn closed_v4(address: Ipv4Addr, closed_loopback: bool) -> bool {
    address.is_link_local() || (closed_loopback && (address.is_loopback() || address.octets()[0] == 0))
}

/// In every spelling that Chrome takes: `127.1`, `0x7f.1`, `0177.0.0.1`, `2130706433`.
fn ipv4(host: &str) -> Option<Ipv4Addr> {
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) || u64::from(*last) >> (8 * (4 - first.len())) > 0 {
        return None;
    }
    let high = first.iter().zip([24, 16, 8]).fold(0, |high, (part, shift)| high | (part << shift));
    Some(Ipv4Addr::from_bits(high | last))
}

fn number(part: &str) -> Option<u32> {
    if let Some(hexadecimal) = part.strip_prefix("0x") {
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

    #[test]
    fn proxies_on_the_container_or_its_cloud_are_refused() {
        let judged = |server: &str, closed_loopback| check(Some(&server.into()), closed_loopback).is_err();
        for cloud in [
            "http://169.254.169.254:80",
            "169.254.170.2",
            "socks5://2852039166:1",
            "0xa9fea9fe:80",
            "[::ffff:169.254.169.254]:80",
            "[fe80::1%eth0]:1",
            "[fd00:ec2::254]:80",
            "http://metadata.google.internal.:80",
            "http=a.example:1;https=169.254.169.254:2",
            "a.example:1, 169.254.1",
        ] {
            assert!(judged(cloud, true) && judged(cloud, false), "{cloud}");
        }
        for own in [
            "127.0.0.1:3128",
            "http://user:password@127.1:3128/",
            "LOCALHOST:1",
            "a.localhost.",
            "0177.0.0.1:1",
            "0x7f000001",
            "2130706433:80",
            "0.0.0.0:1",
            "0:1",
            "[::1]:80",
            "::1",
            "[::]:80",
            "[::ffff:7f00:1]:80",
            "direct://,\tloc alhost:1",
        ] {
            assert!(judged(own, true), "{own}");
            assert!(!judged(own, false), "as pages on a developer's machine may: {own}");
        }
        for elsewhere in
            ["http://proxy.example:3128", "10.0.0.7:1", "[2001:db8::1]:1", "direct://", "", "1.2.3.4.5", "127.example"]
        {
            assert!(!judged(elsewhere, true), "{elsewhere}");
        }
    }
}
