use std::io::Write as _;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

const GOOD: &str = r#"{"manifest_version": 3, "name": "One", "version": "1.0"}"#;

fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    zipped(|zip| {
        for (name, text) in files {
            zip.start_file(*name, SimpleFileOptions::default()).expect("begun");
            zip.write_all(text.as_bytes()).expect("written");
        }
    })
}

fn zipped(fill: impl FnOnce(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    fill(&mut zip);
    zip.finish().expect("finished").into_inner()
}

/// Put there as bytes, because no program that makes archives would.
fn renamed(mut archive: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> = (0..archive.len()).filter(|&at| archive[at..].starts_with(from.as_bytes())).collect();
    assert_eq!(places.len(), 2, "of the file, and of the directory");
    places.into_iter().for_each(|at| archive[at..at + to.len()].copy_from_slice(to.as_bytes()));
    archive
}

fn refused(archive: &[u8]) -> String {
    check(archive).expect_err("refused").to_string()
}

struct Dir(PathBuf);

impl Dir {
    fn fresh() -> Self {
        let dir = std::env::temp_dir().join(format!("wc-archive-{}", crate::hex::random(8)));
        std::fs::create_dir(&dir).expect("a fresh directory");
        Self(dir)
    }

    fn unpack(&self, archive: &[u8]) -> Result<PathBuf, ArchiveError> {
        let file = self.0.join("archive");
        std::fs::write(&file, archive).expect("written");
        unpack(File::open(&file).expect("just written"), &self.0.join("into"), &|_| Ok(()))
    }

    fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("readable").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("a name")).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_extension_is_found_where_people_zip_it() {
    for (files, root) in [
        (vec![("manifest.json", GOOD), ("a/b/worker.js", "1")], ""),
        (vec![("./manifest.json", GOOD), ("./a/b/worker.js", "1")], ""),
        (vec![("one/manifest.json", GOOD), ("one/a/b/worker.js", "1"), ("README", "x")], "one"),
        (vec![("one\\manifest.json", GOOD), ("one\\a\\b\\worker.js", "1")], "one"),
        (vec![("one/manifest.json", GOOD), ("one/a/b/worker.js", "1"), ("__MACOSX/one/._manifest.json", "x")], "one"),
        // The outer one is the extension; what it carries along is its own business.
        (vec![("manifest.json", GOOD), ("a/manifest.json", "{}"), ("a/b/worker.js", "1")], ""),
    ] {
        let (archive, dir) = (zip(&files), Dir::fresh());
        check(&archive).unwrap_or_else(|error| panic!("{files:?}: {error}"));
        let found = dir.unpack(&archive).expect("unpacked");
        assert_eq!(found, dir.0.join("into").join(root));
        assert_eq!(std::fs::read_to_string(found.join("manifest.json")).expect("there"), GOOD);
        assert_eq!(std::fs::read_to_string(found.join("a/b/worker.js")).expect("there"), "1");
        assert!(!dir.0.join("into/__MACOSX").exists(), "Chrome would not load it");
    }
}

/// Taken out: the refusal of `..`; that of a leading slash; that of what is no file by its mode.
#[test]
fn what_leads_out_of_the_archive_is_refused_and_writes_nothing() {
    let plain = || zip(&[("manifest.json", GOOD), ("xx/xx/file", "x")]);
    let link = zipped(|zip| {
        zip.start_file("manifest.json", SimpleFileOptions::default()).expect("begun");
        zip.write_all(GOOD.as_bytes()).expect("written");
        zip.add_symlink("link", "/etc", SimpleFileOptions::default()).expect("added");
    });
    for (archive, why) in [
        (renamed(plain(), "xx/xx/file", "../../file"), "(number 1) whose path leads out"),
        (renamed(plain(), "xx/xx/file", "xx/../../f"), "(number 1) whose path leads out"),
        (renamed(plain(), "xx/xx/file", "..\\..\\file"), "(number 1) whose path leads out"),
        (renamed(plain(), "xx/xx/file", "/x/xx/file"), "(number 1) whose path leads out"),
        (renamed(plain(), "xx/xx/file", "xx/xx/\0ile"), "(number 1) whose path leads out"),
        (renamed(plain(), "xx/xx/file", "xx/xx/\u{e9}le").to_vec(), ""),
        (zip(&[("manifest.json", GOOD), (&"x".repeat(600), "x")]), "(number 1) whose path"),
        (zip(&[("manifest.json", GOOD), ("a", "x"), ("a/b", "x")]), "a file where it has a directory"),
        (zip(&[("manifest.json", GOOD), ("a/b", "x"), ("a//b", "y")]), "a file where it has a directory"),
        (link, "(number 1) that is neither a file"),
    ] {
        let dir = Dir::fresh();
        if why.is_empty() {
            check(&archive).expect("any language's letters");
            continue;
        }
        let error = refused(&archive);
        assert!(error.contains(why), "{error}, not {why}");
        dir.unpack(&archive).expect_err("refused here, too");
        assert_eq!(dir.entries(), ["archive"], "{why}: something was written");
    }
}

/// Taken out: the sum of what the entries say of themselves together with the bound on what is copied; either alone is
/// enough.
#[test]
fn what_unpacks_to_too_much_is_refused_whatever_it_says_of_itself() {
    let bomb = |bytes: usize| {
        zipped(|zip| {
            zip.start_file("manifest.json", SimpleFileOptions::default()).expect("begun");
            zip.write_all(GOOD.as_bytes()).expect("written");
            zip.start_file("zeros", SimpleFileOptions::default()).expect("begun");
            zip.write_all(&vec![0; bytes]).expect("written");
        })
    };
    let limit = usize::try_from(MAX_UNPACKED_BYTES).expect("small");
    check(&bomb(limit - GOOD.len())).expect("it just fits");
    let honest = bomb(limit - GOOD.len() + 1);
    assert!(honest.len() < 100_000, "{}", honest.len());
    assert!(refused(&honest).contains("when it is unpacked"));
    // The same, saying that it is small.
    let size = u32::try_from(limit - GOOD.len() + 1).expect("small").to_le_bytes();
    let mut lying = honest;
    for at in 0..lying.len() - 4 {
        if lying[at..at + 4] == size {
            lying[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
        }
    }
    let dir = Dir::fresh();
    let error = refused(&lying);
    assert!(error.contains("when it is unpacked") || error.contains("can be read"), "{error}");
    dir.unpack(&lying).expect_err("refused here, too");
    let written = std::fs::metadata(dir.0.join("into/zeros")).map_or(0, |file| file.len());
    assert!(written <= MAX_UNPACKED_BYTES + 1, "{written} bytes were written");
    let many: Vec<String> = (0..=MAX_FILES).map(|number| number.to_string()).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    assert!(refused(&zip(&many)).contains("files"));
}

#[test]
fn what_is_no_archive_of_an_extension_says_why() {
    let manifest = |text: &str| zip(&[("manifest.json", text)]);
    let mut damaged = zip(&[("manifest.json", GOOD), ("text", "0123456789")]);
    let at = (0..damaged.len()).find(|&at| damaged[at..].starts_with(b"text")).expect("its name") + 5;
    damaged[at] ^= 0xff;
    for (archive, why) in [
        (Vec::new(), "must be a zip archive"),
        (b"hello".to_vec(), "must be a zip archive"),
        (b"PK\x03\x04 and no more".to_vec(), "can be read"),
        ([b"Cr24\x03\0\0\0\0\0\0\0".to_vec(), manifest(GOOD)].concat(), "is a packed .crx"),
        (damaged, "can be read"),
        (zip(&[("worker.js", "1")]), "has no manifest.json"),
        (zip(&[("a/b/manifest.json", GOOD)]), "has no manifest.json"),
        (zip(&[("a/manifest.json", GOOD), ("b/manifest.json", GOOD)]), "has no manifest.json"),
        (manifest("{"), "has a manifest.json that is not"),
        (manifest("[]"), "has a manifest.json that is not"),
        (manifest(r#"{"manifest_version": "3", "name": "One", "version": "1"}"#), "has a manifest.json that is not"),
        (manifest(r#"{"manifest_version": 3, "name": "One"}"#), "has a manifest.json that is not"),
        (manifest(&format!("{}{GOOD}", " ".repeat(1 << 20))), "has a manifest.json that is not"),
    ] {
        let error = refused(&archive);
        assert!(error.contains(why), "{error}, not {why}");
    }
    let commented = "\u{feff}// One\n{/* \" */\"manifest_version\": 3, \"name\": \"http://one/*\\\"/*\", \"version\": \"1\"} // end";
    check(&manifest(commented)).expect("Chrome allows comments");
}
