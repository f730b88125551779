//! What every door that creates sessions has in common: the bounds of what is kept, when a create is a repeated one,
//! and what a refusal is answered with.

use aws_lc_rs::digest;
use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::app::App;
use crate::browser_settings::{self, BrowserSettings, ContextSetting};
use crate::clock::now_ms;
use crate::contexts;
use crate::error::ApiError;
use crate::extension;
use crate::hex;
use crate::ids::ArchiveHash;
use crate::lifecycle;
use crate::protocol::ProxyCredentials;
use crate::session::{NewSession, Session};
use crate::store::{self, Allowance, Idempotency, Limits, Whose};

/// As JSON, in bytes.
const MAX_USER_METADATA: usize = 4_096;
const MAX_BROWSER_SETTINGS: usize = 65_536;
/// When nothing better is known: how long until a full queue or a full account may have room again.
const FULL_RETRY_MS: u64 = 5_000;
/// However fast or slowly the queue moves.
const RETRY_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;

/// A refusal, with headers that say what is left of a limit.
pub struct Refused(HeaderMap, ApiError);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(HeaderMap::new(), error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

/// 201, with headers that say what is left of a limit.
pub struct Created<T>(pub HeaderMap, pub T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, self.0, Json(self.1)).into_response()
    }
}

fn json_size(object: &Map<String, Value>) -> usize {
    serde_json::to_vec(object).map_or(usize::MAX, |json| json.len())
}

/// Checked, and without what is ours to answer with: it comes back from clients that send what they once received. What
/// is secret comes apart from what is not.
pub fn browser_settings(
    mut settings: Map<String, Value>,
) -> Result<(Map<String, Value>, Option<ProxyCredentials>), ApiError> {
    settings.remove("cdpUrl");
    settings.remove("token");
    if json_size(&settings) > MAX_BROWSER_SETTINGS {
        return Err(ApiError::invalid(format!(
            "browserSettings: must be at most {MAX_BROWSER_SETTINGS} bytes of JSON"
        )));
    }
    let parsed = BrowserSettings::parse(&settings).map_err(|error| ApiError::invalid(error.message))?;
    browser_settings::remove_secrets(&mut settings);
    Ok((settings, parsed.proxy_credentials))
}

pub fn user_metadata(metadata: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    if json_size(&metadata) > MAX_USER_METADATA {
        return Err(ApiError::invalid(format!("userMetadata: must be at most {MAX_USER_METADATA} bytes of JSON")));
    }
    Ok(metadata)
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The header `Idempotency-Key` and the body, both hashed: neither belongs into Redis as it is.
pub fn idempotency(headers: &HeaderMap, body: &[u8]) -> Result<Option<Idempotency>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > 255 {
        return Err(ApiError::invalid("Idempotency-Key: must have 1 to 255 characters"));
    }
    Ok(Some(Idempotency::Key { key: hash(key), body: hash(body) }))
}

/// The attempt of a client that sends no key and counts its attempts in `x-stainless-retry-count`, from 0.
pub fn attempt(headers: &HeaderMap, body: &[u8]) -> Option<Idempotency> {
    let attempt = headers.get("x-stainless-retry-count")?.to_str().ok()?.parse::<u32>().ok()?;
    Some(Idempotency::Attempt { body: hash(body), attempt: attempt.into() })
}

/// What is left of a limit: how often it may be, how often still, and in how many seconds as often as ever.
fn rate_headers(allowance: &Allowance) -> HeaderMap {
    let values = [allowance.limit, allowance.left, allowance.whole_in_ms.div_ceil(1_000)];
    let named = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(HeaderName::from_static);
    named.into_iter().zip(values.map(HeaderValue::from)).collect()
}

/// The archive of the extension that the settings name, if they name one. Whoever is told 404 would look for the route.
async fn extension_of(app: &App, new: &NewSession) -> Result<Option<ArchiveHash>, ApiError> {
    let id = new.browser_settings.get("extensionId").and_then(Value::as_str).filter(|id| !id.is_empty());
    let Some(id) = id else { return Ok(None) };
    let found = match id.parse() {
        Ok(id) => extension::find(&app.storage, &new.owner(), &id, now_ms()).await?,
        Err(_) => None,
    };
    let unknown = || {
        ApiError::new(StatusCode::BAD_REQUEST, "extension_not_found", "extensionId: must be of an extension of yours")
    };
    found.map(|extension| Some(extension.archive)).ok_or_else(unknown)
}

/// Whether the context that the settings name, if they name one, is there.
async fn check_context(app: &App, new: &NewSession) -> Result<(), ApiError> {
    let Some(context) = ContextSetting::of(&new.browser_settings) else { return Ok(()) };
    let found = contexts::find(app, &new.owner(), &context.id).await?;
    let message = "browserSettings.context.id: must be of a context of yours";
    found.map(drop).ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "context_not_found", message))
}

/// A new session, or the one that was created by the same request before, with what is left of the creates that are
/// limited.
pub async fn create(
    app: &App,
    mut new: NewSession,
    idempotency: Option<&Idempotency>,
    limits: &Limits,
) -> Result<(HeaderMap, Session), Refused> {
    let (context, extension) = tokio::join!(check_context(app, &new), extension_of(app, &new));
    let mut missing = context.and(extension).map(|archive| new.extension = archive).err();
    if let Some(error) = missing.take_if(|_| idempotency.is_none()) {
        return Err(error.into());
    }
    // It may have gone since the same request made a session, which is the answer to it for as long as it is known. A new one
    // it does not get: for that there is no room.
    let no_room = missing.as_ref().map(|_| Limits { max_pending: 0, ..limits.clone() });
    let limits = no_room.as_ref().unwrap_or(limits);
    let created = lifecycle::create(app, &new, idempotency, limits).await.map_err(ApiError::from)?;
    if let (store::Created::QueueFull(_), Some(missing)) = (&created, missing) {
        return Err(missing.into());
    }
    let error = match created {
        store::Created::New { session, allowance, .. } => {
            return Ok((allowance.as_ref().map(rate_headers).unwrap_or_default(), session));
        }
        store::Created::Again(session) => return Ok((HeaderMap::new(), session)),
        store::Created::TooFast { whose, allowance, retry_ms } => {
            let (code, who) = match whose {
                Whose::User => ("create_rate_limit", "you"),
                Whose::Project => ("project_create_rate_limit", "the keys of your project together"),
            };
            let message = format!("{who} may create {} sessions in a minute", allowance.limit);
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, message);
            return Err(Refused(rate_headers(&allowance), error.retry_after_ms(retry_ms)));
        }
        store::Created::Conflict => ApiError::new(
            StatusCode::CONFLICT,
            "idempotency_conflict",
            "Idempotency-Key: was used with another body within the last 24 hours",
        )
        .not_to_be_retried(),
        store::Created::Forgotten => ApiError::new(
            StatusCode::CONFLICT,
            "idempotency_forgotten",
            "Idempotency-Key: made a session that has ended and is no longer kept",
        )
        .not_to_be_retried(),
        store::Created::QueueFull(outlook) => {
            let error = ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "queue_full",
                "all browsers are taken, and the queue is full",
            );
            let wait_ms = outlook.wait_ms(1, &app.policy, now_ms());
            error.retry_after_ms(wait_ms.map_or(FULL_RETRY_MS, |ms| ms.clamp(*RETRY_MS.start(), *RETRY_MS.end())))
        }
        store::Created::Full(whose) => {
            let (code, most, who) = match whose {
                Whose::User => ("session_limit", limits.max_per_user, "you have"),
                Whose::Project => ("project_session_limit", limits.max_per_project, "your project has"),
            };
            let message = format!("{who} {most} sessions, which is the limit: end one, or wait until one ends");
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, message);
            let rate = rate_headers(&Allowance { limit: most, left: 0, whole_in_ms: FULL_RETRY_MS });
            return Err(Refused(rate, error.retry_after_ms(FULL_RETRY_MS)));
        }
    };
    Err(error.into())
}
