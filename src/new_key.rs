//! `wallcrawler keys`: new API keys, and the records by which a control plane knows them.
//!
//! A key is shown once, and taken only from standard input: what stands in a command line is seen by others on the
//! machine, and stays in the shell's history. So no complaint repeats what was given, either.

use std::io::Read;

use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use crate::api_keys::{self, KeyFaults, Role};
use crate::hex;

/// So that people, and programs that look for secrets in the wrong places, see what it is.
const PREFIX: &str = "wc_";
/// The longest key that is read.
const MAX_KEY: u64 = 1_024;

pub const USAGE: &str =
    "  wallcrawler keys new            make an API key; prints the key, and the record that API_KEYS takes for it
  wallcrawler keys hash           print the record of a key that is read from standard input
      --name NAME                 what people call the key
      --user ID                   who creates sessions with it, if the user has other keys
      --project ID                whose the sessions are, if not the user's
      --role ROLE                 client (sessions; the default) or operator (how the fleet does); both, if given twice
      --operator                  the same as --role operator
      --max-sessions N            how many sessions its user may have
      --creates-per-minute N      how many its user may create in a minute
      --project-max-sessions N    the same of all that the project's keys create together
      --project-creates-per-minute N
      --expires TIME              from when on it is refused, as in 2026-12-31T23:59:59Z";

/// The options that have a value, and the fields of a record that they fill.
const OPTIONS: [(&str, &str); 9] = [
    ("--name", "name"),
    ("--user", "userId"),
    ("--project", "projectId"),
    ("--role", "roles"),
    ("--max-sessions", "maxSessions"),
    ("--creates-per-minute", "createsPerMinute"),
    ("--project-max-sessions", "projectMaxSessions"),
    ("--project-creates-per-minute", "projectCreatesPerMinute"),
    ("--expires", "expiresAt"),
];

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{0}")]
    Usage(String),
    #[error("the key on standard input {0}")]
    Key(&'static str),
    #[error("standard input cannot be read")]
    Input(#[source] std::io::Error),
}

fn usage<T>(problem: impl Into<String>) -> Result<T, KeysError> {
    Err(KeysError::Usage(problem.into()))
}

/// What `wallcrawler keys` with these words has to say.
pub fn keys(words: &[&str], input: impl Read, now_ms: u64) -> Result<String, KeysError> {
    let (is_new, options) = match words {
        ["new", options @ ..] => (true, options),
        ["hash", options @ ..] => (false, options),
        _ => return usage("keys must be followed by new or hash"),
    };
    let says = read_options(options, now_ms)?;
    let record = |key: &str| Value::from(api_keys::record_of(key, &says));
    if is_new {
        let key = format!("{PREFIX}{}", hex::random(32));
        return Ok(format!("{key}\n{}", record(&key)));
    }
    Ok(record(&read_key(input)?).to_string())
}

/// What the options say of a key, in the order of a record's fields and checked as a record is.
fn read_options(words: &[&str], now_ms: u64) -> Result<Map<String, Value>, KeysError> {
    let mut values: Vec<Option<Value>> = vec![None; OPTIONS.len()];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (option, value) = word.split_once('=').map_or((*word, None), |(option, value)| (option, Some(value)));
        let (option, value) = if *word == "--operator" { ("--role", Some("operator")) } else { (option, value) };
        let Some(place) = OPTIONS.iter().position(|(name, _)| *name == option) else {
            let names = OPTIONS.map(|(name, _)| name).join(", ");
            return usage(format!("keys takes {names} and --operator, and a key only from standard input"));
        };
        let Some(value) = value.or_else(|| words.next().copied()) else {
            return usage(format!("{option} must be followed by its value"));
        };
        let value = match OPTIONS[place].1 {
            "roles" => {
                let role = Role::deserialize(json!(value)).or_else(|_| usage("--role must be client or operator"))?;
                let mut roles = values[place].take().unwrap_or(json!([]));
                roles.as_array_mut().expect("a list").push(json!(role));
                values[place] = Some(roles);
                continue;
            }
            // What is no number is refused with the others that cannot be.
            "maxSessions" | "createsPerMinute" | "projectMaxSessions" | "projectCreatesPerMinute" => {
                value.parse::<u64>().map_or(json!(value), Value::from)
            }
            _ => json!(value),
        };
        if values[place].replace(value).is_some() {
            return usage(format!("{option} must be given once"));
        }
    }
    let given = OPTIONS.iter().zip(values).filter_map(|((_, field), value)| Some(((*field).to_owned(), value?)));
    let says = Map::from_iter(given);
    let called = |field: &str| {
        let option = OPTIONS.iter().find(|(_, name)| Some(*name) == field.strip_prefix('.'));
        option.map_or("the key", |(name, _)| name).to_owned()
    };
    match api_keys::check(api_keys::record_of("any", &says), &called) {
        Ok(key) if key.expires_at_ms.is_some_and(|at| at <= now_ms) => usage("--expires must be in the future"),
        Ok(_) => Ok(says),
        Err(KeyFaults(faults)) => usage(faults.join("; ")),
    }
}

fn read_key(input: impl Read) -> Result<String, KeysError> {
    let mut bytes = Vec::new();
    input.take(MAX_KEY + 1).read_to_end(&mut bytes).map_err(KeysError::Input)?;
    if bytes.len() as u64 > MAX_KEY {
        return Err(KeysError::Key("is longer than 1024 bytes"));
    }
    let key = bytes.trim_ascii();
    if key.is_empty() {
        return Err(KeysError::Key("is empty"));
    }
    // A header must be able to carry it, and a list of keys to hold it.
    if !key.iter().all(|b| b.is_ascii_graphic() && *b != b',') {
        return Err(KeysError::Key("must be one line of letters, digits and signs, without spaces and commas"));
    }
    Ok(String::from_utf8(key.to_vec()).expect("ascii"))
}
