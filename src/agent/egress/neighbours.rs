//! Browsers of other containers on the same machine, as a developer has them: each writes down where its DevTools listen,
//! and all containers have their directories side by side.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether the DevTools of some browser listen there. `root` is where the containers' directories are.
pub fn is_devtools(root: &Path, port: u16) -> bool {
    let browsers = entries(root).flat_map(|container| entries(&container));
    browsers.into_iter().any(|browser| {
        let written = fs::read_to_string(browser.join("profile/DevToolsActivePort"));
        written.is_ok_and(|text| text.lines().next().and_then(|line| line.parse().ok()) == Some(port))
    })
}

/// What cannot be looked into holds no browser of this user's.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}
