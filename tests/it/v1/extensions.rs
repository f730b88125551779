//! Extensions, as they are uploaded.

use std::fs::{File, read_dir};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use axum::http::StatusCode;
use serde_json::{Value, json};
use wallcrawler::clock::{now_ms, parse_rfc3339};
use wallcrawler::extension;
use wallcrawler::fleet::none::NoFleet;
use wallcrawler::ids::ArchiveHash;

use crate::archives::{extension, zip};
use crate::audit::Contents;
use crate::round_trips::cost;
use crate::world::{Answer, Plane, World, config_at};

const DAY_MS: u64 = 86_400_000;

/// A form, part by part: name, file name and content.
pub fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file_name, content) in parts {
        let file_name = file_name.map(|name| format!("; filename=\"{name}\"")).unwrap_or_default();
        let head = format!("--of-the-test\r\ncontent-disposition: form-data; name=\"{name}\"{file_name}\r\n\r\n");
        body.extend([head.as_bytes(), content, b"\r\n"].concat());
    }
    body.extend(b"--of-the-test--\r\n");
    body
}

async fn send(world: &World, key: &str, body: Vec<u8>) -> Answer {
    let client = world.client(key).with("content-type", "multipart/form-data; boundary=of-the-test");
    client.send("POST", "/v1/extensions", body).await
}

pub async fn upload(world: &World, key: &str, archive: &[u8]) -> Value {
    let answer = send(world, key, form(&[("file", Some("one.zip"), archive)])).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.body
}

/// The files that are kept, of all users.
pub fn files(world: &World) -> Vec<PathBuf> {
    let entries = |dir: PathBuf| read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(world.redis.dir.join("files/extensions")).flat_map(entries).flat_map(entries).collect()
}

fn archives(world: &World) -> Vec<PathBuf> {
    files(world).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "zip")).collect()
}

/// Taken out: the owner in the record's name, so that the other user found it.
#[tokio::test]
async fn an_extension_is_uploaded_looked_up_and_deleted_by_its_owner_alone() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let made = upload(&world, "key-one", &extension("One")).await;
    for field in ["id", "createdAt", "updatedAt", "fileName", "projectId"] {
        assert!(made[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {made}");
    }
    assert_eq!(made.as_object().map(serde_json::Map::len), Some(5));
    assert_eq!(made["fileName"], "one.zip");
    assert!(made["createdAt"].as_str().and_then(parse_rfc3339).is_some(), "{made}");
    let path = format!("/v1/extensions/{}", made["id"].as_str().expect("an id"));
    assert_eq!(client.get(&path).await.body, made);

    let other = world.client("key-two");
    for answer in [
        other.get(&path).await,
        other.delete(&path).await,
        client.get("/v1/extensions/ext_00000000000000000000000000").await,
        client.get("/v1/extensions/one").await,
        client.delete("/v1/extensions/ext_..%2f..%2fx").await,
    ] {
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_FOUND, &json!("extension_not_found")));
    }
    for (status, code) in [(StatusCode::NO_CONTENT, Value::Null), (StatusCode::NOT_FOUND, json!("extension_not_found"))]
    {
        let answer = client.delete(&path).await;
        assert_eq!((answer.status, &answer.body["code"]), (status, &code), "{answer:?}");
    }
    assert_eq!(client.get(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.client("no key").get(&path).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(client.get("/v1/extensions").await.status, StatusCode::METHOD_NOT_ALLOWED, "there is no list");
}

/// Taken out: the look at whether the archive is there already.
#[tokio::test]
async fn the_same_archive_is_stored_once_and_outlives_the_deletion_of_one_upload() {
    let world = World::new(&[]).await;
    let (one, two) = (extension("One"), extension("Two"));
    let first = upload(&world, "key-one", &one).await;
    let [archive] = &archives(&world)[..] else { panic!("one archive: {:?}", files(&world)) };
    let hour_ago = UNIX_EPOCH + Duration::from_millis(now_ms() - 3_600_000);
    let written = || archive.metadata().and_then(|file| file.modified()).expect("there");
    File::options().write(true).open(archive).and_then(|file| file.set_modified(hour_ago)).expect("set");

    let second = upload(&world, "key-one", &one).await;
    assert_ne!(first["id"], second["id"]);
    assert_eq!((archives(&world).len(), written()), (1, hour_ago), "it was stored again");
    upload(&world, "key-one", &two).await;
    upload(&world, "key-two", &one).await;
    assert_eq!((archives(&world).len(), files(&world).len()), (3, 7));

    let path = |made: &Value| format!("/v1/extensions/{}", made["id"].as_str().expect("an id"));
    assert_eq!(world.client("key-one").delete(&path(&first)).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.client("key-one").get(&path(&second)).await.body, second);
    assert_eq!((archives(&world).len(), files(&world).len()), (3, 6));

    // One that would be forgotten before those who upload it now are done with it.
    let long_ago = hour_ago - Duration::from_millis(DAY_MS);
    File::options().write(true).open(archive).and_then(|file| file.set_modified(long_ago)).expect("set");
    upload(&world, "key-one", &one).await;
    assert!(written() > hour_ago, "it was not stored again");
}

/// Taken out: that an old record is as good as none.
#[tokio::test]
async fn an_extension_is_gone_before_its_archive_is_forgotten() {
    let world = World::new(&[]).await;
    let (storage, owner) = (&world.app.storage, "user:u1".parse().expect("an owner"));
    let now_ms = now_ms();
    let made = extension::add(storage, &owner, "one.zip".into(), "x".into(), now_ms).await.expect("added");
    let found = async |days| extension::find(storage, &owner, &made.id, now_ms + days * DAY_MS).await.expect("asked");
    assert_eq!(found(87).await.as_ref(), Some(&made));
    assert_eq!(found(88).await, None);
    assert!(!extension::remove(storage, &owner, &made.id, now_ms + 88 * DAY_MS).await.expect("asked"));
    const { assert!(extension::KEPT_MS == 90 * DAY_MS) };
}

/// Taken out: the check of the archive; that a second part is refused; that a file has a name.
#[tokio::test]
async fn what_is_no_extension_names_what_is_wrong_and_leaves_nothing() {
    let world = World::new(&[]).await;
    let good = extension("One");
    let file = |content: &[u8]| form(&[("file", Some("one.zip"), content)]);
    let cut = |body: Vec<u8>| body[..body.len() - 20].to_vec();
    for (body, message) in [
        (form(&[]), "file: is missing"),
        (form(&[("archive", Some("one.zip"), &good)]), "archive: is not expected: send one part, file"),
        (form(&[("", Some("one.zip"), &good)]), "file: send one part"),
        (form(&[("file", None, &good)]), "file: must have a file name"),
        (form(&[("file", Some(""), &good)]), "file: must have a file name"),
        (form(&[("file", Some(&"x".repeat(300)), &good)]), "file: must have a file name"),
        (form(&[("file", Some("one.zip"), &good), ("note", None, b"x")]), "note: is not expected"),
        (form(&[("file", Some("one.zip"), &good), ("file", Some("two.zip"), &good)]), "file: must be there once"),
        (cut(file(&good)), "file: the form that it is sent in cannot be read"),
        (Vec::new(), "file: the form that it is sent in cannot be read"),
        (file(b""), "file: must be a zip archive"),
        (file(b"hunter2"), "file: must be a zip archive"),
        (file(b"Cr24..."), "file: is a packed .crx"),
        (file(&good[..good.len() - 10]), "file: is no zip archive that can be read"),
        (file(&zip(&[("worker.js", "1")])), "file: has no manifest.json"),
        (file(&zip(&[("manifest.json", "hunter2")])), "file: has a manifest.json that is not"),
        (file(&zip(&[("manifest.json", "{}"), ("../hunter2", "x")])), "file: has an entry (number 1) whose path"),
    ] {
        let answer = send(&world, "key-one", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{message}: {answer:?}");
        let said = answer.body["message"].as_str().expect("a message");
        assert!(said.starts_with(message) && !said.contains("hunter2"), "{said}, not {message}");
    }
    for of_type in ["application/json", "multipart/form-data", "multipart/form-data; boundary=\u{e9}", "\u{e9}"] {
        let client = world.client("key-one").with("content-type", of_type);
        let answer = client.send("POST", "/v1/extensions", file(&good)).await;
        assert_eq!(answer.body["message"], "file: send it as a part of multipart/form-data", "{of_type}");
    }
    for length in [16 * 1024 * 1024 + 1, 17 * 1024 * 1024] {
        let answer = send(&world, "key-one", file(&vec![0; length])).await;
        assert_eq!((answer.status, &answer.body["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large")));
        assert_eq!(answer.body["message"], "file: must be at most 16777216 bytes");
    }
    assert_eq!(send(&world, "no key", file(&good)).await.status, StatusCode::UNAUTHORIZED);
    assert!(files(&world).is_empty(), "{:?}", files(&world));
}

#[tokio::test]
async fn without_a_place_for_files_there_are_no_extensions_and_nobody_asks_again() {
    let world = World::new(&[("STORAGE_DIR", "")]).await;
    let answer = send(&world, "key-one", form(&[("file", Some("one.zip"), &extension("One"))])).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_IMPLEMENTED, &json!("not_available")));
    assert_eq!(answer.headers["x-should-retry"], "false");
    assert!(answer.body["message"].as_str().expect("a message").contains("STORAGE_BUCKET"));
}

fn body(id: &Value) -> [(&'static str, Value); 4] {
    let settings = json!({"browserSettings": {"extensionId": id}});
    [
        ("/v1/sessions", json!({"extensionId": id})),
        ("/v1/sessions", settings.clone()),
        ("/v1/sessions/start", json!({"browserbaseSessionCreateParams": {"extensionId": id, "browserSettings": {}}})),
        ("/sessions", settings),
    ]
}

/// Taken out: that the archive is known from the create on, so that the deletion took it away.
#[tokio::test]
async fn a_session_has_the_archive_of_its_extension_by_whatever_door_and_keeps_it() {
    let world = World::new(&[]).await;
    let (client, redis) = (world.client("key-one"), world.redis.client().await);
    let archive = extension("One");
    let made = upload(&world, "key-one", &archive).await;
    client.create().await;
    for (path, body) in body(&made["id"]) {
        let (trips, answer) = cost(&redis, client.post(path, &body)).await;
        assert!(answer.status.is_success(), "{path} {body}: {answer:?}");
        assert_eq!(trips, 1, "{path} {body}");
    }
    let path = format!("/v1/extensions/{}", made["id"].as_str().expect("an id"));
    assert_eq!(client.delete(&path).await.status, StatusCode::NO_CONTENT);

    let claim = world.container("ctr-a").claim("ctr-a", 20, &[]).await;
    let sessions = claim["sessions"].as_array().expect("sessions");
    assert_eq!(sessions.len(), 5);
    assert_eq!(sessions[0].get("extension"), None, "nobody asked for one");
    for session in &sessions[1..] {
        assert_eq!(session["browserSettings"]["extensionId"], made["id"]);
        assert_eq!(session["extension"]["sha256"], ArchiveHash::of(&archive).as_str());
        let url = session["extension"]["url"].as_str().expect("an address");
        // Where this plane would have its containers ask.
        let path = url.strip_prefix("http://127.0.0.1:1").expect("the API's endpoint");
        assert_eq!(world.client("").raw("GET", path, "").await.bytes, archive);
    }
    Contents::read(&redis).await.check();
}

/// Taken out: the owner in the lookup; that two names must be the same.
#[tokio::test]
async fn an_extension_that_is_not_there_or_not_ones_own_names_the_field_and_makes_no_session() {
    let world = World::new(&[]).await;
    let client = world.client("key-one");
    let theirs = upload(&world, "key-two", &extension("One")).await["id"].take();
    let mine = upload(&world, "key-one", &extension("One")).await["id"].take();
    for id in [&theirs, &json!("ext_00000000000000000000000000"), &json!("hunter2"), &json!("../hunter2")] {
        for (path, body) in body(id) {
            let answer = client.post(path, &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {body}: {answer:?}");
            assert_eq!(answer.body["code"], "extension_not_found");
            assert_eq!(answer.body["message"], "extensionId: must be of an extension of yours");
        }
    }
    for (body, message) in [
        (json!({"extensionId": mine, "browserSettings": {"extensionId": "ext_1"}}), "extensionId: must be the same"),
        (json!({"extensionId": 1}), "extensionId: invalid type"),
        (json!({"browserSettings": {"extensionId": 1}}), "browserSettings.extensionId must be the id"),
        (
            json!({"extensionId": mine, "browserSettings": {"browser": "headless-shell"}}),
            "browserSettings.browser must be \"chromium\"",
        ),
    ] {
        let answer = client.post("/v1/sessions", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {answer:?}");
        assert!(answer.body["message"].as_str().expect("a message").starts_with(message), "{body}: {answer:?}");
    }
    assert_eq!(client.get("/v1/sessions").await.body, json!([]));
    for body in [
        json!({"extensionId": mine, "browserSettings": {"extensionId": mine}}),
        json!({"extensionId": mine, "browserSettings": {"extensionId": "", "browser": "chromium"}}),
    ] {
        assert_eq!(client.post("/v1/sessions", &body).await.status, StatusCode::CREATED, "{body}");
    }
}

/// Taken out: that a claim goes on without an address, so that the container got no work at all.
#[tokio::test]
async fn a_server_without_the_files_hands_out_what_it_can() {
    let world = World::new(&[]).await;
    let made = upload(&world, "key-one", &extension("One")).await;
    let client = world.client("key-one");
    client.post("/v1/sessions", &json!({"extensionId": made["id"]})).await;
    client.create().await;
    let redis = world.redis.url();
    let without = Plane::on(&redis, config_at(&redis, &[]), Box::new(NoFleet)).await;
    let answer = without.client("key-one").post("/v1/sessions", &json!({"extensionId": made["id"]})).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::NOT_IMPLEMENTED, &json!("not_available")));
    let claim = without.container("ctr-a").claim("ctr-a", 20, &[]).await;
    assert_eq!(claim["sessions"].as_array().map(Vec::len), Some(2));
    assert_eq!(claim["sessions"][0]["extension"], json!({"sha256": ArchiveHash::of(&extension("One"))}));
}
