//! The archive of an extension: a zip of the directory that Chrome loads, or of its contents. It is looked at when it is
//! uploaded, so that a mistake is a clear refusal and not a browser without its extension; and it is unpacked, by the
//! same rules, beside the browser. Neither believes what the archive says of its own size.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Cursor, Read, Seek};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use zip::ZipArchive;
use zip::result::ZipError;

/// What is taken, in bytes. Through a function less comes: Lambda carries 6 MB, base64 included.
pub const MAX_ARCHIVE_BYTES: usize = 16 * 1024 * 1024;
const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;
const MAX_FILES: usize = 4_096;
/// Of a path within the archive, in bytes. What it is unpacked into has to fit before it.
const MAX_PATH: usize = 512;
const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;

const MANIFEST: &str = "manifest.json";
/// What macOS puts beside the files. Chrome loads no extension that has it.
const RESOURCE_FORKS: &str = "__MACOSX";
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
const CRX_MAGIC: &[u8] = b"Cr24";

/// What is wrong with an archive. None of it repeats what is in there.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("must be a zip archive")]
    NotZip,
    #[error("is a packed .crx: send the zip that it was made from")]
    Packed,
    #[error("is no zip archive that can be read")]
    Broken(#[source] ZipError),
    #[error("has more than {MAX_FILES} files")]
    TooMany,
    #[error("is larger than {MAX_UNPACKED_BYTES} bytes when it is unpacked")]
    TooLarge,
    #[error("has an entry (number {0}) whose path leads out of it, or is none")]
    Path(usize),
    #[error("has an entry (number {0}) that is neither a file nor a directory")]
    Kind(usize),
    #[error("has an entry (number {0}) that is encrypted")]
    Encrypted(usize),
    #[error("has a file where it has a directory, too")]
    Ambiguous,
    #[error("has no {MANIFEST}, neither by itself nor in its only directory that could be an extension")]
    NoManifest,
    #[error("has a {MANIFEST} that is not the JSON object of an extension, with manifest_version, name and version")]
    Manifest,
    #[error("cannot be unpacked")]
    Io(#[from] io::Error),
}

impl From<ZipError> for ArchiveError {
    fn from(error: ZipError) -> Self {
        Self::Broken(error)
    }
}

/// Whether it is an extension's, by unpacking it into nothing.
pub fn check(content: &[u8]) -> Result<(), ArchiveError> {
    if content.starts_with(CRX_MAGIC) {
        return Err(ArchiveError::Packed);
    }
    if !content.starts_with(ZIP_MAGIC) {
        return Err(ArchiveError::NotZip);
    }
    let mut archive = ZipArchive::new(Cursor::new(content))?;
    let plan = Plan::of(&mut archive)?;
    let mut budget = MAX_UNPACKED_BYTES;
    for &index in plan.files.values() {
        copy(&mut archive, index, &mut budget, &mut io::sink())?;
    }
    let mut manifest = Vec::new();
    copy(&mut archive, plan.files[&plan.root.join(MANIFEST)], &mut MAX_MANIFEST_BYTES.clone(), &mut manifest)
        .map_err(|error| if matches!(error, ArchiveError::TooLarge) { ArchiveError::Manifest } else { error })?;
    is_manifest(&manifest).then_some(()).ok_or(ArchiveError::Manifest)
}

/// Unpacks it into a directory that is made for it, and returns where the extension is. `made` is told of whatever was
/// made. On an error something may be left.
pub fn unpack(archive: File, into: &Path, made: &dyn Fn(&Path) -> io::Result<()>) -> Result<PathBuf, ArchiveError> {
    let mut archive = ZipArchive::new(io::BufReader::new(archive))?;
    let plan = Plan::of(&mut archive)?;
    let make = |dir: &Path| match DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => made(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    make(into)?;
    let mut budget = MAX_UNPACKED_BYTES;
    for (path, &index) in &plan.files {
        let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
        // The last of them is empty.
        above.pop();
        above.into_iter().rev().try_for_each(|dir| make(&into.join(dir)))?;
        let path = into.join(path);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        made(&path)?;
        copy(&mut archive, index, &mut budget, &mut file)?;
    }
    Ok(into.join(plan.root))
}

/// What is in an archive, before any of it is unpacked.
struct Plan {
    /// By their paths, which lead nowhere else: their places in the archive.
    files: BTreeMap<PathBuf, usize>,
    /// Where the manifest is.
    root: PathBuf,
}

impl Plan {
    fn of(archive: &mut ZipArchive<impl Read + Seek>) -> Result<Self, ArchiveError> {
        if archive.len() > MAX_FILES {
            return Err(ArchiveError::TooMany);
        }
        let (mut files, mut bytes) = (BTreeMap::new(), 0u64);
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index)?;
            let path = std::str::from_utf8(entry.name_raw()).ok().and_then(path_of).ok_or(ArchiveError::Path(index))?;
            if entry.encrypted() {
                return Err(ArchiveError::Encrypted(index));
            }
            if !matches!(entry.unix_mode().map_or(0, |mode| mode & 0o170_000), 0 | 0o100_000 | 0o040_000) {
                return Err(ArchiveError::Kind(index));
            }
            if entry.is_dir() || path.starts_with(RESOURCE_FORKS) {
                continue;
            }
            bytes = bytes.saturating_add(entry.size());
            if files.insert(path, index).is_some() {
                return Err(ArchiveError::Ambiguous);
            }
        }
        if bytes > MAX_UNPACKED_BYTES {
            return Err(ArchiveError::TooLarge);
        }
        if files.keys().any(|path| path.ancestors().skip(1).any(|dir| files.contains_key(dir))) {
            return Err(ArchiveError::Ambiguous);
        }
        let root = root_of(&files)?;
        Ok(Self { files, root })
    }
}

/// By itself, or in the one directory that was zipped as a whole.
fn root_of(files: &BTreeMap<PathBuf, usize>) -> Result<PathBuf, ArchiveError> {
    if files.contains_key(Path::new(MANIFEST)) {
        return Ok(PathBuf::new());
    }
    let mut roots = files.keys().filter(|path| path.ends_with(MANIFEST) && path.components().count() == 2);
    match (roots.next().and_then(|path| path.parent()), roots.next()) {
        (Some(root), None) => Ok(root.to_owned()),
        _ => Err(ArchiveError::NoManifest),
    }
}

/// As it is unpacked. Some programs on Windows write backslashes.
fn path_of(name: &str) -> Option<PathBuf> {
    let clean = name.len() <= MAX_PATH && !name.chars().any(char::is_control);
    if !clean || name.starts_with(['/', '\\']) {
        return None;
    }
    let mut path = PathBuf::new();
    for part in name.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => return None,
            part if part.len() > 255 => return None,
            part => path.push(part),
        }
    }
    Some(path)
}

fn copy(
    archive: &mut ZipArchive<impl Read + Seek>,
    index: usize,
    budget: &mut u64,
    to: &mut dyn io::Write,
) -> Result<(), ArchiveError> {
    let entry = archive.by_index(index)?;
    let copied = io::copy(&mut entry.take(*budget + 1), to).map_err(|error| match error.kind() {
        // Of the archive, not of the disk: this is how a checksum that is wrong is told.
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            ArchiveError::Broken(ZipError::Io(error))
        }
        _ => ArchiveError::Io(error),
    })?;
    *budget = budget.checked_sub(copied).ok_or(ArchiveError::TooLarge)?;
    Ok(())
}

/// Whether Chrome will find in it what it needs first. It allows comments.
fn is_manifest(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let parsed = serde_json::from_slice::<Value>(text).or_else(|_| serde_json::from_slice(&without_comments(text)));
    parsed.is_ok_and(|manifest| {
        manifest["manifest_version"].is_u64() && manifest["name"].is_string() && manifest["version"].is_string()
    })
}

fn without_comments(text: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest, mut quoted) = (Vec::with_capacity(text.len()), text, false);
    while let [byte, after @ ..] = rest {
        let skipped = match (byte, after.first()) {
            (b'/', Some(b'/')) if !quoted => rest.iter().position(|byte| *byte == b'\n'),
            (b'/', Some(b'*')) if !quoted => rest.windows(2).skip(2).position(|end| end == b"*/").map(|at| at + 4),
            (b'\\', Some(_)) if quoted => {
                plain.extend(&rest[..2]);
                rest = &rest[2..];
                continue;
            }
            _ => {
                quoted ^= *byte == b'"';
                plain.push(*byte);
                rest = after;
                continue;
            }
        };
        rest = &rest[skipped.unwrap_or(rest.len())..];
    }
    plain
}

#[cfg(test)]
mod tests;
