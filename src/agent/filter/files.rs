//! Which files a client may name: those of its own session.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Filter;

/// Within a browser's directory.
pub const DOWNLOADS: &str = "downloads";
pub const UPLOADS: &str = "uploads";
/// Where clients of Browserbase find what they have uploaded.
const UPLOADS_AS_CALLED: &str = "/tmp/.uploads/";

impl Filter {
    /// Puts the session's directory in the place of what the client named: Playwright names one of its own machine,
    /// Stagehand `downloads`. And has the browser name the files (`named`), for what pages call alike would be one file:
    /// what they are called is heard by `downloads`.
    pub(super) fn downloads(&self, params: &mut Map<String, Value>, named: bool) -> Result<(), String> {
        let allows = params.get("behavior").and_then(Value::as_str).is_some_and(|word| word.starts_with("allow"));
        if allows || params.contains_key("downloadPath") {
            let dir = own_dir(&self.home, DOWNLOADS)
                .map_err(|error| format!("the session's {DOWNLOADS} cannot be had ({})", error.kind()))?;
            let Some(dir) = dir.to_str() else { return Err("the container's directory is not UTF-8".to_owned()) };
            params.insert("downloadPath".to_owned(), dir.into());
            if allows && named {
                params.insert("behavior".to_owned(), "allowAndName".into());
            }
        }
        Ok(())
    }

    /// Each path becomes the one it leads to, so that the browser opens what was looked at.
    pub(super) fn files(&self, files: Option<&mut Value>) -> Result<(), String> {
        let files = match files {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(files)) => files,
            Some(_) => return Err("its files are not a list".to_owned()),
        };
        for file in files {
            let path = file.as_str().and_then(|path| self.own(path)).ok_or_else(|| {
                format!(
                    "only files within {UPLOADS} or {DOWNLOADS}, the session's own directories, can be named, \
                     as in {UPLOADS}/name"
                )
            })?;
            *file = path.to_str().map(Value::from).ok_or("a file's name is not UTF-8")?;
        }
        Ok(())
    }

    /// Where the path leads, if that is a file of the session. Whether another file exists is not told.
    fn own(&self, path: &str) -> Option<PathBuf> {
        let path = match path.strip_prefix(UPLOADS_AS_CALLED) {
            Some(name) => self.home.join(UPLOADS).join(name),
            None if !path.contains('/') => self.home.join(UPLOADS).join(path),
            None => self.home.join(path),
        };
        let path = path.canonicalize().ok()?;
        let within = |name| self.home.join(name).canonicalize().is_ok_and(|dir| path != dir && path.starts_with(dir));
        // A directory that is a link out of the session is not the session's.
        let home = self.home.canonicalize().ok()?;
        (path.starts_with(home) && (within(UPLOADS) || within(DOWNLOADS))).then_some(path)
    }
}

/// The session's directory of that name. Whatever user the browser runs as: its owner is that of the one above it.
pub fn own_dir(home: &Path, name: &str) -> io::Result<PathBuf> {
    let dir = home.join(name);
    match DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(dir),
        Err(error) => return Err(error),
    }
    let owner = home.metadata()?;
    // Not through a link: the browser could have put one here meanwhile.
    lchown(&dir, Some(owner.uid()), Some(owner.gid()))?;
    Ok(dir)
}
