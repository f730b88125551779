//! Files that a client gives to its session, for pages to choose.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Uid, fchown, openat, renameat, statat, unlinkat};
use serde::Deserialize;

use super::filter::{UPLOADS, own_dir};
use crate::error::ApiError;
use crate::hex;
use crate::protocol::UploadName;

/// How many files one session may be given, and bytes of them.
const MAX_FILES: usize = 1_000;
const MAX_BYTES: u64 = 1 << 30;

/// What a file is called, by the path of a request.
pub struct Named(pub UploadName);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct InPath {
            name: UploadName,
        }
        match axum::extract::Path::<InPath>::from_request_parts(parts, state).await {
            Ok(path) => Ok(Self(path.0.name)),
            Err(_) => Err(ApiError::invalid("name: is not the name of a file")),
        }
    }
}

/// Puts a file there whole, in place of one of the same name.
///
/// # Errors
/// `QuotaExceeded` where the session has been given too much.
pub fn write(home: &Path, name: &UploadName, content: &[u8]) -> io::Result<()> {
    own_dir(home, UPLOADS)?;
    // Not what a browser has put in its place meanwhile.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(CWD, home.join(UPLOADS), flags, Mode::empty())?;
    let (mut files, mut bytes) = (0, content.len() as u64);
    for file in Dir::read_from(&dir)?.take(MAX_FILES + 3).flatten() {
        files += 1;
        let status = statat(&dir, file.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        bytes = bytes.saturating_add(u64::try_from(status.st_size).unwrap_or(0));
    }
    // Two of them are the directory itself and the one above.
    if files >= MAX_FILES + 2 || bytes > MAX_BYTES {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    let between = format!(".{}", hex::random(8));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let written = (|| {
        let mut file: File = openat(&dir, &between, flags, Mode::RUSR | Mode::WUSR)?.into();
        file.write_all(content)?;
        let owner = home.metadata()?;
        fchown(&file, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))?;
        Ok(renameat(&dir, &between, &dir, name.as_str())?)
    })();
    if written.is_err() {
        let _ = unlinkat(&dir, &between, AtFlags::empty());
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Home(std::path::PathBuf);

    impl Drop for Home {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn home() -> Home {
        let home = Home(std::env::temp_dir().join(format!("wc-uploads-{}", hex::random(8))));
        std::fs::create_dir(&home.0).expect("a fresh directory");
        home
    }

    fn name(text: &str) -> UploadName {
        UploadName::try_from(text.to_owned()).expect("a name")
    }

    /// Taken out: `NOFOLLOW` of the directory; writing to a file of its own first.
    #[test]
    fn a_file_is_written_into_the_session_and_nowhere_else() {
        let (home, elsewhere) = (home(), home());
        for content in ["one", "two"] {
            write(&home.0, &name("data.csv"), content.as_bytes()).expect("written");
        }
        let file = home.0.join("uploads/data.csv");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "two");
        assert_eq!(std::fs::read_dir(home.0.join("uploads")).expect("there").count(), 1);
        // A link by that name is replaced, and not written through.
        let outside = elsewhere.0.join("outside");
        std::fs::write(&outside, "as it was").expect("written");
        std::fs::remove_file(&file).expect("removed");
        symlink(&outside, &file).expect("linked");
        write(&home.0, &name("data.csv"), b"three").expect("written");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "three");
        assert_eq!(std::fs::read_to_string(&outside).expect("there"), "as it was");
        // A link in place of the directory is not followed.
        std::fs::remove_dir_all(home.0.join("uploads")).expect("removed");
        symlink(&elsewhere.0, home.0.join("uploads")).expect("linked");
        write(&home.0, &name("data.csv"), b"four").expect_err("no directory of the session's");
        assert_eq!(std::fs::read_dir(&elsewhere.0).expect("there").count(), 1);
    }

    /// Taken out: the count.
    #[test]
    fn a_session_is_not_given_files_without_end() {
        let home = home();
        std::fs::create_dir(home.0.join("uploads")).expect("made");
        for at in 0..MAX_FILES {
            std::fs::write(home.0.join(format!("uploads/{at}")), "").expect("written");
        }
        let error = write(&home.0, &name("one-more"), b"").expect_err("too many");
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    }
}
