//! `wallcrawler keys`: new API keys, and the records by which a control plane knows them.
//!
//! A key is shown once, and taken only from standard input: what stands in a command line is seen by others on the
//! machine, and stays in the shell's history. So no complaint repeats what was given, either.

use std::io::Read;

use crate::api_keys::{self, Role};
use crate::hex;
use crate::ids::UserId;

/// So that people, and programs that look for secrets in the wrong places, see what it is.
const PREFIX: &str = "wc_";
/// The longest key that is read.
const MAX_KEY: u64 = 1_024;

pub const USAGE: &str =
    "  wallcrawler keys new            make an API key; prints the key, and the record that API_KEYS takes for it
  wallcrawler keys hash           print the record of a key that is read from standard input
      [--name NAME]               what people call the key
      [--user ID]                 whose sessions it opens, if the user has other keys
      [--operator]                for an operator, who sees how the fleet does, instead of a client";

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("{0}")]
    Usage(&'static str),
    #[error("the key on standard input {0}")]
    Key(&'static str),
    #[error("standard input cannot be read")]
    Input(#[source] std::io::Error),
}

/// What `wallcrawler keys` with these words has to say.
pub fn keys(words: &[&str], input: impl Read) -> Result<String, KeysError> {
    let (key, options) = match words {
        ["new", options @ ..] => (None, options),
        ["hash", options @ ..] => (Some(input), options),
        _ => return Err(KeysError::Usage("keys must be followed by new or hash")),
    };
    let options = Options::read(options)?;
    match key {
        None => {
            let key = format!("{PREFIX}{}", hex::random(32));
            Ok(format!("{key}\n{}", options.record(&key)))
        }
        Some(input) => Ok(options.record(&read_key(input)?)),
    }
}

#[derive(Default)]
struct Options {
    name: Option<String>,
    user: Option<UserId>,
    operator: bool,
}

impl Options {
    fn read(words: &[&str]) -> Result<Self, KeysError> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (option, value) = word.split_once('=').map_or((*word, None), |(option, value)| (option, Some(value)));
            let mut value = |missing| value.or_else(|| words.next().copied()).ok_or(KeysError::Usage(missing));
            let first = match option {
                "--name" => {
                    let name = value("--name must be followed by a name")?;
                    if !api_keys::is_name(name) {
                        return Err(KeysError::Usage("--name must be followed by 1 to 128 characters"));
                    }
                    options.name.replace(name.to_owned()).is_none()
                }
                "--user" => {
                    let user = value("--user must be followed by an id")?;
                    let refused = |_| {
                        KeysError::Usage(
                            "--user must be followed by at most 64 letters, digits, _, . and -, beginning with a letter or digit",
                        )
                    };
                    options.user.replace(user.parse().map_err(refused)?).is_none()
                }
                "--operator" if *word == "--operator" => !std::mem::replace(&mut options.operator, true),
                _ => {
                    return Err(KeysError::Usage(
                        "keys takes --name, --user and --operator, and a key only from standard input",
                    ));
                }
            };
            if !first {
                return Err(KeysError::Usage("each of --name, --user and --operator must be given once"));
            }
        }
        Ok(options)
    }

    fn record(&self, key: &str) -> String {
        let roles = if self.operator { &[Role::Operator][..] } else { &[] };
        api_keys::record_of(key, self.user.as_ref(), self.name.as_deref(), roles).to_string()
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
