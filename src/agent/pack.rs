//! What was downloaded, in one zip, as clients of Browserbase expect it: `report.pdf` is in there as
//! `report-1767225600000.pdf`, by the moment it was whole.
//!
//! The directory belongs to the browser, and so to whoever may have taken it over: nothing in it is followed, waited for
//! or believed. Files are copied as they are; most of what is downloaded is compressed already.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::downloads::{Finished, harmless, is_unfinished, open_dir};
use super::files::scratch;
use crate::clock::rfc3339;

/// How many files of a session are kept, and bytes of them. What is beyond is left out.
const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = (1 << 30) - (16 << 20);
/// How many names are looked at: each download may have two.
const MAX_NAMES: usize = 4 * MAX_FILES;
/// A file that is copied.
const BUFFER: usize = 128 * 1024;

/// A file that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    file: String,
    name: String,
    at_ms: u64,
    bytes: u64,
    inode: u64,
}

/// What there is to be kept. Two that are equal would make the same zip.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(Vec<Entry>);

impl Listing {
    /// Of a browser's home. `heard`: what is known of the file of that name, if it is a download.
    pub fn read(home: &Path, heard: impl Fn(&str) -> Option<Finished>) -> io::Result<Self> {
        let Some(dir) = open_dir(home)? else { return Ok(Self::default()) };
        let files = Dir::read_from(&dir)?.take(MAX_NAMES).flatten();
        let mut entries: Vec<(bool, Entry)> = files.filter_map(|file| entry(&dir, &file, &heard)).collect();
        // Those that were heard of first: the others may be second names of theirs.
        entries.sort_by(|(a_heard, a), (b_heard, b)| {
            b_heard.cmp(a_heard).then(a.at_ms.cmp(&b.at_ms)).then_with(|| a.file.cmp(&b.file))
        });
        let mut entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
        let mut known = HashSet::new();
        entries.retain(|entry| known.insert(entry.inode));
        let mut bytes = 0;
        let mut files = 0;
        let found = entries.len();
        entries.retain(|entry| {
            let fits = files < MAX_FILES && bytes + entry.bytes <= MAX_BYTES;
            if fits {
                files += 1;
                bytes += entry.bytes;
            }
            fits
        });
        if files < found {
            tracing::warn!(files = found - files, "downloads beyond what is kept of a session are left out");
        }
        Ok(Self(entries))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the zip, in a file without a name that lies beside the downloads.
    pub fn pack(&self, home: &Path) -> io::Result<File> {
        let mut zip = ZipWriter::new(BufWriter::with_capacity(BUFFER, scratch(home)?));
        let mut names = HashSet::new();
        if let Some(dir) = open_dir(home)? {
            for entry in &self.0 {
                let Some(file) = open(&dir, &entry.file) else { continue };
                zip.start_file(unused(&entry.name, entry.at_ms, &mut names), options(entry.at_ms))?;
                // It may grow for as long as it is read.
                io::copy(&mut io::BufReader::with_capacity(BUFFER, file).take(entry.bytes), &mut zip)?;
            }
        }
        let mut written = zip.finish()?;
        written.flush()?;
        written.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// Removes the files.
    pub fn remove(&self, home: &Path) -> io::Result<()> {
        let Some(dir) = open_dir(home)? else { return Ok(()) };
        let inodes: HashSet<u64> = self.0.iter().map(|entry| entry.inode).collect();
        for name in Dir::read_from(&dir)?.take(MAX_NAMES).flatten() {
            if inodes.contains(&name.ino()) {
                let _ = unlinkat(&dir, name.file_name(), AtFlags::empty());
            }
        }
        Ok(())
    }
}

/// And whether it was heard of.
fn entry(
    dir: &OwnedFd,
    file: &rustix::fs::DirEntry,
    heard: &impl Fn(&str) -> Option<Finished>,
) -> Option<(bool, Entry)> {
    let file = file.file_name().to_str().ok()?;
    if file.starts_with('.') || is_unfinished(file) {
        return None;
    }
    let status = statat(dir, file, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return None;
    }
    let (heard, name, at_ms) = match heard(file) {
        Some(finished) => (true, finished.name, finished.at_ms),
        None => (false, harmless(file), u64::try_from(status.st_mtime).unwrap_or(0).saturating_mul(1_000)),
    };
    let bytes = u64::try_from(status.st_size).unwrap_or(0);
    Some((heard, Entry { file: file.to_owned(), name, at_ms, bytes, inode: status.st_ino }))
}

/// A regular file, or nothing: a link is not followed, and nobody is waited for at the other end of a pipe.
fn open(dir: &OwnedFd, name: &str) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).ok()?;
    let status = fstat(&file).ok()?;
    (FileType::from_raw_mode(status.st_mode) == FileType::RegularFile).then(|| file.into())
}

fn options(at_ms: u64) -> SimpleFileOptions {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).unix_permissions(0o644);
    match dos_time(at_ms) {
        Some(time) => options.last_modified_time(time),
        None => options,
    }
}

/// In UTC, since the format has no zones.
fn dos_time(at_ms: u64) -> Option<DateTime> {
    let text = rfc3339(at_ms);
    let part = |at: std::ops::Range<usize>| text.get(at)?.parse::<u16>().ok();
    let small = |at| u8::try_from(part(at)?).ok();
    DateTime::from_date_and_time(
        part(0..4)?,
        small(5..7)?,
        small(8..10)?,
        small(11..13)?,
        small(14..16)?,
        small(17..19)?,
    )
    .ok()
}

/// `<name>-<moment>.<ending>`, a later moment if there is one of that name already.
fn unused(name: &str, at_ms: u64, names: &mut HashSet<String>) -> String {
    let (stem, ending) = match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => (stem, format!(".{ending}")),
        _ => (name, String::new()),
    };
    let mut at_ms = at_ms;
    loop {
        let name = format!("{stem}-{at_ms:013}{ending}");
        if names.insert(name.clone()) {
            return name;
        }
        at_ms += 1;
    }
}

#[cfg(test)]
mod tests;
