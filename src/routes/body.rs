//! Reading what a request carries: sizes first, then JSON, with every mistake told by the field's name.

use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::ApiError;
use crate::ids::{ConnectionId, ContextId, ExtensionId, SessionId};

/// The largest body a request may have.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long it may take to come: a slow line's 50 KB/s, and not a byte now and then.
const BODY_DEADLINE: Duration = Duration::from_secs(20);

/// A JSON body. An empty one is an empty object: some clients declare JSON and send nothing. Fields
/// nobody here knows are tolerated.
pub struct JsonBody<T> {
    pub value: T,
    pub bytes: Bytes,
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("the body is larger than {most} bytes"))
}

pub async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    read_at_most(headers, body, MAX_BODY_BYTES, BODY_DEADLINE).await
}

/// The same with other bounds.
pub async fn read_at_most(headers: &HeaderMap, body: Body, most: usize, deadline: Duration) -> Result<Bytes, ApiError> {
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > most) {
        return Err(too_large(most));
    }
    match tokio::time::timeout(deadline, Limited::new(body, most).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(most)),
        Ok(Err(_)) => Err(ApiError::invalid("the body could not be read to its end")),
        Err(_) => {
            let message = format!("the body did not come within {} seconds", deadline.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message))
        }
    }
}

/// The JSON in a body that was read.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { bytes };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            // Only what was expected: what was sent may be a secret in the wrong place.
            let at = if path == "." { "the body".to_owned() } else { path };
            ApiError::invalid(format!("{at}: {}", without_value(&inner.to_string())))
        } else if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
            // The library takes a number where a word should be for a mistake of writing.
            ApiError::invalid(format!("{path}: is not of the right type"))
        } else {
            ApiError::invalid(format!("the body is not valid JSON (line {}, column {})", inner.line(), inner.column()))
        }
    })?;
    deserializer.end().map_err(|_| ApiError::invalid("the body has more after its JSON"))?;
    Ok(value)
}

/// `invalid type: string "abc", expected u32 at line 1 column 9` -> `invalid type: string, expected a whole
/// number, not negative`.
fn without_value(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    // A field's name is no value.
    if message.starts_with("missing field ") {
        return message.to_owned();
    }
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return message.split('`').next().unwrap_or(message).trim_end().to_owned();
    };
    let found: String = found.split(['"', '`']).next().unwrap_or(found).trim_end().to_owned();
    let expected = match expected {
        "f64" => "a number",
        "u32" | "u64" => "a whole number, not negative",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

macro_rules! id_in_path {
    ($(#[$doc:meta])* $name:ident, $id:ty, $otherwise:path) => {
        $(#[$doc])*
        pub struct $name(pub $id);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
                id_in_path(parts, state).await.map(Self).ok_or_else($otherwise)
            }
        }
    };
}

id_in_path!(
    /// The session a path names. What cannot be an id is no session.
    SessionPath, SessionId, ApiError::session_not_found
);
id_in_path!(
    /// The gateway's connection a path names. What cannot be an id is no connection.
    ConnectionPath, ConnectionId, ApiError::connection_gone
);
id_in_path!(
    /// The context a path names. What cannot be an id is no context.
    ContextPath, ContextId, ApiError::context_not_found
);
id_in_path!(
    /// The extension a path names. What cannot be an id is no extension.
    ExtensionPath, ExtensionId, ApiError::extension_not_found
);

/// The project a path names.
pub struct ProjectPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for ProjectPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // What is no text is no name.
        let Path(name) = Path::from_request_parts(parts, state).await.map_err(|_| ApiError::project_not_found())?;
        Ok(Self(name))
    }
}

async fn id_in_path<S: Send + Sync, T: FromStr>(parts: &mut Parts, state: &S) -> Option<T> {
    let Path(id) = Path::<String>::from_request_parts(parts, state).await.ok()?;
    id.parse().ok()
}

/// The query, with mistakes told by name.
pub struct QueryOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let message = rejection.body_text();
                let message = message.strip_prefix("Failed to deserialize query string: ").unwrap_or(&message);
                Err(ApiError::invalid(without_value(message)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    #[serde(rename_all = "camelCase")]
    struct Sample {
        max_sessions: Option<u32>,
        id: Option<SessionId>,
        word: Option<Word>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Yes,
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_a_byte_now_and_then_is_not_waited_for() {
        let drip = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        let began = tokio::time::Instant::now();
        let error = read(&HeaderMap::new(), Body::from_stream(drip)).await.expect_err("never whole");
        assert_eq!((error.status, error.code), (StatusCode::REQUEST_TIMEOUT, "body_too_slow"));
        assert_eq!(began.elapsed(), BODY_DEADLINE);
    }

    #[test]
    fn mistakes_name_the_field_and_never_repeat_the_value() {
        for (body, message) in [
            (
                r#"{"maxSessions": "hunter2"}"#,
                "maxSessions: invalid type: string, expected a whole number, not negative",
            ),
            (r#"{"maxSessions": -1}"#, "maxSessions: invalid value: integer, expected a whole number, not negative"),
            (
                r#"{"maxSessions": 1.5}"#,
                "maxSessions: invalid type: floating point, expected a whole number, not negative",
            ),
            (r#"{"id": "hunter2"}"#, "id: not a valid session id"),
            (r#"["hunter2"]"#, "the body: invalid type: string, expected a whole number, not negative"),
            (r#"{"word": "hunter2"}"#, "word: unknown variant, expected `yes`"),
            (r#"{"word": 1}"#, "word: is not of the right type"),
            (r#"{"maxSessions": 1"#, "the body is not valid JSON (line 1, column 17)"),
            (r#"{} {}"#, "the body has more after its JSON"),
        ] {
            let error = parse::<Sample>(body.as_bytes()).expect_err(body);
            assert!(!error.message.contains("hunter2"), "{}", error.message);
            if !body.starts_with('[') {
                assert_eq!(error.message, message);
            }
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
        assert!(parse::<Sample>(b" \n").expect("empty is an object").max_sessions.is_none());
    }
}
