use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use zip::ZipArchive;

use super::*;
use crate::hex;

struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Home {
    fn new() -> Self {
        let home = Self(std::env::temp_dir().join(format!("wc-pack-{}", hex::random(8))));
        std::fs::create_dir_all(home.0.join("downloads")).expect("a fresh directory");
        home
    }

    fn download(&self, file: &str, content: &str) {
        std::fs::write(self.0.join("downloads").join(file), content).expect("written");
    }

    fn packed(&self, finished: &[(&str, &str, u64)]) -> BTreeMap<String, String> {
        let heard = |file: &str| {
            let &(_, name, at_ms) = finished.iter().find(|(heard, _, _)| *heard == file)?;
            Some(Finished { name: harmless(name), at_ms })
        };
        let listing = Listing::read(&self.0, heard).expect("listed");
        let packed = contents(listing.pack(&self.0).expect("packed"));
        assert_eq!(packed.len(), listing.len());
        packed
    }
}

fn contents(zip: File) -> BTreeMap<String, String> {
    let mut zip = ZipArchive::new(zip).expect("a zip");
    (0..zip.len())
        .map(|at| {
            let mut file = zip.by_index(at).expect("an entry");
            let mut content = String::new();
            file.read_to_string(&mut content).expect("whole");
            (file.name().expect("a name").into_owned(), content)
        })
        .collect()
}

fn pairs(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|&(name, content)| (name.to_owned(), content.to_owned())).collect()
}

fn unheard(_: &str) -> Option<Finished> {
    None
}

const AT: u64 = 1_767_225_600_000;

#[test]
fn each_download_is_there_once_by_its_name_and_moment() {
    let home = Home::new();
    for (file, content) in
        [("g1", "one"), ("g2", "two"), ("g3", "three"), ("plain.txt", "unheard"), ("g4.crdownload", "part")]
    {
        home.download(file, content);
    }
    // The second name of one.
    std::fs::hard_link(home.0.join("downloads/g2"), home.0.join("downloads/report.csv")).expect("linked");
    let packed = home.packed(&[("g1", "report.csv", AT), ("g2", "report.csv", AT), ("g3", "no-ending", AT + 5)]);
    let unknown = packed.keys().find(|name| name.starts_with("plain-")).expect("by the time it was written").clone();
    let digits = unknown.strip_prefix("plain-").and_then(|rest| rest.strip_suffix(".txt")).expect("a moment");
    assert!(digits.len() == 13 && digits.bytes().all(|b| b.is_ascii_digit()), "{unknown}");
    let expected = [
        ("report-1767225600000.csv", "one"),
        ("report-1767225600001.csv", "two"),
        ("no-ending-1767225600005", "three"),
        (unknown.as_str(), "unheard"),
    ];
    assert_eq!(packed, pairs(&expected));
}

/// Taken out: `NOFOLLOW` of the directory and of its files, listed and opened; that only regular files are taken, when
/// they are listed and when they are opened; `NONBLOCK`, and it waits for ever.
#[test]
fn what_a_browser_puts_there_leads_nowhere_else() {
    let (home, elsewhere) = (Home::new(), Home::new());
    elsewhere.download("secret", "of another session");
    let dir = home.0.join("downloads");
    symlink(elsewhere.0.join("downloads/secret"), dir.join("g1")).expect("linked");
    symlink(elsewhere.0.join("downloads"), dir.join("g2")).expect("linked");
    std::fs::create_dir(dir.join("g3")).expect("made");
    assert!(Command::new("mkfifo").arg(dir.join("g4")).status().expect("mkfifo").success());
    home.download("../downloads/g5", "kept");
    let finished = ["g1", "g2", "g3", "g4", "g5"].map(|file| (file, "../../name.txt", AT));
    assert_eq!(home.packed(&finished), pairs(&[("name-1767225600000.txt", "kept")]));
    // What has become one since it was listed.
    for file in ["g6", "g7"] {
        home.download(file, "kept");
    }
    let listing = Listing::read(&home.0, unheard).expect("listed");
    assert_eq!(listing.len(), 3);
    for file in ["g5", "g6", "g7"] {
        std::fs::remove_file(dir.join(file)).expect("removed");
    }
    symlink(elsewhere.0.join("downloads/secret"), dir.join("g5")).expect("linked");
    std::fs::create_dir(dir.join("g6")).expect("made");
    assert!(Command::new("mkfifo").arg(dir.join("g7")).status().expect("mkfifo").success());
    let (packed, is_packed) = mpsc::channel();
    let path = home.0.clone();
    std::thread::spawn(move || packed.send(listing.pack(&path)));
    let packed = is_packed.recv_timeout(Duration::from_secs(20)).expect("it waits for nobody").expect("packed");
    assert_eq!(contents(packed), pairs(&[]));
    // The directory itself.
    std::fs::remove_dir_all(&dir).expect("removed");
    symlink(elsewhere.0.join("downloads"), &dir).expect("linked");
    assert!(Listing::read(&home.0, unheard).is_err());
}

#[test]
fn nothing_downloaded_is_nothing_to_keep_and_what_is_removed_is_gone_by_all_its_names() {
    let home = Home::new();
    assert!(Listing::read(&home.0, unheard).expect("listed").is_empty());
    assert!(Listing::read(&home.0.join("no-such"), unheard).expect("listed").is_empty());
    home.download("g1", "one");
    home.download("g2.crdownload", "part");
    std::fs::hard_link(home.0.join("downloads/g1"), home.0.join("downloads/report.csv")).expect("linked");
    Listing::read(&home.0, unheard).expect("listed").remove(&home.0).expect("removed");
    let left: Vec<_> = std::fs::read_dir(home.0.join("downloads")).expect("there").flatten().collect();
    assert_eq!(left.len(), 1, "what is being written: {left:?}");
}

/// Taken out: that they are counted.
#[test]
fn of_very_many_files_some_are_left_out() {
    let home = Home::new();
    for at in 0..MAX_FILES + 5 {
        home.download(&format!("g{at}"), "");
    }
    let listing = Listing::read(&home.0, unheard).expect("listed");
    assert_eq!(listing.len(), MAX_FILES);
    assert_eq!(contents(listing.pack(&home.0).expect("packed")).len(), MAX_FILES);
}

/// Taken out: the sum.
#[test]
fn of_very_large_files_some_are_left_out() {
    let home = Home::new();
    for file in ["g1", "g2", "g3"] {
        // Holes, which take no room.
        home.download(file, "");
        let at = File::options().write(true).open(home.0.join("downloads").join(file)).expect("opened");
        at.set_len(MAX_BYTES / 2 - 10).expect("grown");
    }
    assert_eq!(Listing::read(&home.0, unheard).expect("listed").len(), 2);
}
