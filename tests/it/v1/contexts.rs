//! Contexts, as clients of the Browserbase API make them, and as containers are told of them.

use std::fs::DirEntry;

use axum::http::StatusCode;
use futures_util::future::join_all;
use serde_json::{Value, json};
use wallcrawler::contexts;

use super::id;
use crate::world::World;

async fn context(world: &World, key: &'static str, name: Option<&str>) -> Value {
    let answer = world.client(key).post("/v1/contexts", &json!({"projectId": "any", "name": name})).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.body
}

#[tokio::test]
async fn a_context_is_made_looked_up_and_deleted() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let made = context(&world, "key-one", Some("  The shop ")).await;
    for field in ["id", "uploadUrl", "publicKey", "cipherAlgorithm"] {
        assert!(made[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {made}");
    }
    assert_eq!(made["initializationVectorSize"], 16);
    let path = format!("/v1/contexts/{}", id(&made));
    let found = client.get(&path).await;
    assert_eq!((found.status, &found.body["name"]), (StatusCode::OK, &json!("The shop")), "{found:?}");
    assert_eq!(found.body["createdAt"], found.body["updatedAt"]);
    // As older clients ask for it, with nothing in the body.
    let updated = client.with("content-type", "application/json").send("PUT", &path, "").await;
    assert_eq!((updated.status, id(&updated.body)), (StatusCode::OK, id(&made)));
    let upload = world.client("key-one").send("PUT", &format!("{path}/upload"), "content").await;
    assert_eq!((upload.status, &upload.body["code"]), (StatusCode::NOT_IMPLEMENTED, &json!("not_available")));
    let client = world.client("key-one");
    assert_eq!(client.delete(&path).await.status, StatusCode::NO_CONTENT);
    for answer in [client.delete(&path).await, client.get(&path).await, client.send("PUT", &path, "").await] {
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("context_not_found")));
    }
    let files = std::fs::read_dir(world.redis.dir.join("files")).expect("a directory").count();
    assert_eq!(files, 0, "something of it is left");
}

/// What is kept of the contexts of the only user.
fn kept(world: &World) -> Vec<DirEntry> {
    let owners = world.redis.dir.join("files/contexts/user");
    let owner = std::fs::read_dir(owners).expect("there").flatten().next().expect("one").path();
    std::fs::read_dir(owner).expect("there").flatten().collect()
}

/// Taken out: that the name is taken in one step; that the record is there before; that it goes again with the name.
#[tokio::test]
async fn a_name_is_had_by_one_context_whatever_races() {
    let world = World::new(&[]).await;
    for round in 0..40 {
        let name = json!({"name": format!("of round {round}")});
        let all = join_all((0..8).map(|_| {
            let client = world.client("key-one");
            let name = &name;
            async move { client.post("/v1/contexts", name).await.status }
        }))
        .await;
        let made = all.iter().filter(|status| **status == StatusCode::CREATED).count();
        assert_eq!((made, kept(&world).len()), (1, 2 * (round + 1)), "a record and a name for each");
    }
    let all = join_all((0..20).map(|number| {
        let name = if number % 2 == 0 { "Shop" } else { "sHOP" };
        let world = &world;
        async move { world.client("key-one").post("/v1/contexts", &json!({"name": name})).await }
    }))
    .await;
    let (made, refused): (Vec<_>, Vec<_>) = all.iter().partition(|answer| answer.status == StatusCode::CREATED);
    assert_eq!(made.len(), 1, "{all:?}");
    for answer in refused {
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::CONFLICT, &json!("context_name_taken")));
        assert_eq!(answer.headers["x-should-retry"], "false");
    }
    context(&world, "key-two", Some("shop")).await;
    for answer in made {
        world.client("key-one").delete(&format!("/v1/contexts/{}", id(&answer.body))).await;
    }
    context(&world, "key-one", Some("shop")).await;
}

/// Taken out: the look at whose name it is.
#[tokio::test]
async fn who_goes_on_deleting_a_context_takes_its_name_from_no_other() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let first = context(&world, "key-one", Some("shop")).await;
    // As if whoever deleted it had been interrupted after its name.
    let is_name = |file: &DirEntry| file.file_name().to_string_lossy().starts_with("name-");
    let name = kept(&world).into_iter().find(is_name).expect("its name");
    std::fs::remove_file(name.path()).expect("removed");
    context(&world, "key-one", Some("shop")).await;
    assert_eq!(client.delete(&format!("/v1/contexts/{}", id(&first))).await.status, StatusCode::NO_CONTENT);
    let third = client.post("/v1/contexts", &json!({"name": "shop"})).await;
    assert_eq!((third.status, &third.body["code"]), (StatusCode::CONFLICT, &json!("context_name_taken")));
}

#[tokio::test]
async fn a_name_is_a_name() {
    let world = World::new(&[]).await;
    for (name, field) in
        [(json!(""), "name"), (json!("  "), "name"), (json!("x".repeat(129)), "name"), (json!(1), "name")]
    {
        let answer = world.client("key-one").post("/v1/contexts", &json!({"name": name})).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(answer.body["message"].as_str().expect("a message").starts_with(field), "{answer:?}");
    }
}

/// Taken out: that the owner is part of the name under which a context is kept.
#[tokio::test]
async fn nobody_gets_at_anothers_context() {
    let world = World::new(&[]).await;
    let path = format!("/v1/contexts/{}", id(&context(&world, "key-one", None).await));
    let other = world.client("key-two");
    for answer in [other.get(&path).await, other.send("PUT", &path, "").await, other.delete(&path).await] {
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("context_not_found")));
    }
    let body = json!({"browserSettings": {"context": {"id": path.trim_start_matches("/v1/contexts/")}}});
    for route in ["/sessions", "/v1/sessions"] {
        let answer = other.post(route, &body).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::BAD_REQUEST, &json!("context_not_found")));
        let message = answer.body["message"].as_str().expect("a message");
        assert!(message.starts_with("browserSettings.context.id"), "{message}");
    }
    assert_eq!(world.client("key-one").get(&path).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_container_is_told_where_the_context_of_a_session_is() {
    let world = World::new(&[]).await;
    let made = context(&world, "key-one", None).await;
    let settings = json!({"browserSettings": {"context": {"id": id(&made), "persist": true}}});
    let session = world.client("key-one").post("/v1/sessions", &settings).await;
    assert_eq!((session.status, &session.body["contextId"]), (StatusCode::CREATED, &made["id"]), "{session:?}");
    world.client("key-one").post("/v1/sessions", &json!({})).await;
    let claim = world.container("ctr-a").claim("ctr-a", 2, &[]).await;
    let (with, without) = (&claim["sessions"][0], &claim["sessions"][1]);
    assert_eq!(without["context"], Value::Null);
    assert_eq!(with["context"]["persist"], true, "{claim}");
    let url = with["context"]["url"].as_str().expect("an address");
    let path = url.strip_prefix("http://127.0.0.1:1").expect("as containers reach it");
    assert_eq!(world.client("").get(path).await.body["code"], "object_not_found", "nothing was written to it yet");
    let owner = format!("user:{}", with["userId"].as_str().expect("a user")).parse().expect("an owner");
    let profile = contexts::profile(&owner, &id(&made).parse().expect("an id"));
    world.app.storage.put(&profile, "the profile".into()).await.expect("put");
    assert_eq!(&world.client("").raw("GET", path, "").await.bytes[..], b"the profile");
}

/// Taken out: that the request is looked for before it is refused; that nothing is created then.
#[tokio::test]
async fn a_create_that_is_repeated_after_its_context_was_deleted_is_answered_as_before() {
    let world = World::new(&[]).await;
    let made = context(&world, "key-one", None).await;
    let body = json!({"browserSettings": {"context": {"id": id(&made)}}});
    let keyed = async |key| world.client("key-one").with("idempotency-key", key).post("/v1/sessions", &body).await;
    let first = keyed("order-17").await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    world.client("key-one").delete(&format!("/v1/contexts/{}", id(&made))).await;
    let again = keyed("order-17").await;
    assert_eq!((again.status, id(&again.body)), (StatusCode::CREATED, id(&first.body)), "{again:?}");
    for refused in [keyed("order-18").await, world.client("key-one").post("/v1/sessions", &body).await] {
        assert_eq!((refused.status, &refused.body["code"]), (StatusCode::BAD_REQUEST, &json!("context_not_found")));
    }
    let sessions = world.client("key-one").get("/v1/sessions").await;
    assert_eq!(sessions.body.as_array().map(Vec::len), Some(1), "{sessions:?}");
}
