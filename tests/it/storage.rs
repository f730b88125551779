//! Files, in a directory and in a bucket, and the addresses at which somebody else reads and writes one of them.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use wallcrawler::clock::now_ms;
use wallcrawler::routes::objects;
use wallcrawler::storage::{Bucket, Kind, ObjectName, Storage, Use};
use wallcrawler::tokens::Subject;

use crate::moto::Moto;
use crate::world::World;

fn name(text: &str) -> ObjectName {
    ObjectName::new(Kind::Extensions, &"user:u1".parse().expect("an owner"), text)
}

#[tokio::test]
async fn a_bucket_keeps_files_and_signs_addresses() {
    let moto = Moto::start().await;
    let access = moto.bucket("wallcrawler-files").await;
    let storage = Storage::Bucket(Bucket::with_access("wallcrawler-files", &access).expect("connected"));
    let (one, other) = (name("ext_1.zip"), name("ext_2.zip"));
    assert_eq!(storage.get(&one).await.expect("asked"), None);
    storage.put(&one, "first".into()).await.expect("put");
    assert_eq!(storage.get(&one).await.expect("asked").as_deref(), Some(&b"first"[..]));
    assert!(storage.has(&one).await.expect("asked") && !storage.has(&other).await.expect("asked"));
    assert!(storage.written_ms(&one).await.expect("asked").is_some_and(|at_ms| now_ms().abs_diff(at_ms) < 60_000));
    assert_eq!(storage.written_ms(&other).await.expect("asked"), None);

    let http = reqwest::Client::new();
    let signed = async |name: &ObjectName, to| {
        let address = storage.address(name, to, Duration::from_secs(60)).await.expect("signed");
        assert_eq!(format!("{address:?}"), "Signed", "an address is shown to nobody");
        let wallcrawler::storage::Address::Signed(url) = address else { panic!("a bucket signs") };
        url
    };
    let url = signed(&one, Use::Read).await;
    for word in ["X-Amz-Signature=", "X-Amz-Expires=60", "extensions/user/u1/ext_1.zip"] {
        assert!(url.contains(word), "{word} is missing in an address");
    }
    let read = http.get(url).send().await.expect("moto answers").bytes().await.expect("a body");
    assert_eq!(read, "first");
    let written = http.put(signed(&other, Use::Write).await).body("second").send().await.expect("moto answers");
    assert!(written.status().is_success(), "{written:?}");
    assert_eq!(storage.get(&other).await.expect("asked").as_deref(), Some(&b"second"[..]));
    for _ in 0..2 {
        storage.delete(&one).await.expect("deleted, or nothing to delete");
    }
    assert!(!storage.has(&one).await.expect("asked"));
}

/// Taken out: that the token's use is compared; that its kind is.
#[tokio::test]
async fn an_address_in_a_directory_is_good_for_one_file_one_use_and_a_while() {
    let world = World::new(&[]).await;
    let now_ms = now_ms();
    let address = async |text: &str, to, until_ms| {
        objects::address(&world.app, "", &name(text), to, until_ms).await.expect("an address")
    };
    let nobody = world.client("");
    let (read, write) = (
        address("ext_1.zip", Use::Read, now_ms + 60_000).await,
        address("ext_1.zip", Use::Write, now_ms + 60_000).await,
    );
    assert_eq!(nobody.get(&read).await.body["code"], "object_not_found");
    assert_eq!(nobody.send("PUT", &write, "content").await.status, StatusCode::OK);
    let answer = nobody.raw("GET", &read, Body::empty()).await;
    assert_eq!((answer.status, &answer.bytes[..]), (StatusCode::OK, &b"content"[..]));
    assert_eq!(answer.headers["content-type"], "application/zip");
    assert_eq!(answer.headers["content-length"], "7");

    let late = address("ext_1.zip", Use::Read, now_ms - 60_000).await;
    let session = Subject::Connect { session: "ses_1".parse().expect("an id"), user: "u1".parse().expect("a user") };
    let tokens = world.app.tokens.get(now_ms).await.expect("tokens");
    let connect = format!("/objects/{}", tokens.mint(&session, now_ms, now_ms + 60_000));
    for (method, path, code) in [
        ("GET", write.as_str(), "invalid_token"),
        ("PUT", read.as_str(), "invalid_token"),
        ("GET", late.as_str(), "token_expired"),
        ("GET", connect.as_str(), "invalid_token"),
        ("PUT", connect.as_str(), "invalid_token"),
        ("GET", "/objects/../../etc/passwd", "route_not_found"),
        ("GET", "/objects/ext_1.zip", "invalid_token"),
    ] {
        let answer = nobody.send(method, path, "other").await;
        assert_eq!(answer.body["code"], code, "{method} {path}: {answer:?}");
    }
    // Nor does it open anything else.
    let token = read.trim_start_matches("/objects/");
    let answer = nobody.get(&format!("/cdp?token={token}")).await;
    assert_eq!(answer.body["code"], "invalid_token", "{answer:?}");
    let content = world.app.storage.get(&name("ext_1.zip")).await.expect("asked");
    assert_eq!(content.as_deref(), Some(&b"content"[..]), "something was written");
}

#[tokio::test]
async fn without_a_place_for_files_it_is_said_so_and_not_asked_again() {
    let world = World::new(&[("STORAGE_DIR", "")]).await;
    let error = objects::address(&world.app, "", &name("ext_1.zip"), Use::Read, now_ms() + 1_000).await;
    let error = error.expect_err("nowhere");
    assert_eq!((error.status, error.code), (StatusCode::NOT_IMPLEMENTED, "not_available"));
    assert!(error.message.contains("STORAGE_BUCKET"), "{}", error.message);
}
