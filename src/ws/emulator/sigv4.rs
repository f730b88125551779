//! Whether a request is signed as AWS wants it (Signature Version 4, in the `Authorization` header).
//!
//! There is no secret here to check the signature with, so it is not: only that there is one, for the right service
//! and day, over the headers it must cover, made just now, and with the right digest of the body. That finds a
//! client that does not sign, signs for something else, or whose clock is off.

use std::time::Duration;

use aws_lc_rs::digest;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::hex;

/// How far a clock may be off.
const SKEW: Duration = Duration::from_secs(5 * 60);
const SERVICE: &str = "execute-api";

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsigned {
    #[error("Missing Authentication Token")]
    NoAuthorization,
    #[error("Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters")]
    Incomplete,
    #[error("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header")]
    NoDate,
    #[error("Credential should be scoped to correct service: '{SERVICE}'")]
    WrongScope,
    #[error("'Host' and 'X-Amz-Date' must be signed headers")]
    NotCovered,
    #[error("Signature expired or not yet current")]
    Skewed,
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed")]
    WrongBody,
}

impl Unsigned {
    /// AWS, "Common errors". They are all 403 here.
    pub(super) fn error_type(self) -> &'static str {
        match self {
            Unsigned::NoAuthorization => "MissingAuthenticationTokenException",
            Unsigned::Incomplete | Unsigned::NoDate => "IncompleteSignatureException",
            Unsigned::WrongScope | Unsigned::NotCovered | Unsigned::Skewed | Unsigned::WrongBody => {
                "InvalidSignatureException"
            }
        }
    }
}

pub(super) fn check(headers: &HeaderMap, body: &[u8], now_ms: u64) -> Result<(), Unsigned> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = text(AUTHORIZATION.as_str()).ok_or(Unsigned::NoAuthorization)?;
    let parameters = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(Unsigned::Incomplete)?;
    let parameter = |name: &str| {
        parameters
            .split(',')
            .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
            .ok_or(Unsigned::Incomplete)
    };
    let (credential, signed, signature) =
        (parameter("Credential")?, parameter("SignedHeaders")?, parameter("Signature")?);
    if hex::decode(signature).is_none_or(|bytes| bytes.len() != 32) {
        return Err(Unsigned::Incomplete);
    }
    let date = text("x-amz-date").ok_or(Unsigned::NoDate)?;
    let signed_at_ms = epoch_ms(date).ok_or(Unsigned::NoDate)?;
    let [key, day, region, SERVICE, "aws4_request"] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err(Unsigned::WrongScope);
    };
    if key.is_empty() || region.is_empty() || !date.starts_with(day) || day.len() != 8 {
        return Err(Unsigned::WrongScope);
    }
    if !["host", "x-amz-date"].iter().all(|name| signed.split(';').any(|signed| signed == *name)) {
        return Err(Unsigned::NotCovered);
    }
    if Duration::from_millis(now_ms.abs_diff(signed_at_ms)) > SKEW {
        return Err(Unsigned::Skewed);
    }
    let of_body = || hex::encode(digest::digest(&digest::SHA256, body).as_ref());
    match text("x-amz-content-sha256") {
        Some(claimed) if claimed != "UNSIGNED-PAYLOAD" && claimed != of_body() => Err(Unsigned::WrongBody),
        _ => Ok(()),
    }
}

/// `20260131T120000Z`, in milliseconds since the epoch.
fn epoch_ms(date: &str) -> Option<u64> {
    let plain = date.len() == 16 && date.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'T' | b'Z'));
    let part = |range: std::ops::Range<usize>| date.get(range).filter(|_| plain);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(9..11)?, part(11..13)?, part(13..15)?);
    let time = humantime::parse_rfc3339(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_767_225_600_000;

    fn signed(change: &[(&'static str, &str)]) -> HeaderMap {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-west-1/execute-api/aws4_request, \
             SignedHeaders=host;x-amz-date, Signature={}",
            "0f".repeat(32)
        );
        let mut headers = HeaderMap::new();
        headers.insert("authorization", authorization.parse().expect("a value"));
        headers.insert("x-amz-date", "20260101T000000Z".parse().expect("a value"));
        for (name, value) in change {
            headers.insert(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn only_what_looks_signed_for_this_service_just_now_passes() {
        assert_eq!(check(&signed(&[]), b"", NOW_MS), Ok(()));
        assert_eq!(check(&HeaderMap::new(), b"", NOW_MS), Err(Unsigned::NoAuthorization));
        let authorization = signed(&[])["authorization"].to_str().expect("text").to_owned();
        for (from, to, why) in [
            ("AWS4-HMAC-SHA256 ", "Bearer ", Unsigned::Incomplete),
            ("Signature=0f", "Signature=zz", Unsigned::Incomplete),
            ("SignedHeaders", "Headers", Unsigned::Incomplete),
            ("execute-api", "apigateway", Unsigned::WrongScope),
            ("20260101", "20260102", Unsigned::WrongScope),
            ("AKID/", "", Unsigned::WrongScope),
            ("host;", "", Unsigned::NotCovered),
        ] {
            let headers = signed(&[("authorization", &authorization.replace(from, to))]);
            assert_eq!(check(&headers, b"", NOW_MS), Err(why), "{from} -> {to}");
        }
        assert_eq!(check(&signed(&[]), b"", NOW_MS + 301_000), Err(Unsigned::Skewed));
        assert_eq!(check(&signed(&[]), b"", NOW_MS - 301_000), Err(Unsigned::Skewed));
        assert_eq!(check(&signed(&[("x-amz-date", "yesterday")]), b"", NOW_MS), Err(Unsigned::NoDate));
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(check(&signed(&[("x-amz-content-sha256", empty)]), b"", NOW_MS), Ok(()));
        assert_eq!(check(&signed(&[("x-amz-content-sha256", empty)]), b"x", NOW_MS), Err(Unsigned::WrongBody));
    }
}
