//! Who is calling: a client or an operator by an API key, or a container by its token.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode, request};

use crate::api_keys::{ApiKey, ProjectLimits, Role};
use crate::app::App;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::ids::{ContainerId, ContextId, Owner, ProjectId, SessionId, UserId};
use crate::secrets::Unavailable;
use crate::store::Limits;
use crate::tokens::{Subject, TokenError};

/// How soon secrets that could not be read are tried again.
const SECRETS_RETRY_MS: u64 = 1_000;

/// A client with a valid API key.
#[derive(Debug, Clone)]
pub struct Caller {
    pub user: UserId,
    pub project: Option<ProjectId>,
    pub max_sessions: Option<u64>,
    pub creates_per_minute: Option<u64>,
    pub project_limits: ProjectLimits,
}

impl Caller {
    /// Whose sessions it opens.
    pub fn owner(&self) -> Owner {
        Owner::of(&self.user, self.project.as_ref())
    }

    /// What holds for this client, where `general` holds for all.
    pub fn limits(&self, general: &Limits) -> Limits {
        Limits {
            max_per_user: self.max_sessions.unwrap_or(general.max_per_user),
            creates_per_minute: self.creates_per_minute.unwrap_or(general.creates_per_minute),
            max_per_project: self.project_limits.max_sessions.unwrap_or(general.max_per_project),
            project_creates_per_minute: self
                .project_limits
                .creates_per_minute
                .unwrap_or(general.project_creates_per_minute),
            ..general.clone()
        }
    }
}

/// Somebody with a valid API key who may see what concerns all users.
#[derive(Debug, Clone)]
pub struct Operator {
    pub user: UserId,
    /// What the key is called.
    pub name: Option<String>,
}

/// A container with a valid token.
#[derive(Debug, Clone)]
pub struct ContainerCaller {
    pub container: ContainerId,
    /// For how many sessions it was launched. `None`: somebody has started it by hand, and it says that itself.
    pub launched_for: Option<u32>,
}

/// Whoever may store what a session leaves.
#[derive(Debug, Clone)]
pub struct FilesCaller {
    pub session: SessionId,
    pub owner: Owner,
    pub context: Option<ContextId>,
}

/// A container that has only the token of its service, which is the same for all of them.
#[derive(Debug, Clone, Copy)]
pub struct ServiceCaller;

/// The token after `Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// The API key, in any of the places clients put it.
fn api_key(headers: &HeaderMap) -> Option<&str> {
    ["x-api-key", "x-bb-api-key"]
        .into_iter()
        .find_map(|name| headers.get(name)?.to_str().ok().map(str::trim).filter(|key| !key.is_empty()))
        .or_else(|| bearer(headers))
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Invalid | TokenError::UnknownSecret => "invalid_token",
            TokenError::Expired => "token_expired",
        };
        ApiError::unauthorized(code, error.to_string())
    }
}

impl From<Unavailable> for ApiError {
    fn from(error: Unavailable) -> Self {
        let message = "a secret that this needs cannot be read";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "secrets_unavailable", message)
            .retry_after_ms(SECRETS_RETRY_MS)
            .caused_by(error)
    }
}

/// Whom a token speaks for.
pub async fn verify_token(app: &App, token: &str) -> Result<Subject, ApiError> {
    verify_token_until(app, token).await.map(|(subject, _)| subject)
}

/// The same, and until when it does, in milliseconds since the Unix epoch.
pub async fn verify_token_until(app: &App, token: &str) -> Result<(Subject, u64), ApiError> {
    let now_ms = now_ms();
    let tokens = app.tokens.get(now_ms).await?;
    let verified = match tokens.verify_until(token, now_ms) {
        Err(TokenError::UnknownSecret) => match app.tokens.newer(&tokens, now_ms).await {
            Some(tokens) => tokens.verify_until(token, now_ms),
            None => Err(TokenError::UnknownSecret),
        },
        verified => verified,
    };
    Ok(verified?)
}

/// Whom the token in `Authorization` speaks for. `otherwise`: what is said if there is none.
async fn token_of(parts: &request::Parts, app: &App, otherwise: &str) -> Result<Subject, ApiError> {
    match bearer(&parts.headers) {
        Some(token) => verify_token(app, token).await,
        None => Err(ApiError::unauthorized("missing_token", otherwise)),
    }
}

/// What is known of an API key, if it is one.
async fn find_key(app: &App, key: &str) -> Result<Option<ApiKey>, ApiError> {
    let now_ms = now_ms();
    // Whoever has a key wants a token next. Where neither is known yet they are read at the same time; if that one
    // cannot be, it is told when it is needed.
    let (keys, _) = futures_util::join!(app.api_keys.get(now_ms), app.tokens.get(now_ms));
    let keys = keys?;
    if let Some(known) = keys.find(key) {
        return Ok(Some(known.clone()));
    }
    Ok(app.api_keys.newer(&keys, now_ms).await.and_then(|keys| keys.find(key).cloned()))
}

/// The key a request carries, if it is one and opens what `role` may.
async fn authenticate(headers: &HeaderMap, app: &App, role: Role) -> Result<ApiKey, ApiError> {
    let Some(key) = api_key(headers) else {
        return Err(ApiError::unauthorized(
            "missing_api_key",
            "send an API key as x-api-key, or as Authorization: Bearer",
        ));
    };
    let Some(key) = find_key(app, key).await? else {
        return Err(ApiError::unauthorized("invalid_api_key", "the API key is not valid"));
    };
    if key.expires_at_ms.is_some_and(|at| at <= now_ms()) {
        return Err(ApiError::unauthorized("api_key_expired", "the API key has expired"));
    }
    if !key.roles.contains(&role) {
        let (code, message) = match role {
            Role::Client => ("client_required", "this API key is an operator's and opens no sessions"),
            Role::Operator => ("operator_required", "this needs the API key of an operator"),
        };
        return Err(ApiError::new(StatusCode::FORBIDDEN, code, message));
    }
    Ok(key)
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, app: &App) -> Result<Self, ApiError> {
        let ApiKey { user, project, max_sessions, creates_per_minute, project_limits, .. } =
            authenticate(&parts.headers, app, Role::Client).await?;
        Ok(Self { user, project, max_sessions, creates_per_minute, project_limits })
    }
}

impl FromRequestParts<App> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, app: &App) -> Result<Self, ApiError> {
        let ApiKey { user, name, .. } = authenticate(&parts.headers, app, Role::Operator).await?;
        Ok(Self { user, name })
    }
}

impl FromRequestParts<App> for ContainerCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, app: &App) -> Result<Self, ApiError> {
        match token_of(parts, app, "send the container's token as Authorization: Bearer").await? {
            Subject::Container(container) => Ok(ContainerCaller { container, launched_for: None }),
            Subject::Launched { container, max_sessions } => {
                Ok(ContainerCaller { container, launched_for: Some(max_sessions) })
            }
            _ => Err(TokenError::Invalid.into()),
        }
    }
}

impl FromRequestParts<App> for FilesCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, app: &App) -> Result<Self, ApiError> {
        match token_of(parts, app, "send the session's files token as Authorization: Bearer").await? {
            Subject::Files { session, owner, context } => Ok(Self { session, owner, context }),
            _ => Err(TokenError::Invalid.into()),
        }
    }
}

impl FromRequestParts<App> for ServiceCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, app: &App) -> Result<Self, ApiError> {
        match token_of(parts, app, "send the service's token as Authorization: Bearer").await? {
            Subject::Service => Ok(ServiceCaller),
            _ => Err(TokenError::Invalid.into()),
        }
    }
}
