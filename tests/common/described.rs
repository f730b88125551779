//! Whether an answer is as `GET /openapi.json` describes it: its status, its headers, its content type, its body, and
//! nothing in the body that is not described.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use axum::http::{HeaderMap, StatusCode};
use jsonschema::Validator;
use serde_json::{Map, Value, json};
use wallcrawler::routes::openapi::description;

pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(description()).expect("the description is JSON"));

/// A route that a test adds.
const OF_A_TEST: &str = "/operators-only";
/// What is answered where there is no such route, or before there is a route at all. `not_available` is, whatever the
/// method.
const NO_ROUTE: [&str; 5] =
    ["route_not_found", "method_not_allowed", "host_not_served", "origin_not_served", "not_available"];

pub fn check(method: &str, path: &str, status: StatusCode, headers: &HeaderMap, body: &Value) -> Result<(), String> {
    // One at a time, so that the test which waits for the answers has a processor for itself.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // A browser's question whether a page may ask, and its answer, are told by CORS.
    if method == "OPTIONS" && status == StatusCode::NO_CONTENT && headers.contains_key("access-control-allow-methods") {
        return Ok(());
    }
    let is_head = method == "HEAD";
    let method = if is_head { "get".to_owned() } else { method.to_lowercase() };
    let Some((template, operation)) = find(&method, path) else {
        let code = body["code"].as_str().unwrap_or_default();
        let anywhere = find("get", path).or_else(|| find("post", path));
        if anywhere.is_some_and(|(_, operation)| operation["tags"][0] == "Not available") {
            return Ok(());
        }
        let told = NO_ROUTE.contains(&code) || is_head || path == OF_A_TEST;
        return if told { Ok(()) } else { Err("it is not described at all".to_owned()) };
    };
    let response = resolve(&operation["responses"][status.as_str()]);
    // A HEAD of a WebSocket is a GET to the router, and no upgrade.
    if is_head && status == StatusCode::METHOD_NOT_ALLOWED {
        return Ok(());
    }
    if response.is_null() {
        return Err(format!("status {status} is not described"));
    }
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let header = resolve(header);
        let sent = headers.get(name.as_str());
        if header["required"] == true && sent.is_none() {
            return Err(format!("the header {name} is missing"));
        }
    }
    let Some((kind, content)) = response["content"].as_object().and_then(|kinds| kinds.iter().next()) else {
        return if body.is_null() { Ok(()) } else { Err("no body is described".to_owned()) };
    };
    let sent = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind != "*/*" && !sent.starts_with(kind.as_str()) {
        return Err(format!("{sent:?} is not {kind}"));
    }
    if is_head || kind != "application/json" {
        return Ok(());
    }
    let name = format!("{method} {template} {status}");
    if !is_worth_it(&name) {
        return Ok(());
    }
    let validator = validator(&name, &content["schema"]);
    let differences: Vec<String> =
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
}

/// The operation that a path is of: what is written out goes before what can be anything.
pub fn find(method: &str, path: &str) -> Option<(&'static str, &'static Value)> {
    let parts: Vec<&str> = path.split('/').collect();
    let paths = DOCUMENT["paths"].as_object().expect("paths").iter();
    let fits = paths.filter_map(|(template, item)| Some((template.as_str(), item, distance(template, &parts)?)));
    let (template, item, _) = fits.min_by_key(|(_, _, open)| *open)?;
    Some((template, item.get(method)?))
}

/// How many parts of a template can be anything, if the path is of it.
fn distance(template: &str, parts: &[&str]) -> Option<usize> {
    // The rest of the path, whatever it is: OpenAPI has no way to say so.
    const RESTS: [&str; 3] = ["{command}", "{file}", "{rest}"];
    let wanted: Vec<&str> = template.split('/').collect();
    let takes_rest = wanted.last().is_some_and(|last| RESTS.contains(last));
    if parts.len() < wanted.len() || (parts.len() > wanted.len() && !takes_rest) {
        return None;
    }
    let mut open = 0;
    for (wanted, part) in wanted.iter().zip(parts) {
        match wanted.starts_with('{') {
            // A rest may begin with a slash, and the router takes a part before it that is empty, too.
            true if part.is_empty() && !takes_rest => return None,
            true => open += 1,
            false if wanted == part => {}
            false => return None,
        }
    }
    Some(open)
}

/// What a reference leads to.
pub fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).expect("what is referred to is there"),
        None => value,
    }
}

/// The bodies of hundreds of the same kind differ little, and looking at each takes milliseconds that tests with a deadline
/// do not have: the first fifty, and then one in ten.
fn is_worth_it(name: &str) -> bool {
    static COUNTS: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);
    let mut counts = COUNTS.lock().expect("not poisoned");
    let count = counts.entry(name.to_owned()).or_default();
    *count += 1;
    *count <= 50 || count.is_multiple_of(10)
}

fn validator(name: &str, schema: &Value) -> Arc<Validator> {
    static KNOWN: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().expect("not poisoned");
    known.entry(name.to_owned()).or_insert_with(|| Arc::new(strict(schema))).clone()
}

/// A validator that takes no field that is not described.
pub fn strict(schema: &Value) -> Validator {
    static SCHEMAS: LazyLock<Value> = LazyLock::new(|| {
        let mut schemas = DOCUMENT["components"]["schemas"].clone();
        close(&mut schemas);
        schemas
    });
    let mut schema = schema.clone();
    close(&mut schema);
    let whole = json!({ "allOf": [schema], "components": { "schemas": *SCHEMAS } });
    jsonschema::options().should_validate_formats(true).build(&whole).expect("the schema is valid")
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let is_object =
                |fields: &Map<String, Value>| fields["type"] == "object" && fields.contains_key("properties");
            if fields.contains_key("type") && is_object(fields) {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}
