//! Tokens: who may connect to which session, and which container may ask for work.
//!
//! A token is a JWT signed with HS256, encrypted as a JWE (`dir`, `A256GCM`), so that its holder can
//! neither read nor change it. Both keys are derived by HKDF from one secret, and so is the id (`kid`) by which a
//! token says which secret it was made from: the secret can be replaced, and tokens of the one before it stay good.
//! A token also says which deployment it is for (`aud`), so that those of one that has the same secret open nothing here.
//! Tokens are good until they expire, as often as they are shown: some clients open a second socket from inside
//! the browser.

use std::fmt;

use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use josekit::jwe::{self, JweHeader};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::hex;
use crate::ids::{Audience, ContainerId, ContextId, Owner, SessionId, UserId};
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
    Files { session: SessionId, owner: Owner, context: Option<ContextId> },
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
    /// A text; a list is none of ours, whatever is in it, and so is `null`.
    #[serde(default, deserialize_with = "given")]
    aud: Option<String>,
    role: Role,
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<UserId>,
    /// The most sessions of a container that was launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<u32>,
    /// Whose a file is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own: Option<Owner>,
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

fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    String::deserialize(value).map(Some)
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

/// What tokens are for where nothing else was said.
const DEFAULT_AUDIENCE: &str = "wallcrawler";

/// Mints and checks tokens. The first secret mints; all of them are accepted.
pub struct Tokens {
    keys: Vec<Keys>,
    accept_signed: bool,
    audience: Option<Audience>,
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
        Ok(Self { keys, accept_signed, audience: None })
    }

    /// Those of one deployment of several that have the same secret. A token that does not say what it is for is taken
    /// only where this was never said: it is older, or of a client that makes its own, and some are good for a year.
    pub fn with_audience(self, audience: Option<Audience>) -> Self {
        Self { audience, ..self }
    }

    fn audience(&self) -> &str {
        self.audience.as_ref().map_or(DEFAULT_AUDIENCE, Audience::as_str)
    }

    /// A token for `subject`, good until `expires_at_ms`.
    pub fn mint(&self, subject: &Subject, now_ms: u64, expires_at_ms: u64) -> String {
        let (role, sub, uid) = match subject {
            Subject::Connect { session, user } => (Role::Connect, session.to_string(), Some(user.clone())),
            Subject::View { session, user } => (Role::View, session.to_string(), Some(user.clone())),
            Subject::Container(container) => (Role::Container, container.to_string(), None),
            Subject::Launched { container, .. } => (Role::Container, container.to_string(), None),
            Subject::Service => (Role::Service, SERVICE.to_owned(), None),
            Subject::Files { session, .. } => (Role::Files, session.to_string(), None),
            Subject::Object { name, to: Use::Read } => (Role::Read, name.as_str().to_owned(), None),
            Subject::Object { name, to: Use::Write } => (Role::Write, name.as_str().to_owned(), None),
        };
        let max = if let Subject::Launched { max_sessions, .. } = subject { Some(*max_sessions) } else { None };
        let (own, ctx) = match subject {
            Subject::Files { owner, context, .. } => (Some(owner.clone()), context.clone()),
            _ => (None, None),
        };
        let claims = Claims {
            aud: Some(self.audience().to_owned()),
            role,
            sub,
            uid,
            max,
            own,
            ctx,
            iat: now_ms / 1_000,
            exp: expires_at_ms.div_ceil(1_000),
            nbf: None,
        };
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
        if claims.aud.as_deref().map_or(self.audience.is_some(), |audience| audience != self.audience()) {
            return Err(TokenError::Invalid);
        }
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
            (Role::Files, None) => claims.own.and_then(|owner| {
                let session = claims.sub.parse().ok()?;
                Some(Subject::Files { session, owner, context: claims.ctx })
            }),
            (Role::Connect | Role::View, None)
            | (Role::Container | Role::Service | Role::Files | Role::Read | Role::Write, Some(_)) => None,
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
        // By us, and exactly: the library would take a list that has ours among others.
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Claims>(signed, &self.verify, &validation).ok().map(|data| data.claims)
    }
}

#[cfg(test)]
mod tests;
