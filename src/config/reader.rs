//! The environment, read variable by variable.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::http::uri::Authority;
use axum::http::{HeaderValue, Uri};

/// All that is wrong with the environment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has faults:{}", .0.iter().map(|fault| format!("\n  {fault}")).collect::<String>())]
pub struct Faults(pub Vec<String>);

/// The environment, read with all faults collected.
pub(crate) struct Reader<'a> {
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) faults: Vec<String>,
}

impl Reader<'_> {
    /// Blank counts as not set.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(crate) fn fault(&mut self, name: &str, message: impl fmt::Display) {
        self.faults.push(format!("{name} {message}"));
    }

    pub(crate) fn parse<T: FromStr>(&mut self, name: &str, default: T, expected: &str) -> T {
        match self.text(name).map(|value| value.parse()) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(_)) => {
                self.fault(name, format_args!("must be {expected}"));
                default
            }
        }
    }

    pub(crate) fn number(&mut self, name: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> u64 {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.parse(name, default, &expected);
        if !range.contains(&value) {
            self.fault(name, format_args!("must be {expected}"));
            return default;
        }
        value
    }

    /// Seconds, with decimals if need be.
    pub(crate) fn seconds(&mut self, name: &str, default: f64, max: f64) -> Duration {
        let expected = format!("a number of seconds from 0 to {max}");
        let value = self.parse(name, default, &expected);
        if !(0.0..=max).contains(&value) {
            self.fault(name, format_args!("must be {expected}"));
            return Duration::from_secs_f64(default);
        }
        Duration::from_secs_f64(value)
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.text(name).as_deref() {
            None | Some("false" | "0") => false,
            Some("true" | "1") => true,
            Some(_) => {
                self.fault(name, "must be true or false");
                false
            }
        }
    }

    /// A base URL of one of these schemes, without a slash at its end.
    pub(crate) fn url(&mut self, name: &str, schemes: &[&str]) -> Option<String> {
        let value = self.text(name)?;
        let rest = schemes.iter().find_map(|scheme| value.strip_prefix(scheme)?.strip_prefix("://"));
        match rest {
            Some(rest) if is_host_and_path(rest) => Some(value.trim_end_matches('/').to_owned()),
            _ => {
                self.fault(name, format_args!("must be a URL that begins with {}://", schemes.join(":// or ")));
                None
            }
        }
    }

    /// What is separated by commas, each a name as AWS gives them.
    pub(super) fn list(&mut self, name: &str) -> Vec<String> {
        let items: Vec<String> = self.text(name).map_or_else(Vec::new, |text| {
            text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
        });
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':');
        if !items.iter().all(|item| item.bytes().all(plain)) {
            self.fault(name, "must be names separated by commas");
        }
        items
    }

    /// Origins of pages, separated by commas, as browsers write them: they are compared as texts.
    pub(super) fn origins(&mut self, name: &str) -> Vec<HeaderValue> {
        let text = self.text(name).unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|_| !text.is_empty());
        let origins: Option<Vec<_>> =
            items.map(|item| is_origin(item).then(|| HeaderValue::from_str(item).ok()).flatten()).collect();
        origins.unwrap_or_else(|| {
            self.fault(name, "must be exact origins separated by commas, as in https://app.example.com");
            Vec::new()
        })
    }

    /// A host, with or without a scheme in front of it.
    pub(super) fn host(&mut self, name: &str) -> Option<String> {
        let value = self.text(name)?;
        let rest = ["ws://", "wss://"].iter().find_map(|scheme| value.strip_prefix(scheme)).unwrap_or(&value);
        if is_host_and_path(rest) && !rest.contains("://") {
            return Some(value.trim_end_matches('/').to_owned());
        }
        self.fault(name, "must be a host, or a URL that begins with ws:// or wss://");
        None
    }
}

pub(crate) fn is_host_and_path(rest: &str) -> bool {
    !rest.is_empty()
        && !rest.starts_with('/')
        && rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'?' | b'#' | b'@'))
}

/// Whether it is what a browser calls a page's origin: in small letters, and no port that goes without saying.
fn is_origin(text: &str) -> bool {
    let Some((scheme @ ("http" | "https"), authority)) = text.split_once("://") else { return false };
    let port = if scheme == "http" { ":80" } else { ":443" };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    let valid = authority.parse::<Authority>().is_ok_and(|authority| {
        let host = authority.host();
        !host.is_empty() && (authority.as_str() == host || authority.port().is_some())
    });
    valid && authority.bytes().all(plain) && !authority.ends_with(port)
}

/// Whether a URL leads to this machine.
pub(crate) fn is_loopback_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
