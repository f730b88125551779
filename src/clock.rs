//! The only place that reads the wall clock. Everything that depends on now takes it as a parameter.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `2026-01-31T12:00:00.000Z`, the only form in which times leave this service.
pub fn rfc3339(ms: u64) -> String {
    // Past the year 9999 the format has no more room; such a time can only be a mistake upstream.
    const LAST_MS: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS))).to_string()
}

/// A time as people write it in RFC 3339, with `Z` or an offset. `None` if it is none, or before 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    // The library knows no offsets.
    let (local, ahead_minutes) = match text.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            (local, offset_minutes(offset)?)
        }
    };
    // And it does not mind a second `Z`.
    let plain = local.bytes().all(|b| b.is_ascii_digit() || b"-:T.".contains(&b)) && !local.ends_with('.');
    if !plain {
        return None;
    }
    let at = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let ms = i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    u64::try_from(ms - ahead_minutes * 60_000).ok()
}

/// `+05:45` is 345.
fn offset_minutes(text: &str) -> Option<i64> {
    let sign = if text.starts_with('+') { 1 } else { -1 };
    let (hours, minutes) = text.strip_prefix(['+', '-'])?.split_once(':')?;
    let number = |digits: &str, most: i64| -> Option<i64> {
        let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|number| plain && *number <= most)
    };
    Some(sign * (number(hours, 23)? * 60 + number(minutes, 59)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(rfc3339(1_767_225_600_123), "2026-01-01T00:00:00.123Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_time_is_read_with_its_offset_and_nothing_else_is_a_time() {
        for text in [
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.000Z",
            "2026-01-01T00:00:00+00:00",
            "2025-12-31T19:00:00-05:00",
            "2026-01-01T05:45:00.000+05:45",
        ] {
            assert_eq!(parse_rfc3339(text), Some(1_767_225_600_000), "{text}");
        }
        for text in [
            "",
            "Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-02-30T00:00:00Z",
            "2026-01-01T00:00:00+0000",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00*01:00",
            "2026-01-01T00:00:00Z+01:00",
            "2026-01-01T00:00:00ZZ",
            "2026-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+01:00",
            "2026-01-01T00:00:00+-1:00",
            "2026-01-01T00:00:00\u{e9}1:00",
            "1767225600",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
