//! Messages of a client as Lambdas bring them: a line for each, in any order, late and again. Nothing is lost, doubled,
//! changed or held for longer than it may be.
//!
//! The first two bytes of a line are how long it took, and the message's own name.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use wallcrawler::agent::gateway::fit::{IO_READ_BYTES, asked_for_in_pieces, number};
use wallcrawler::agent::gateway::resequencer::{GAP_WAIT, Resequencer};

pub fn check(data: &[u8]) {
    let (mut order, mut now) = (Resequencer::new(), Instant::now());
    let (mut names, mut sent, mut out) = (HashSet::new(), Vec::new(), Vec::new());
    for line in data.split(|&byte| byte == b'\n') {
        let &[pause, name, ref text @ ..] = line else { continue };
        let Ok(text) = std::str::from_utf8(text) else { continue };
        now += Duration::from_millis(u64::from(pause) * 16);
        out.append(&mut order.overdue(now));
        check_number(text);
        check_pieces(text);
        if names.insert(name) {
            sent.push(text.to_owned());
        }
        out.append(&mut order.take(&name.to_string(), number(text), text.to_owned(), now));
        assert!(order.due().is_none_or(|due| due > now && due <= now + GAP_WAIT), "it waits too long");
    }
    out.append(&mut order.overdue(now + GAP_WAIT));
    assert_eq!(order.due(), None, "nothing waits");
    assert_eq!(order.give_up(), [""; 0], "nothing is left");
    sent.sort_unstable();
    out.sort_unstable();
    assert_eq!(out, sent, "each goes to the browser once");
}

/// The scanner reads what a complete reader of JSON reads.
fn check_number(text: &str) {
    if let Ok(Value::Object(command)) = serde_json::from_str(text)
        && let Some(found) = number(text)
    {
        assert_eq!(command["id"].as_i64(), Some(found), "{text}");
    }
}

/// A command to read from a stream asks for no more than fits, and every other is left as it is.
fn check_pieces(text: &str) {
    let passed = asked_for_in_pieces(text.to_owned());
    let command: Value = serde_json::from_str(&passed).unwrap_or_default();
    if command["method"] == "IO.read" && command["params"].is_object() {
        let size = &command["params"]["size"];
        assert!(size.as_u64().is_none_or(|size| size <= IO_READ_BYTES) && !size.is_null(), "{passed}");
        assert_eq!(number(&passed), number(text), "{passed}");
    } else {
        assert_eq!(passed, text);
    }
}
