//! What a script's header says is what the script does.

use std::collections::BTreeSet;
use std::path::Path;

fn scripts() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let mut scripts: Vec<(String, String)> = std::fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "lua"))
        .map(|path| (path.file_stem().expect("a name").to_string_lossy().into_owned(), path))
        .filter(|(name, _)| name != "shared")
        .map(|(name, path)| (name, std::fs::read_to_string(path).expect("readable")))
        .collect();
    scripts.sort();
    assert!(scripts.len() > 10, "the scripts were found");
    scripts
}

/// The comment a script opens with, and the rest of it.
fn parts(script: &str) -> (String, String) {
    let header: Vec<&str> = script.lines().take_while(|line| line.starts_with("--")).collect();
    let body: Vec<&str> = script.lines().skip(header.len()).collect();
    (header.join("\n"), body.join("\n"))
}

fn words_after(text: &str, mark: &str) -> BTreeSet<String> {
    text.split(mark)
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect())
        .filter(|word: &String| !word.is_empty())
        .collect()
}

fn is_named(header: &str, word: &str) -> bool {
    header.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).any(|other| other == word)
}

#[test]
fn every_script_says_what_it_does_takes_and_answers_and_why_it_is_atomic() {
    for (name, script) in scripts() {
        let (header, _) = parts(&script);
        let first = header.lines().next().expect("a header");
        assert!(first.len() > 20 && !first.contains("ARGV"), "{name} opens with its move in one sentence");
        for part in ["-- ARGV: ", "-- Replies: ", "-- Atomic, "] {
            assert_eq!(header.matches(part).count(), 1, "{name}: {part}");
        }
    }
}

#[test]
fn every_argument_that_is_used_and_every_answer_that_is_given_stands_in_the_header() {
    for (name, script) in scripts() {
        let (header, body) = parts(&script);
        for argument in words_after(&body, "a.") {
            assert!(is_named(&header, &argument), "{name} takes {argument} and does not say so");
        }
        let replies = &header[header.find("-- Replies: ").expect("replies")..];
        let returns: Vec<&str> = body.split("return {").skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let given = words_after(&returns.join("\n"), "'");
        assert!(!given.is_empty(), "{name} answers with words");
        for word in &given {
            assert!(is_named(replies, word), "{name} answers {word} and does not say so");
        }
    }
}
