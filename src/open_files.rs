//! How many files the process may have open. Each connection is one, and what a system gives by itself is often 1,024, on
//! macOS 256; asked for more, it gives it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What macOS gives at most to a process without saying so (`OPEN_MAX`).
const MOST_ON_MACOS: u64 = 10_240;

/// Asks for as many as may be had, and says how many that is.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = match limit.maximum {
        _ if !cfg!(target_os = "macos") => limit.maximum,
        maximum => Some(maximum.unwrap_or(MOST_ON_MACOS).min(MOST_ON_MACOS)),
    };
    if wanted.is_none_or(|wanted| limit.current.is_some_and(|current| current < wanted)) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
