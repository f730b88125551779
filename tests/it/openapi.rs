//! The description of the API: all that is routed is described, and nothing else. Whether what is answered is as it is
//! described is looked at wherever a test asks for something (`world::described`).

use std::collections::BTreeSet;

use serde_json::Value;

use crate::world::described::{DOCUMENT, strict};
use crate::world::{Caller, World};

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "PATCH"];

fn described() -> impl Iterator<Item = (&'static String, &'static Value)> {
    DOCUMENT["paths"].as_object().expect("paths").iter()
}

/// The paths that a router has, as it shows them itself: whatever was added, by whomever.
fn routed(router: &axum::Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let (own, _) = shown.split_once("fallback_router").expect("axum shows a router's paths");
    let (_, paths) = own.split_once("paths: {").expect("axum shows a router's paths");
    paths.split('"').filter(|text| text.starts_with('/')).map(str::to_owned).collect()
}

/// A path of a template that names nothing in particular.
fn example_of(template: &str) -> String {
    let name = |part: &str| match part {
        "{id}" => "ses_00000000000000000000000000".to_owned(),
        part if part.starts_with('{') => "x".to_owned(),
        part => part.to_owned(),
    };
    template.split('/').map(name).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_path_that_is_routed_is_described_and_no_other() {
    let world = World::new(&[]).await;
    let described: BTreeSet<String> = described().map(|(path, _)| path.clone()).collect();
    let routed: BTreeSet<String> = routed(&world.router).into_iter().map(|path| path.replace("{*", "{")).collect();
    assert_eq!(routed, described);
}

#[tokio::test]
async fn the_methods_of_a_path_are_those_that_are_described() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    for (template, item) in described() {
        for method in METHODS {
            let answer = client.send(method, &example_of(template), "").await;
            let is_described = item.get(method.to_lowercase()).is_some();
            // What is not available says so whatever the method is.
            let is_routed = !matches!(answer.body["code"].as_str(), Some("method_not_allowed" | "not_available"));
            let is_available = item.as_object().expect("methods").values().all(|it| it["tags"][0] != "Not available");
            assert_eq!(is_routed, is_described && is_available, "{method} {template}: {answer:?}");
        }
    }
}

/// The operation of that name: its method, its path, and what is said of it.
fn operation(name: &str) -> (&'static str, &'static str, &'static Value) {
    described()
        .flat_map(|(path, item)| item.as_object().expect("methods").iter().map(move |(method, it)| (method, path, it)))
        .find(|(_, _, operation)| operation["operationId"] == name)
        .map(|(method, path, operation)| (method.as_str(), path.as_str(), operation))
        .unwrap_or_else(|| panic!("no operation is called {name}"))
}

const JSON: &str = "application/json";

fn request_of(name: &str) -> &'static Value {
    &operation(name).2["requestBody"]["content"][JSON]["example"]
}

/// The fields of an answer, those within them, and how each is called in an array.
fn fields(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| fields(value, &format!("{at}.{name}"), into)),
        Value::Array(list) => list.iter().for_each(|value| fields(value, &format!("{at}[]"), into)),
        _ => drop(into.insert(at.to_owned())),
    }
}

#[test]
fn every_example_is_of_an_operation_and_fits_its_schema() {
    let examples: Value = serde_json::from_str(include_str!("../../src/routes/openapi/examples.json")).expect("JSON");
    for (name, example) in examples.as_object().expect("names") {
        let (_, _, operation) = operation(name);
        let answers = operation["responses"].as_object().expect("answers");
        let (_, answer) = answers.iter().find(|(status, _)| status.starts_with('2')).expect("a success");
        for (which, content) in
            [("request", &operation["requestBody"]["content"][JSON]), ("answer", &answer["content"][JSON])]
        {
            let Some(wanted) = example.get(which) else { continue };
            assert_eq!(&content["example"], wanted, "the {which} of {name}");
            if let Err(error) = strict(&content["schema"]).validate(wanted) {
                panic!("the {which} of {name}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn the_examples_are_answered_as_they_say() {
    let world = World::new(&[("AWS_REGION", "us-west-2")]).await;
    let client = world.client("key-one");
    let container = world.container("my-machine");
    let is_as_shown = async |name: &str, caller: &Caller<'_>, path: &str| {
        let (method, _, operation) = operation(name);
        let request = request_of(name);
        let body = if request.is_null() { String::new() } else { request.to_string() };
        let answer = caller.send(&method.to_uppercase(), path, body).await;
        let shown = &operation["responses"][answer.status.as_str()]["content"][JSON]["example"];
        let (mut were, mut are) = (BTreeSet::new(), BTreeSet::new());
        fields(shown, "", &mut were);
        fields(&answer.body, "", &mut are);
        assert_eq!(are, were, "{name}: {answer:?}");
        answer.body
    };
    let id = is_as_shown("createSession", &client, "/sessions").await["id"].as_str().expect("an id").to_owned();
    let claimed = is_as_shown("claimSessions", &container, "/sessions/claim").await;
    assert_eq!(claimed["sessions"][0]["sessionId"], id.as_str());
    is_as_shown("reportReady", &container, &format!("/sessions/{id}/ready")).await;
    is_as_shown("reportEnded", &container, &format!("/sessions/{id}/ended")).await;
    let again = client.post("/sessions", request_of("createSession")).await.body;
    let path = format!("/sessions/{}", again["id"].as_str().expect("an id"));
    is_as_shown("deleteSession", &client, &path).await;
    let id = is_as_shown("v1CreateSession", &client, "/v1/sessions").await["id"].as_str().expect("an id").to_owned();
    is_as_shown("v1UpdateSession", &client, &format!("/v1/sessions/{id}")).await;
    is_as_shown("v1ListProjects", &client, "/v1/projects").await;
    is_as_shown("health", &client, "/health").await;
    is_as_shown("ready", &client, "/ready").await;
}
