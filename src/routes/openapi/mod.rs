//! `GET /openapi.json`: the description of the API, made of the routing table, of what its handlers take and give back,
//! and of the examples beside this file.

pub mod draft;
mod refusals;
pub mod signature;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::table::Row;
use crate::error::ErrorBody;
use draft::{Draft, Schemas};

const ABOUT: &str = "Fresh, isolated Chromium sessions for browser agents. A create answers at once, with a `connectUrl` \
that can be opened at once: it is held until the session's browser answers.\n\n\
Every refusal has the same body, `Error`. Fields nobody here knows are tolerated in what is sent; a field without a value \
is left out of what is answered. An empty body is an empty object.\n\n\
WebSockets, live view and metrics are answered where `connectUrl` leads: a function holds no sockets.";

/// By the names of the operations.
const EXAMPLES: &str = include_str!("examples.json");

/// Made when it is asked for the first time.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| document(&super::table().into_rows()).to_string());

/// The description, as it is answered.
pub fn description() -> &'static str {
    &DOCUMENT
}

/// `GET /openapi.json`
pub async fn show_description() -> Response {
    let kind: (HeaderName, HeaderValue) = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([kind], description()).into_response()
}

fn document(rows: &[Row]) -> Value {
    let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
    let (mut schemas, mut statuses, mut names) = (Schemas::default(), BTreeSet::new(), BTreeSet::new());
    let mut paths = Map::new();
    let mut tags: Vec<Value> = Vec::new();
    for Row { path, part, operation } in rows {
        let path = path.replace("{*", "{");
        let mut draft = Draft::new(&mut schemas, &path);
        operation.parts.iter().for_each(|describe| describe(&mut draft));
        let name = unique(operation_name(operation.handler, operation.method, &path), &mut names);
        let mut described = json!({ "tags": [part], "operationId": name, "summary": operation.summary });
        if let Value::Object(described) = &mut described {
            described.extend(draft.into_operation(&examples[&name], &mut statuses));
        }
        paths.entry(path).or_insert_with(|| json!({}))[operation.method] = described;
        let tag = json!({ "name": part });
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let error = schemas.answered::<ErrorBody>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "WallCrawler",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "securitySchemes": security_schemes(),
            "parameters": { "IdempotencyKey": {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The same key with the same body within 24 hours gives the same session again.",
                "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
            } },
            "headers": refusals::header_components(),
            "responses": refusals::components(&statuses, &error),
            "schemas": schemas.into_components(),
        },
    })
}

/// `listSessions`, and `v1ListSessions` where the clients of Browserbase ask; of the method and the path, where the
/// handler has no name.
fn operation_name(handler: &str, method: &str, path: &str) -> String {
    let own = handler.rsplit("::").next().filter(|name| !name.contains('{')).map(str::to_owned);
    let words = own.unwrap_or_else(|| format!("{method}{}", path.replace(['/', '{', '}', '-'], "_")));
    let prefix = if handler.contains("::v1::") && !words.contains("v1") { "v1_" } else { "" };
    let mut name = String::new();
    for word in format!("{prefix}{words}").split('_').filter(|word| !word.is_empty()) {
        let (first, rest) = word.split_at(1);
        name.push_str(&if name.is_empty() { first.to_owned() } else { first.to_uppercase() });
        name.push_str(rest);
    }
    name
}

/// The same handler may be at two paths.
fn unique(name: String, names: &mut BTreeSet<String>) -> String {
    let mut candidate = name.clone();
    for count in 2.. {
        if names.insert(candidate.clone()) {
            break;
        }
        candidate = format!("{name}{count}");
    }
    candidate
}

fn security_schemes() -> Value {
    let in_header =
        |name: &str| json!({ "type": "apiKey", "in": "header", "name": name, "description": "An API key." });
    let bearer = |description: &str| json!({ "type": "http", "scheme": "bearer", "description": description });
    json!({
        "apiKey": in_header("x-api-key"),
        "browserbaseApiKey": in_header("x-bb-api-key"),
        "bearerApiKey": bearer("An API key."),
        "sessionToken": {
            "type": "apiKey", "in": "query", "name": "token",
            "description": "The token of a session (`token`, and in its `connectUrl`), or of its live view.",
        },
        "sessionBearer": bearer("The token of a session, or of its live view."),
        "containerToken": bearer("The token of one container: it reaches only the sessions that it holds."),
        "filesToken": bearer("The token that a claim hands out with a session, for what that one leaves."),
        "serviceToken": bearer("The token of all containers that a service of ECS runs."),
    })
}
