//! API keys: kept only as hashes, compared in constant time.

use std::fmt;

use aws_lc_rs::{constant_time, digest};

use crate::hex;
use crate::ids::UserId;

/// The API keys that are accepted, each only as its SHA-256.
pub struct ApiKeys(Vec<ApiKey>);

struct ApiKey {
    sha256: Vec<u8>,
    user: UserId,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKeys").field(&self.0.len()).finish()
    }
}

/// A key that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("key {0} is empty")]
    Empty(usize),
    #[error("key {0} begins with sha256: but 64 hexadecimal digits do not follow")]
    NotAHash(usize),
}

impl ApiKeys {
    /// Keys as they are configured: the key itself, or `sha256:` and the 64 hexadecimal digits of its hash.
    pub fn parse<S: AsRef<str>>(keys: &[S]) -> Result<Self, InvalidKey> {
        let mut parsed = Vec::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            let key = key.as_ref().trim();
            let sha256 = match key.strip_prefix("sha256:") {
                Some(hex) => hex::decode(hex).filter(|hash| hash.len() == 32).ok_or(InvalidKey::NotAHash(index))?,
                None if key.is_empty() => return Err(InvalidKey::Empty(index)),
                None => digest::digest(&digest::SHA256, key.as_bytes()).as_ref().to_vec(),
            };
            let user = user_of(&sha256);
            parsed.push(ApiKey { sha256, user });
        }
        Ok(Self(parsed))
    }

    /// Takes the same time whichever key it is, and whether it is one.
    pub fn user(&self, key: &str) -> Option<UserId> {
        let sha256 = digest::digest(&digest::SHA256, key.as_bytes());
        let mut found = None;
        for key in &self.0 {
            if constant_time::verify_slices_are_equal(&key.sha256, sha256.as_ref()).is_ok() {
                found = Some(&key.user);
            }
        }
        found.cloned()
    }
}

/// A hash of the key's hash: the id is shown and logged, and says nothing about either.
fn user_of(sha256: &[u8]) -> UserId {
    let hash = digest::digest(&digest::SHA256, &[b"wallcrawler user ", sha256].concat());
    format!("user_{}", hex::encode(&hash.as_ref()[..12])).parse().expect("hexadecimal digits make an id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_hash_are_the_same_user_and_the_id_shows_neither() {
        let hash = hex::encode(digest::digest(&digest::SHA256, b"wc_secret").as_ref());
        let plain = ApiKeys::parse(&["other", "wc_secret"]).expect("valid");
        let hashed = ApiKeys::parse(&[format!("sha256:{hash}")]).expect("valid");
        let user = plain.user("wc_secret").expect("known");
        assert_eq!(hashed.user("wc_secret"), Some(user.clone()));
        assert_ne!(plain.user("other"), Some(user.clone()));
        assert_eq!(plain.user("wc_secre"), None);
        assert_eq!(hashed.user(&format!("sha256:{hash}")), None);
        assert!(!user.as_str().contains("wc_secret") && !user.as_str().contains(&hash[..8]));
    }

    #[test]
    fn a_key_that_cannot_be_one_is_named_by_its_place() {
        assert_eq!(ApiKeys::parse(&["a", " "]).err(), Some(InvalidKey::Empty(1)));
        assert_eq!(ApiKeys::parse(&["sha256:abc"]).err(), Some(InvalidKey::NotAHash(0)));
    }
}
