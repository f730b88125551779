use futures_util::stream;

use super::*;
use crate::hex;

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fresh() -> (Dir, Storage) {
    let dir = Dir(std::env::temp_dir().join(format!("wc-storage-{}", hex::random(8))));
    let storage = Storage::open(Some(StorageAt::Directory(dir.0.clone()))).expect("a directory");
    (dir, storage)
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(Kind::Extensions, &"user:u1".parse().expect("an owner"), text)
}

#[tokio::test]
async fn what_is_put_is_there_until_it_is_deleted() {
    let (_dir, storage) = fresh();
    let name = name("ext_1.zip");
    assert_eq!(storage.get(&name).await.expect("asked"), None);
    storage.put(&name, "one".into()).await.expect("put");
    storage.put(&name, "two".into()).await.expect("put");
    assert_eq!(storage.get(&name).await.expect("asked").as_deref(), Some(&b"two"[..]));
    assert!(storage.has(&name).await.expect("asked"));
    let reading = storage.read(&name).await.expect("asked").expect("there");
    assert_eq!(reading.bytes, 3);
    for _ in 0..2 {
        storage.delete(&name).await.expect("deleted, or nothing to delete");
    }
    assert!(!storage.has(&name).await.expect("asked"));
    assert!(storage.read(&name).await.expect("asked").is_none());
}

#[tokio::test]
async fn what_breaks_off_or_is_too_large_leaves_what_was_there() {
    let (dir, storage) = fresh();
    let name = name("ext_1.zip");
    storage.put(&name, "whole".into()).await.expect("put");
    let piece = |text: &'static str| Ok::<_, std::io::Error>(Bytes::from_static(text.as_bytes()));
    let broken = stream::iter([piece("half"), Err(std::io::Error::other("gone"))]);
    let error = storage.put_stream(&name, broken, 100).await.expect_err("broken off");
    assert!(matches!(error, StorageError::BrokenOff(_)), "{error}");
    let large = stream::iter([piece("12345"), piece("6")]);
    let error = storage.put_stream(&name, large, 5).await.expect_err("too large");
    assert!(matches!(error, StorageError::TooLarge(5)), "{error}");
    assert_eq!(storage.get(&name).await.expect("asked").as_deref(), Some(&b"whole"[..]));
    let files = std::fs::read_dir(dir.0.join("extensions/user/u1")).expect("a directory").count();
    assert_eq!(files, 1, "something of what broke off is left");
    let fits = stream::iter([piece("12"), piece("345")]);
    storage.put_stream(&name, fits, 5).await.expect("put");
    assert_eq!(storage.get(&name).await.expect("asked").as_deref(), Some(&b"12345"[..]));
}

#[tokio::test]
async fn files_of_a_kind_are_forgotten_when_they_are_old() {
    let (_dir, storage) = fresh();
    let old = name("ext_1.zip");
    let other = ObjectName::new(Kind::Contexts, &"user:u1".parse().expect("an owner"), "ctx_1");
    for name in [&old, &other] {
        storage.put(name, "x".into()).await.expect("put");
    }
    storage.forget(Kind::Extensions, 1).await.expect("swept");
    assert!(storage.has(&old).await.expect("asked"), "it is newer than that");
    storage.forget(Kind::Extensions, crate::clock::now_ms() + 60_000).await.expect("swept");
    assert!(!storage.has(&old).await.expect("asked"));
    assert!(storage.has(&other).await.expect("asked"), "of another kind");
}

#[tokio::test]
async fn without_a_place_for_files_it_is_said_so() {
    let storage = Storage::open(None).expect("nothing to open");
    let error = storage.get(&name("ext_1.zip")).await.expect_err("nowhere");
    assert!(matches!(error, StorageError::NotConfigured), "{error}");
}
