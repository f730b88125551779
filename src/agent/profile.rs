//! A browser's profile as a file: what of it another browser is to begin with.
//!
//! What a browser has written is not to be trusted, and nor is what comes out of the storage: a file of its own is all
//! that either may lead to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, ZipArchive};

use super::account::{Account, give};

/// In all, unpacked. A profile of somebody who is logged in at many places measures some ten megabytes.
const MAX_BYTES: u64 = 1 << 30;
const MAX_FILES: usize = 100_000;
/// How deep directories may be in each other. Chromium's own are at most eight deep.
const MAX_DEPTH: usize = 32;

/// What is made anew when it is missing, or belongs to the one run: caches, what holds a profile for a process, and
/// which tabs were open.
const LEFT_OUT: [&str; 20] = [
    "BrowserMetrics",
    "BrowserMetrics-spare.pma",
    "Cache",
    "Code Cache",
    "Crashpad",
    "DawnGraphiteCache",
    "DawnWebGPUCache",
    "DevToolsActivePort",
    "GPUCache",
    "GPUPersistentCache",
    "GrShaderCache",
    "GraphiteDawnCache",
    "Safe Browsing",
    "Sessions",
    "ShaderCache",
    "SingletonCookie",
    "SingletonLock",
    "SingletonSocket",
    "component_crx_cache",
    "segmentation_platform",
];

/// Has Chromium keep the cookies that would else end with it, as it does for who wants to go on where they left off; the
/// tabs themselves are left out.
const PREFERENCES: &str = r#"{"session":{"restore_on_startup":1}}"#;

#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("a file could not be read or written")]
    Io(#[from] io::Error),
    #[error("it is no archive, or not whole")]
    Archive(#[from] zip::result::ZipError),
    #[error("it is larger than {MAX_BYTES} bytes or {MAX_FILES} files")]
    TooLarge,
    #[error("something in it would not be a file of the profile")]
    Outside,
}

/// A profile for a context that nothing has been written to.
pub fn begin(dir: &Path, account: Option<Account>) -> io::Result<()> {
    make_dir(dir, account)?;
    make_dir(&dir.join("Default"), account)?;
    write(&dir.join("Default/Preferences"), account)?.write_all(PREFERENCES.as_bytes())
}

fn make_dir(dir: &Path, account: Option<Account>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)?;
    give(dir, account)
}

fn write(path: &Path, account: Option<Account>) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    give(path, account)?;
    Ok(file)
}

/// Puts a profile that no browser uses into a file.
pub fn pack(dir: &Path, into: File) -> Result<(), ProfileError> {
    let mut packing = Packing { zip: ZipWriter::new(into), bytes: 0, files: 0 };
    packing.directory(dir, "", 0)?;
    packing.zip.finish()?;
    Ok(())
}

struct Packing {
    zip: ZipWriter<File>,
    bytes: u64,
    files: usize,
}

impl Packing {
    fn directory(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<(), ProfileError> {
        if depth > MAX_DEPTH {
            return Err(ProfileError::TooLarge);
        }
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // Chromium's own are all plain ones.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            // Not where a link leads.
            let kind = entry.file_type()?;
            let name = format!("{prefix}{name}");
            self.files += 1;
            if self.files > MAX_FILES {
                return Err(ProfileError::TooLarge);
            }
            if kind.is_dir() {
                self.zip.add_directory(&*name, options())?;
                self.directory(&entry.path(), &format!("{name}/"), depth + 1)?;
            } else if kind.is_file() {
                self.file(&entry.path(), name)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: String) -> Result<(), ProfileError> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        self.zip.start_file(name, options())?;
        let left = MAX_BYTES - self.bytes;
        let copied = io::copy(&mut file.take(left + 1), &mut self.zip)?;
        self.bytes += copied.min(left);
        if copied > left { Err(ProfileError::TooLarge) } else { Ok(()) }
    }
}

/// The fastest: what is left without the caches is small.
fn options() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).compression_level(Some(1))
}

/// Makes a profile out of a file, in a directory that is not there yet. What there is of it after a failure is the
/// caller's to remove.
pub fn unpack(from: File, dir: &Path, account: Option<Account>) -> Result<(), ProfileError> {
    let mut zip = ZipArchive::new(from)?;
    if zip.len() > MAX_FILES {
        return Err(ProfileError::TooLarge);
    }
    make_dir(dir, account)?;
    let mut bytes = 0;
    for index in 0..zip.len() {
        let entry = zip.by_index(index)?;
        let path = within(dir, &entry.name()?)?;
        if entry.is_dir() {
            make_dir(&path, account)?;
        } else if entry.is_file() {
            let left = MAX_BYTES - bytes;
            let copied = io::copy(&mut entry.take(left + 1), &mut write(&path, account)?)?;
            if copied > left {
                return Err(ProfileError::TooLarge);
            }
            bytes += copied;
        } else {
            return Err(ProfileError::Outside);
        }
    }
    Ok(())
}

fn within(dir: &Path, name: &str) -> Result<PathBuf, ProfileError> {
    let path = Path::new(name);
    let plain = !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && path.components().count() <= MAX_DEPTH + 1 { Ok(dir.join(path)) } else { Err(ProfileError::Outside) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;
    use crate::hex;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("wc-profile-{}", hex::random(8)));
            fs::create_dir(&dir).expect("a directory");
            Self(dir)
        }

        fn archive(&self) -> File {
            let path = self.0.join(hex::random(4));
            OpenOptions::new().read(true).write(true).create_new(true).open(path).expect("a file")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Taken out: that a link is not followed; that caches are left out.
    #[test]
    fn a_profile_comes_back_without_caches_links_and_whatever_is_not_a_file() {
        let dir = Dir::new();
        let (profile, again) = (dir.0.join("profile"), dir.0.join("again"));
        begin(&profile, None).expect("begun");
        fs::create_dir_all(profile.join("Default/Local Storage/leveldb")).expect("a directory");
        fs::write(profile.join("Default/Local Storage/leveldb/000003.log"), [7; 70_000]).expect("written");
        fs::create_dir_all(profile.join("Default/Cache/x")).expect("a directory");
        fs::write(profile.join("Default/Cache/x/y"), "cached").expect("written");
        fs::write(dir.0.join("secret"), "of somebody else").expect("written");
        symlink(dir.0.join("secret"), profile.join("Default/Cookies")).expect("a link");
        symlink(&dir.0, profile.join("Default/Up")).expect("a link");
        let fifo = std::ffi::CString::new(profile.join("pipe").to_str().expect("UTF-8")).expect("no zero");
        // SAFETY: the path is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let archive = dir.archive();
        pack(&profile, archive.try_clone().expect("a handle")).expect("packed");
        unpack(archive, &again, None).expect("unpacked");
        let mut found: Vec<_> = walk(&again).into_iter().map(|path| path.display().to_string()).collect();
        found.sort();
        assert_eq!(
            found,
            [
                "Default",
                "Default/Local Storage",
                "Default/Local Storage/leveldb",
                "Default/Local Storage/leveldb/000003.log",
                "Default/Preferences"
            ]
        );
        let log = again.join("Default/Local Storage/leveldb/000003.log");
        assert_eq!(fs::read(&log).expect("readable"), [7; 70_000]);
        assert_eq!(fs::metadata(&log).expect("there").mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(again.join("Default")).expect("there").mode() & 0o777, 0o700);
    }

    fn walk(dir: &Path) -> Vec<PathBuf> {
        fn add(dir: &Path, base: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable")) {
                found.push(entry.path().strip_prefix(base).expect("within").to_owned());
                if entry.file_type().expect("a type").is_dir() {
                    add(&entry.path(), base, found);
                }
            }
        }
        let mut found = Vec::new();
        add(dir, dir, &mut found);
        found
    }

    /// Taken out: that names are looked at; that what is no file is refused.
    #[test]
    fn an_archive_that_leads_out_of_the_profile_is_refused() {
        for (what, fill) in [
            ("up", (|zip| zip.start_file("../outside", options())) as fn(&mut ZipWriter<File>) -> _),
            ("absolute", |zip| zip.start_file("/tmp/outside", options())),
            ("up later", |zip| zip.start_file("Default/../../outside", options())),
            ("a link", |zip| zip.add_symlink("Default", "/etc", options())),
            ("deep", |zip| zip.start_file("d/".repeat(MAX_DEPTH + 2) + "f", options())),
        ] {
            let dir = Dir::new();
            let archive = dir.archive();
            let mut zip = ZipWriter::new(archive.try_clone().expect("a handle"));
            fill(&mut zip).expect("an entry");
            zip.finish().expect("whole");
            let error = unpack(archive, &dir.0.join("profile"), None).expect_err(what);
            assert!(matches!(error, ProfileError::Outside), "{what}: {error}");
            assert!(!dir.0.join("outside").exists(), "{what}");
        }
    }

    /// Taken out: that a file is new.
    #[test]
    fn an_archive_that_has_one_file_by_two_names_is_refused() {
        let dir = Dir::new();
        let archive = dir.archive();
        let mut zip = ZipWriter::new(archive.try_clone().expect("a handle"));
        for name in ["a/", "a/file", "a//file"] {
            zip.start_file(name, options()).expect("an entry");
        }
        zip.finish().expect("whole");
        let error = unpack(archive, &dir.0.join("profile"), None).expect_err("it was there before");
        assert!(matches!(&error, ProfileError::Io(io) if io.kind() == io::ErrorKind::AlreadyExists), "{error}");
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let dir = Dir::new();
        let mut file = dir.archive();
        file.write_all(b"no archive at all").expect("written");
        assert!(matches!(unpack(file, &dir.0.join("profile"), None), Err(ProfileError::Archive(_))));
        let whole = dir.archive();
        begin(&dir.0.join("whole"), None).expect("begun");
        pack(&dir.0.join("whole"), whole.try_clone().expect("a handle")).expect("packed");
        let half = whole.metadata().expect("a size").len() / 2;
        whole.set_len(half).expect("cut");
        assert!(matches!(unpack(whole, &dir.0.join("other"), None), Err(ProfileError::Archive(_))));
    }
}
