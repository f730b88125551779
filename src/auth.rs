//! Who is calling: a client by its API key, or a container by its token.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, request};

use crate::app::App;
use crate::clock::now_ms;
use crate::error::ApiError;
use crate::ids::{ContainerId, UserId};
use crate::tokens::{Subject, TokenError};

/// A client with a valid API key.
#[derive(Debug, Clone)]
pub struct Caller {
    pub user: UserId,
}

/// A container with a valid token.
#[derive(Debug, Clone)]
pub struct ContainerCaller {
    pub container: ContainerId,
}

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
            TokenError::Invalid => "invalid_token",
            TokenError::Expired => "token_expired",
        };
        ApiError::unauthorized(code, error.to_string())
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, app: &App) -> Result<Self, ApiError> {
        let Some(key) = api_key(&parts.headers) else {
            return Err(ApiError::unauthorized(
                "missing_api_key",
                "send an API key as x-api-key, or as Authorization: Bearer",
            ));
        };
        match app.api_keys.user(key) {
            Some(user) => Ok(Caller { user }),
            None => Err(ApiError::unauthorized("invalid_api_key", "the API key is not valid")),
        }
    }
}

impl FromRequestParts<App> for ContainerCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, app: &App) -> Result<Self, ApiError> {
        let Some(token) = bearer(&parts.headers) else {
            return Err(ApiError::unauthorized("missing_token", "send the container's token as Authorization: Bearer"));
        };
        match app.tokens.verify(token, now_ms())? {
            Subject::Container(container) => Ok(ContainerCaller { container }),
            Subject::Connect { .. } => Err(ApiError::unauthorized("invalid_token", TokenError::Invalid.to_string())),
        }
    }
}
