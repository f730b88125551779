//! What the fuzzers have found, through the same checks as they make (`make fuzz`).

use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn all_of(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).expect("a corpus") {
        let path = entry.expect("an entry").path();
        // Shown only of a test that fails: the last one is why.
        println!("{}", path.display());
        check(&std::fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", dir.display());
}

#[test]
fn no_text_that_a_fuzzer_found_is_a_token() {
    all_of("tokens", targets::tokens::check);
}

#[test]
fn no_messages_that_a_fuzzer_found_are_lost_doubled_or_held_too_long() {
    all_of("commands", targets::commands::check);
}

#[test]
fn no_body_that_a_fuzzer_found_is_taken_beyond_the_limits() {
    all_of("bodies", targets::bodies::check);
}

#[test]
fn no_event_that_a_fuzzer_found_becomes_another_request_than_was_meant() {
    all_of("events", targets::events::check);
}
