//! The refusals and the headers that operations have in common, as the description names them.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use schemars::Schema;
use serde_json::{Map, Value, json};

/// While the development key is accepted: what was not meant for this machine, and what comes from another's page.
pub const ANYWHERE: [u16; 2] = [403, 421];

/// What an answer to a create says beside the session.
pub const CREATING: [&str; 4] = ["x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

/// `NotFound`, of 404.
pub fn name(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.unwrap_or("Error").chars().filter(char::is_ascii_alphanumeric).collect()
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "Something in the request is wrong, and `message` names it.",
        401 => "There is no key or token, or it is not valid, or no longer.",
        403 => {
            "The key or token is valid, and does not open this. Also, while the development key is accepted, to pages of other machines."
        }
        404 => "There is none, or it is somebody else's.",
        408 => "The body did not come in time.",
        409 => "It cannot be done as things are: `code` and `message` say how they are.",
        410 => "It has ended.",
        413 => "The body, or a part of it, is too large.",
        421 => "While the development key is accepted: the `Host` is not this machine.",
        426 => "This is a WebSocket, and the request is no upgrade to one.",
        429 => "A limit is reached: `code` says which.",
        501 => "It is not available here, and asking again will not help.",
        503 => "Something that this needs is away, or full, or about to end.",
        504 => "The session's browser was not ready in time. The session still waits for it.",
        _ => "It is refused.",
    }
}

/// References to headers by their names.
pub fn headers(names: &[&str]) -> Value {
    let all: Map<String, Value> = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") })))
        .collect();
    all.into()
}

pub fn components(statuses: &BTreeSet<u16>, body: &Schema) -> Map<String, Value> {
    statuses
        .iter()
        .map(|status| {
            let mut names = vec!["x-request-id"];
            match status {
                429 => names.extend(["retry-after", "retry-after-ms", CREATING[1], CREATING[2], CREATING[3]]),
                503 | 504 => names.extend(["retry-after", "retry-after-ms"]),
                409 => names.extend(["retry-after", "retry-after-ms", "x-should-retry"]),
                501 => names.push("x-should-retry"),
                _ => {}
            }
            let mut headers = headers(&names);
            // Whether it makes sense to wait depends on what is in the way.
            if matches!(status, 429 | 503) {
                for name in ["retry-after", "retry-after-ms"] {
                    headers[name] = header(name, true);
                }
            }
            let response = json!({
                "description": meaning(*status),
                "headers": headers,
                "content": { "application/json": { "schema": body } },
            });
            (name(*status), response)
        })
        .collect()
}

pub fn header_components() -> Map<String, Value> {
    ["x-request-id", "x-should-retry", "retry-after", "retry-after-ms"]
        .into_iter()
        .chain(CREATING.into_iter().skip(1))
        .map(|name| (name.to_owned(), header(name, name == "x-request-id")))
        .collect()
}

fn header(name: &str, required: bool) -> Value {
    let (description, schema) = match name {
        "x-request-id" => {
            ("Under which the request stands in the log: yours, if you sent one.", json!({ "type": "string" }))
        }
        "x-should-retry" => ("`false`: the answer will be the same.", json!({ "const": "false" })),
        "retry-after" => ("Seconds until it makes sense to ask again.", json!({ "type": "integer", "minimum": 0 })),
        "retry-after-ms" => ("The same in milliseconds.", json!({ "type": "integer", "minimum": 0 })),
        "x-ratelimit-limit" => (
            "How many sessions may be created in a minute, or be there at once.",
            json!({ "type": "integer", "minimum": 0 }),
        ),
        "x-ratelimit-remaining" => ("How many still may.", json!({ "type": "integer", "minimum": 0 })),
        _ => ("Seconds until as many may as ever.", json!({ "type": "integer", "minimum": 0 })),
    };
    json!({ "description": description, "required": required, "schema": schema })
}
