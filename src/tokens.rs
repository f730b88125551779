//! Tokens: who may connect to which session, and which container may ask for work.
//!
//! A token is a JWT signed with HS256, encrypted as a JWE (`dir`, `A256GCM`), so that its holder can
//! neither read nor change it. Both keys are derived by HKDF from one secret, and so is the id (`kid`) by which a
//! token says which secret it was made from: the secret can be replaced, and tokens of the one before it stay good.
//! Tokens are good until they expire, as often as they are shown: some clients open a second socket from inside
//! the browser.

use std::fmt;

use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use josekit::jwe::{self, JweHeader};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::hex;
use crate::ids::{ContainerId, ContextId, SessionId, UserId};
use crate::storage::{ObjectName, Use};

/// The shortest secret tokens may be made from, in bytes.
pub const MIN_SECRET_BYTES: usize = 32;
/// Longer texts are not looked at. Ours are about 500 characters.
const MAX_TOKEN_BYTES: usize = 2_048;

/// How much further on than the clock that a token was made by ours may be. No session is longer for it: it ends when
/// the store says so.
pub const CLOCK_SKEW_MS: u64 = 30_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// May drive one session.
    Connect { session: SessionId, user: UserId },
    /// May see what one session shows, and do nothing in it.
    View { session: SessionId, user: UserId },
    /// May ask for work as one container, which somebody has started by hand.
    Container(ContainerId),
    /// The same, of one that was launched, for as many sessions as it was launched for.
    Launched { container: ContainerId, max_sessions: u32 },
    /// May store what one session leaves: for a context, if that is to be written.
    Files { session: SessionId, user: UserId, context: Option<ContextId> },
    /// May read or write one file.
    Object { name: ObjectName, to: Use },
    /// May have containers come that a service of ECS runs: each is given a token of its own for this one.
    Service,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not made here, not whole, or for something else.
    #[error("the token is not valid")]
    Invalid,
    /// As far as is known: it is of a secret that is not here, which may be a new one.
    #[error("the token is not valid")]
    UnknownSecret,
    #[error("the token has expired")]
    Expired,
}

/// A secret that is too short to make tokens from.
#[derive(Debug, thiserror::Error)]
#[error("must be at least {MIN_SECRET_BYTES} bytes long")]
pub struct SecretTooShort;

/// A text that holds no secret for tokens.
#[derive(Debug, thiserror::Error)]
pub enum SecretFault {
    #[error("it is JSON, in which JWE_SECRET must be a text")]
    NoField,
    #[error("JWE_SECRET {0}")]
    TooShort(SecretTooShort),
}

/// What a text from Secrets Manager holds: the secret itself, or JSON that has it as `JWE_SECRET`.
pub fn secret_in(text: &str) -> Result<String, SecretFault> {
    // Generated passwords, too, may begin with a brace.
    let secret = match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(json) => json.get("JWE_SECRET").and_then(Value::as_str).ok_or(SecretFault::NoField)?.trim().to_owned(),
        Err(_) => text.trim().to_owned(),
    };
    if secret.len() < MIN_SECRET_BYTES { Err(SecretFault::TooShort(SecretTooShort)) } else { Ok(secret) }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    role: Role,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<UserId>,
    /// The most sessions of a container that was launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<u32>,
    /// The context that may be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ctx: Option<ContextId>,
    /// Seconds since the Unix epoch.
    iat: u64,
    exp: u64,
    /// Not in ours, but whoever writes it means it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Connect,
    View,
    Container,
    Service,
    Files,
    Read,
    Write,
}

/// What a service's token is about. There is one such token for all.
const SERVICE: &str = "containers";

struct Keys {
    /// Says nothing of the others.
    id: String,
    sign: EncodingKey,
    verify: DecodingKey,
    encrypt: [u8; 32],
}

/// Mints and checks tokens. The first secret mints; all of them are accepted.
pub struct Tokens {
    keys: Vec<Keys>,
    accept_signed: bool,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Tokens {
    /// `accept_signed`: plain JWTs of the same secret, without encryption, are accepted too.
    pub fn new<S: AsRef<[u8]>>(secrets: &[S], accept_signed: bool) -> Result<Self, SecretTooShort> {
        let keys = secrets.iter().map(|secret| Keys::derive(secret.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(SecretTooShort);
        }
        Ok(Self { keys, accept_signed })
    }

    /// A token for `subject`, good until `expires_at_ms`.
    pub fn mint(&self, subject: &Subject, now_ms: u64, expires_at_ms: u64) -> String {
        let (role, sub, uid) = match subject {
            Subject::Connect { session, user } => (Role::Connect, session.to_string(), Some(user.clone())),
            Subject::View { session, user } => (Role::View, session.to_string(), Some(user.clone())),
            Subject::Container(container) => (Role::Container, container.to_string(), None),
            Subject::Launched { container, .. } => (Role::Container, container.to_string(), None),
            Subject::Service => (Role::Service, SERVICE.to_owned(), None),
            Subject::Files { session, user, .. } => (Role::Files, session.to_string(), Some(user.clone())),
            Subject::Object { name, to: Use::Read } => (Role::Read, name.as_str().to_owned(), None),
            Subject::Object { name, to: Use::Write } => (Role::Write, name.as_str().to_owned(), None),
        };
        let max = if let Subject::Launched { max_sessions, .. } = subject { Some(*max_sessions) } else { None };
        let ctx = if let Subject::Files { context, .. } = subject { context.clone() } else { None };
        let claims =
            Claims { role, sub, uid, max, ctx, iat: now_ms / 1_000, exp: expires_at_ms.div_ceil(1_000), nbf: None };
        let keys = &self.keys[0];
        let signed = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &keys.sign)
            .expect("plain claims can be serialized and HMAC takes any key");
        let mut header = JweHeader::new();
        header.set_content_encryption("A256GCM");
        header.set_content_type("JWT");
        header.set_key_id(&keys.id);
        let encrypter = jwe::Dir.encrypter_from_bytes(keys.encrypt).expect("the key has the length of A256GCM's");
        jwe::serialize_compact(signed.as_bytes(), &header, &encrypter).expect("the algorithms are fixed")
    }

    /// Whom the token speaks for.
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Subject, TokenError> {
        self.verify_until(token, now_ms).map(|(subject, _)| subject)
    }

    /// The same, and until when it does, in milliseconds since the Unix epoch.
    pub fn verify_until(&self, token: &str, now_ms: u64) -> Result<(Subject, u64), TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let dots = token.bytes().filter(|b| *b == b'.').count();
        let claims = match dots {
            4 => match our_envelope(token).ok_or(TokenError::Invalid)?.kid {
                Some(id) => self.keys.iter().find(|keys| keys.id == id).ok_or(TokenError::UnknownSecret)?.open(token),
                // Older ones do not say.
                None => self.keys.iter().find_map(|keys| keys.open(token)),
            },
            2 if self.accept_signed => self.keys.iter().find_map(|keys| keys.check(token)),
            _ => None,
        }
        .ok_or(TokenError::Invalid)?;
        if claims.exp.saturating_mul(1_000).saturating_add(CLOCK_SKEW_MS) <= now_ms {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|from| from.saturating_mul(1_000) > now_ms.saturating_add(CLOCK_SKEW_MS)) {
            return Err(TokenError::Invalid);
        }
        let subject = match (claims.role, claims.uid) {
            (Role::Connect, Some(user)) => claims.sub.parse().ok().map(|session| Subject::Connect { session, user }),
            (Role::View, Some(user)) => claims.sub.parse().ok().map(|session| Subject::View { session, user }),
            (Role::Container, None) => claims.sub.parse().ok().map(|container| match claims.max {
                Some(max_sessions) => Subject::Launched { container, max_sessions },
                None => Subject::Container(container),
            }),
            (Role::Service, None) => (claims.sub == SERVICE).then_some(Subject::Service),
            (Role::Read, None) => Some(Subject::Object { name: ObjectName::in_token(claims.sub), to: Use::Read }),
            (Role::Write, None) => Some(Subject::Object { name: ObjectName::in_token(claims.sub), to: Use::Write }),
            (Role::Files, Some(user)) => {
                claims.sub.parse().ok().map(|session| Subject::Files { session, user, context: claims.ctx })
            }
            (Role::Connect | Role::View | Role::Files, None)
            | (Role::Container | Role::Service | Role::Read | Role::Write, Some(_)) => None,
        };
        Ok((subject.ok_or(TokenError::Invalid)?, claims.exp.saturating_mul(1_000)))
    }
}

/// Exactly what we mint: our algorithms, nothing that would make the reader do more (compression, keys
/// from the header), no encrypted key, and an IV and a tag of full length. The library hands OpenSSL a tag
/// of whatever length it finds, and OpenSSL compares no more than it is given: one byte would do.
fn our_envelope(token: &str) -> Option<Envelope> {
    let parts: Vec<&str> = token.split('.').collect();
    let &[header, "", iv, _, tag] = parts.as_slice() else { return None };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let envelope: Envelope = serde_json::from_slice(&decode(header)?).ok()?;
    let ours = envelope.alg == "dir" && envelope.enc == "A256GCM" && envelope.cty == "JWT";
    let whole = decode(iv)?.len() == 12 && decode(tag)?.len() == 16;
    (ours && whole).then_some(envelope)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    alg: String,
    enc: String,
    cty: String,
    kid: Option<String>,
}

impl Keys {
    fn derive(secret: &[u8]) -> Result<Self, SecretTooShort> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(SecretTooShort);
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"wallcrawler tokens");
        let base = salt.extract(secret);
        let expand = |purpose: &[u8]| -> [u8; 32] {
            let mut key = [0u8; 32];
            base.expand(&[purpose], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut key))
                .expect("one hash's length can always be expanded");
            key
        };
        let sign = expand(b"sign HS256");
        Ok(Self {
            id: hex::encode(&expand(b"key id")[..8]),
            sign: EncodingKey::from_secret(&sign),
            verify: DecodingKey::from_secret(&sign),
            encrypt: expand(b"encrypt A256GCM"),
        })
    }

    fn open(&self, token: &str) -> Option<Claims> {
        let decrypter = jwe::Dir.decrypter_from_bytes(self.encrypt).ok()?;
        let (signed, _) = jwe::deserialize_compact(token, &decrypter).ok()?;
        self.check(std::str::from_utf8(&signed).ok()?)
    }

    fn check(&self, signed: &str) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::HS256);
        // Compared with the caller's `now`, not with the library's.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Claims>(signed, &self.verify, &validation).ok().map(|data| data.claims)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::aead;
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const NOW: u64 = 1_767_225_600_000;

    fn subject() -> Subject {
        Subject::Connect { session: SessionId::random(), user: "user_1".parse().expect("an id") }
    }

    /// A token made by hand by somebody who has the keys, with whatever `header` says of it.
    fn seal(keys: &Keys, header: &str, payload: &[u8]) -> String {
        let protected = URL_SAFE_NO_PAD.encode(header);
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &keys.encrypt).expect("a key"));
        let (iv, mut text) = ([7; 12], payload.to_vec());
        let nonce = aead::Nonce::assume_unique_for_key(iv);
        let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(protected.as_bytes()), &mut text);
        let [iv, text, tag] = [&iv[..], &text, tag.expect("sealed").as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{protected}..{iv}.{text}.{tag}")
    }

    /// The same without encryption, signed by `algorithm`.
    fn sign(key: &EncodingKey, algorithm: Algorithm, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("signed")
    }

    #[test]
    fn a_token_speaks_for_its_subject_until_it_expires() {
        let tokens = Tokens::new(&[SECRET], false).expect("long enough");
        let view = Subject::View { session: SessionId::random(), user: "user_1".parse().expect("an id") };
        let launched = Subject::Launched { container: ContainerId::random(), max_sessions: 20 };
        for subject in
            [subject(), view, Subject::Container("my-laptop".parse().expect("an id")), launched, Subject::Service]
        {
            let token = tokens.mint(&subject, NOW, NOW + 60_000);
            assert_eq!(tokens.verify(&token, NOW), Ok(subject.clone()));
            assert_eq!(tokens.verify(&token, NOW + 60_000 + CLOCK_SKEW_MS - 1), Ok(subject));
            assert_eq!(tokens.verify(&token, NOW + 60_000 + CLOCK_SKEW_MS), Err(TokenError::Expired));
            // It travels in a URL of at most 4,096 characters.
            assert!(token.len() < 700, "{}", token.len());
        }
    }

    #[test]
    fn a_token_that_was_touched_anywhere_is_refused() {
        let tokens = Tokens::new(&[SECRET], false).expect("long enough");
        let token = tokens.mint(&subject(), NOW, NOW + 60_000);
        for at in 0..token.len() {
            let mut touched = token.clone().into_bytes();
            touched[at] = if touched[at] == b'A' { b'B' } else { b'A' };
            let touched = String::from_utf8(touched).expect("ascii");
            // It may then say that it is of another secret.
            let refused = matches!(tokens.verify(&touched, NOW), Err(TokenError::Invalid | TokenError::UnknownSecret));
            assert!(refused, "at {at}");
        }
        for cut in 0..token.len() {
            assert_eq!(tokens.verify(&token[..cut], NOW), Err(TokenError::Invalid), "cut at {cut}");
        }
        assert_eq!(tokens.verify(&"a".repeat(100_000), NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn only_encrypted_tokens_of_a_known_secret_are_accepted_unless_configured_otherwise() {
        let tokens = Tokens::new(&[SECRET], false).expect("long enough");
        let other = Tokens::new(&["another secret of thirty-two bytes"], false).expect("long enough");
        let token = other.mint(&subject(), NOW, NOW + 60_000);
        assert_eq!(tokens.verify(&token, NOW), Err(TokenError::UnknownSecret));
        let both = Tokens::new(&[SECRET, "another secret of thirty-two bytes"], false).expect("long enough");
        assert!(both.verify(&token, NOW).is_ok());

        let claims =
            serde_json::json!({"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": 1, "exp": 9_999_999_999u64});
        let plain =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &tokens.keys[0].sign).expect("signed");
        assert_eq!(tokens.verify(&plain, NOW), Err(TokenError::Invalid));
        let lenient = Tokens::new(&[SECRET], true).expect("long enough");
        assert!(lenient.verify(&plain, NOW).is_ok());
        let unsigned =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), plain.split('.').nth(1).expect("claims"));
        assert_eq!(lenient.verify(&unsigned, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn a_replaced_secret_mints_no_more_and_what_it_minted_stays_good() {
        const NEXT: &str = "another secret of thirty-two bytes";
        let before = Tokens::new(&[SECRET], false).expect("long enough");
        let after = Tokens::new(&[NEXT, SECRET], false).expect("long enough");
        let (old, new) = (before.mint(&subject(), NOW, NOW + 60_000), after.mint(&subject(), NOW, NOW + 60_000));
        assert!(after.verify(&old, NOW).is_ok() && after.verify(&new, NOW).is_ok());
        assert_eq!(before.verify(&new, NOW), Err(TokenError::UnknownSecret));
        let kid = |token: &str| our_envelope(token).and_then(|envelope| envelope.kid).expect("it says");
        assert_ne!(kid(&old), kid(&new));
        assert_eq!(kid(&before.mint(&subject(), NOW, NOW)), kid(&old));
        assert!(!kid(&old).contains(&SECRET[..4]) && kid(&old).len() == 16);
        // As they were before they said which secret they are of.
        let keys = &before.keys[0];
        let claims = json!({"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": 1, "exp": NOW});
        let signed = sign(&keys.sign, Algorithm::HS256, &claims);
        let unnamed = seal(keys, r#"{"alg":"dir","enc":"A256GCM","cty":"JWT"}"#, signed.as_bytes());
        assert!(before.verify(&unnamed, NOW).is_ok() && after.verify(&unnamed, NOW).is_ok());
        let other = Tokens::new(&[NEXT], false).expect("long enough");
        assert_eq!(other.verify(&unnamed, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn a_secret_is_a_text_or_a_field_of_json() {
        for text in [SECRET.to_owned(), format!(" {SECRET}\n"), format!("{{\"JWE_SECRET\": \"{SECRET}\", \"x\": 1}}")] {
            assert_eq!(secret_in(&text).expect("a secret"), SECRET);
        }
        let generated = "{V]7Rw&~2(9sKq+b4Zx:Yh%Lc=Tn0gJd";
        assert_eq!(secret_in(generated).expect("a secret"), generated);
        for (text, fault) in [
            ("hunter2", "JWE_SECRET must be at least 32 bytes long"),
            (r#"{"JWE_SECRET": "hunter2"}"#, "JWE_SECRET must be at least 32 bytes long"),
            (r#"{"secret": "hunter2hunter2hunter2hunter2hunter2"}"#, "it is JSON, in which JWE_SECRET must be a text"),
            (r#"{"JWE_SECRET": 12345678901234567890123456789012}"#, "it is JSON, in which JWE_SECRET must be a text"),
        ] {
            assert_eq!(secret_in(text).expect_err("a fault").to_string(), fault);
        }
    }

    #[test]
    fn a_token_of_another_making_is_refused_even_from_somebody_who_has_the_keys() {
        let tokens = Tokens::new(&[SECRET], false).expect("long enough");
        let keys = &tokens.keys[0];
        let claims = json!({"role": "connect", "sub": "ses_1", "uid": "user_1", "iat": 1, "exp": NOW});
        let signed = sign(&keys.sign, Algorithm::HS256, &claims);
        let with = |says: &str| format!(r#"{{"alg":"dir","enc":"A256GCM","cty":"JWT"{says}}}"#);
        let header = with("");
        let verify = |token: &str| tokens.verify(token, NOW);
        assert!(verify(&seal(keys, &header, signed.as_bytes())).is_ok(), "as it should be");
        assert!(verify(&seal(keys, &with(&format!(r#","kid":"{}""#, keys.id)), signed.as_bytes())).is_ok());

        // What the header says.
        for header in [
            with(r#","zip":"DEF""#),
            with(r#","zip":null"#),
            with(r#","crit":["exp"]"#),
            with(r#","typ":"JWT""#),
            with(r#","alg":"dir""#),
            with(r#","kid":7"#),
            with(r#","jwk":{}"#),
            with(r#","p2c":1000000000"#),
            header.replace("dir", "none"),
            header.replace("dir", "A256KW"),
            header.replace("dir", "PBES2-HS256+A128KW"),
            header.replace("dir", "DIR"),
            header.replace("A256GCM", "A128GCM"),
            header.replace("A256GCM", "A256CBC-HS512"),
            header.replace(r#","cty":"JWT""#, ""),
            format!("{header} x"),
            String::new(),
            "[".repeat(1_000),
        ] {
            assert_eq!(verify(&seal(keys, &header, signed.as_bytes())), Err(TokenError::Invalid), "{header}");
        }

        // What is in the envelope.
        let part = |part: &str| URL_SAFE_NO_PAD.encode(part);
        let [_, body, mac] = signed.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
        let none = part(r#"{"alg":"none"}"#);
        for inner in [
            format!("{none}.{body}."),
            format!("{none}.{body}.{mac}"),
            format!("{}.{body}.{mac}", part(r#"{"alg":"RS256"}"#)),
            sign(&keys.sign, Algorithm::HS512, &claims),
            sign(&EncodingKey::from_secret(&keys.encrypt), Algorithm::HS256, &claims),
            sign(&EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256, &claims),
            seal(keys, &header, signed.as_bytes()),
            claims.to_string(),
            String::new(),
            "\u{0}".repeat(300),
        ] {
            assert_eq!(verify(&seal(keys, &header, inner.as_bytes())), Err(TokenError::Invalid), "{inner}");
        }

        // What it claims.
        for (claim, value) in [
            ("role", json!("operator")),
            ("role", json!(null)),
            ("role", json!("container")),
            ("sub", json!("ctr-a")),
            ("sub", json!("ses_{a}:b")),
            ("sub", json!(["ses_1"])),
            ("uid", json!("../user")),
            ("uid", json!(null)),
            ("exp", json!("2030-01-01")),
            ("exp", json!(-1)),
            ("exp", json!(1.5e12)),
            ("exp", json!(null)),
        ] {
            let mut claims = claims.clone();
            claims[claim] = value;
            let inner = sign(&keys.sign, Algorithm::HS256, &claims);
            assert_eq!(verify(&seal(keys, &header, inner.as_bytes())), Err(TokenError::Invalid), "{claims}");
        }
        let mut container = json!({"role": "container", "sub": "ctr-a", "iat": 1, "exp": NOW});
        let sealed = |claims: &Value| seal(keys, &header, sign(&keys.sign, Algorithm::HS256, claims).as_bytes());
        assert!(verify(&sealed(&container)).is_ok());
        container["uid"] = json!("user_1");
        assert_eq!(verify(&sealed(&container)), Err(TokenError::Invalid));

        // How large it is: nothing of it is looked at.
        let mut large = claims.clone();
        large["sub"] = json!(format!("ses_{}", "1".repeat(2_000)));
        assert_eq!(verify(&sealed(&large)), Err(TokenError::Invalid));
        let nested = format!("{}{}", "e30.".repeat(4), "A".repeat(1_000_000));
        assert_eq!(verify(&nested), Err(TokenError::Invalid));
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(Tokens::new(&["0123456789abcdef0123456789abcde"], false).is_err());
        assert!(Tokens::new::<&str>(&[], false).is_err());
    }
}
