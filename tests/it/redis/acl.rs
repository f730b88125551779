//! A user who may do what the README says it must be able to do, and no more.

use std::collections::BTreeSet;
use std::path::Path;

use super::program::Program;
use super::{Failure, Server, a_session_lives, is_ready, is_refused, moves, plane};
use crate::audit::Contents;
use crate::world::redis_command;

/// What the README has users granted: the rules for one server, and what a cluster needs besides.
fn granted() -> (Vec<String>, Vec<String>) {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("readable");
    let block = readme.split("    ACL SETUSER wallcrawler ").nth(1).expect("the README says what to grant");
    let words = block.split("\n\n").next().expect("a block").split_whitespace().filter(|word| *word != "\\");
    let is_clusters = |word: &String| word.starts_with("+cluster|");
    words.map(str::to_owned).partition(|word| !is_clusters(word))
}

/// As typed, with a password of the test's.
fn with_password(rules: &[String], password: &str) -> Vec<String> {
    let given = format!(">{password}");
    rules.iter().map(|rule| if rule.starts_with('>') { given.clone() } else { rule.clone() }).collect()
}

async fn set_user(admin: &fred::prelude::Client, rules: &[String]) {
    let words: Vec<&str> =
        ["ACL", "SETUSER", "wallcrawler"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    redis_command(admin, &words).await;
}

const PASSWORD: &str = "p@ss:w/rd%#?é";
const ENCODED: &str = "p%40ss%3Aw%2Frd%25%23%3F%C3%A9";

#[tokio::test]
async fn what_the_readme_grants_is_enough_for_everything() {
    let server = Server::start(&[]);
    let admin = server.redis.client().await;
    set_user(&admin, &with_password(&granted().0, PASSWORD)).await;
    let url = format!("redis://wallcrawler:{ENCODED}@127.0.0.1:{}", server.port);
    let plane = plane(&url, &[("KEY_PREFIX", "wallcrawler:")]).await;
    is_ready(&plane).await;
    a_session_lives(&plane).await;
    redis_command(&admin, &["FLUSHALL"]).await;
    moves::make_all(&plane.app.store).await;
    Contents::read_below(&admin, "wallcrawler:").await.check();
    let denied = redis_command(&admin, &["ACL", "LOG"]).await.into_array();
    assert!(denied.is_empty(), "{denied:?}");
}

#[test]
fn nothing_is_granted_that_nothing_needs() {
    let (rules, clusters) = granted();
    let allowed: BTreeSet<String> = rules.iter().filter_map(|rule| rule.strip_prefix('+')).map(str::to_owned).collect();
    let mut needed: BTreeSet<String> =
        ["eval", "evalsha", "subscribe", "ping", "client|id", "info"].map(str::to_owned).into();
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store")).expect("readable") {
        let path = file.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "lua") {
            continue;
        }
        let script = std::fs::read_to_string(path).expect("readable");
        let calls = script.split("redis.call('").skip(1);
        needed.extend(calls.map(|call| call.split('\'').next().expect("a name").to_ascii_lowercase()));
    }
    assert_eq!(allowed, needed);
    assert_eq!(clusters, ["+cluster|slots", "+cluster|info"]);
    let others: Vec<&str> = rules.iter().map(String::as_str).filter(|rule| !rule.starts_with(['+', '>'])).collect();
    assert_eq!(others, ["on", "resetkeys", "~wallcrawler:*", "resetchannels", "&wallcrawler:events", "-@all"]);
}

#[tokio::test]
async fn a_right_that_is_missing_is_a_refusal_that_says_so() {
    let server = Server::start(&[]);
    let admin = server.redis.client().await;
    let mut rules = with_password(&granted().0, "secret");
    rules.push("-hset".to_owned());
    set_user(&admin, &rules).await;
    let url = format!("redis://wallcrawler:secret@127.0.0.1:{}", server.port);
    let plane = plane(&url, &[("KEY_PREFIX", "other:")]).await;
    is_refused(&plane, Failure::NotPermitted).await;
}

#[tokio::test]
async fn a_wrong_password_is_in_the_log_without_the_password_until_it_is_right() {
    let server = Server::start(&[]);
    let admin = server.redis.client().await;
    set_user(&admin, &with_password(&granted().0, "another")).await;
    let url = format!("redis://wallcrawler:{ENCODED}@127.0.0.1:{}", server.port);
    let program = Program::start(&server.redis.dir, &url, &[("KEY_PREFIX", "wallcrawler:"), ("RUST_LOG", "trace")]);
    program.is_refused("redis is not available: it does not accept the user and password in REDIS_ENDPOINT").await;
    set_user(&admin, &with_password(&granted().0, PASSWORD)).await;
    program.is_ready().await;
    program.serves().await;
    // It was changed on the server, and the connection with the old one is gone.
    redis_command(&admin, &["ACL", "DELUSER", "wallcrawler"]).await;
    program.is_refused("WRONGPASS").await;
    set_user(&admin, &with_password(&granted().0, PASSWORD)).await;
    program.is_ready().await;
    let log = program.log();
    assert!(!log.contains(PASSWORD) && !log.contains(ENCODED) && !log.contains("p@ss"), "{log}");
}
