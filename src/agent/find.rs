//! Finds browsers where people have them. It is told where to look and reads no environment itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::browser::Program;

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct SearchPlaces {
    /// As in `CHROME_PATH`: goes before all that could be found.
    pub chrome: Option<PathBuf>,
    /// As in `CHROME_HEADLESS_SHELL_PATH`, likewise.
    pub headless_shell: Option<PathBuf>,
    /// As in `PATH`.
    pub path: Option<OsString>,
    pub home: Option<PathBuf>,
}

impl SearchPlaces {
    /// As an environment says it.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Self {
        let path = |name: &str| lookup(name).filter(|value| !value.trim().is_empty()).map(PathBuf::from);
        Self {
            chrome: path("CHROME_PATH"),
            headless_shell: path("CHROME_HEADLESS_SHELL_PATH"),
            path: lookup("PATH").map(Into::into),
            home: path("HOME"),
        }
    }
}

/// The browsers of this machine. At least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    headless_shell: Option<PathBuf>,
    full: Option<PathBuf>,
}

impl Found {
    /// What runs a session that asks for nothing special.
    pub fn default_program(&self) -> Program {
        match (&self.headless_shell, &self.full) {
            (Some(path), _) => Program { path: path.clone(), full: false },
            (None, Some(path)) => Program { path: path.clone(), full: true },
            (None, None) => unreachable!("`find` refuses to find nothing"),
        }
    }

    /// The whole browser, if this machine has it.
    pub fn full_program(&self) -> Option<Program> {
        self.full.clone().map(|path| Program { path, full: true })
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error(
        "no browser was found. Debian, Ubuntu: apt-get install chromium chromium-headless-shell. \
         macOS: brew install --cask chromium. Anywhere: npx playwright install chromium. \
         One that is somewhere else: set CHROME_PATH or CHROME_HEADLESS_SHELL_PATH"
    )]
    Nothing,
    /// Going on with another browser than the one that was named would hide the mistake.
    #[error("{variable} names {}, which is not a program", path.display())]
    NotAProgram { variable: &'static str, path: PathBuf },
}

/// # Errors
/// When a path that was given is no program, or when there is no browser at all.
pub fn find(places: &SearchPlaces) -> Result<Found, FindError> {
    let headless_shell = given("CHROME_HEADLESS_SHELL_PATH", places.headless_shell.as_deref())?
        .or_else(|| on_path(places, &["chromium-headless-shell", "chrome-headless-shell", "headless_shell"]))
        .or_else(|| playwright(places, "chromium_headless_shell-"));
    let full = given("CHROME_PATH", places.chrome.as_deref())?
        .or_else(|| on_path(places, &["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]))
        .or_else(|| application(places))
        .or_else(|| playwright(places, "chromium-"));
    if headless_shell.is_none() && full.is_none() {
        return Err(FindError::Nothing);
    }
    Ok(Found { headless_shell: headless_shell.map(unwrapped), full: full.map(unwrapped) })
}

fn given(variable: &'static str, path: Option<&Path>) -> Result<Option<PathBuf>, FindError> {
    match path {
        Some(path) if !is_program(path) => Err(FindError::NotAProgram { variable, path: path.to_owned() }),
        path => Ok(path.map(Path::to_owned)),
    }
}

fn on_path(places: &SearchPlaces, names: &[&str]) -> Option<PathBuf> {
    let dirs: Vec<PathBuf> = std::env::split_paths(places.path.as_deref()?).filter(|dir| dir.is_absolute()).collect();
    names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name))).find(|path| is_program(path))
}

fn application(places: &SearchPlaces) -> Option<PathBuf> {
    let apps = [Some(PathBuf::from("/Applications")), places.home.as_ref().map(|home| home.join("Applications"))];
    let inside = ["Chromium.app/Contents/MacOS/Chromium", "Google Chrome.app/Contents/MacOS/Google Chrome"];
    let apps: Vec<PathBuf> = apps.into_iter().flatten().collect();
    inside.iter().flat_map(|app| apps.iter().map(move |dir| dir.join(app))).find(|path| is_program(path))
}

/// The newest revision in Playwright's cache: its directories end in a number.
fn playwright(places: &SearchPlaces, prefix: &str) -> Option<PathBuf> {
    const PROGRAMS: [&str; 10] = [
        "chrome-linux/headless_shell",
        "chrome-linux/chrome",
        "chrome-linux64/chrome",
        "chrome-headless-shell-linux64/chrome-headless-shell",
        "chrome-mac/headless_shell",
        "chrome-mac/Chromium.app/Contents/MacOS/Chromium",
        "chrome-headless-shell-mac-arm64/chrome-headless-shell",
        "chrome-headless-shell-mac-x64/chrome-headless-shell",
        "chrome-mac-arm64/Google Chrome for Testing.app/Contents/MacOS/Google Chrome for Testing",
        "chrome-mac-x64/Google Chrome for Testing.app/Contents/MacOS/Google Chrome for Testing",
    ];
    let home = places.home.as_ref()?;
    let mut revisions: Vec<(u64, PathBuf)> = [".cache/ms-playwright", "Library/Caches/ms-playwright"]
        .iter()
        .filter_map(|cache| std::fs::read_dir(home.join(cache)).ok())
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let revision = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((revision, entry.path()))
        })
        .collect();
    revisions.sort_unstable();
    let newest_first = revisions.into_iter().rev().map(|(_, dir)| dir);
    newest_first.flat_map(|dir| PROGRAMS.map(|program| dir.join(program))).find(|path| is_program(path))
}

/// Debian's `bin/chromium*` are shell scripts around `lib/chromium/<the same name>`. The one around the
/// headless shell does not `exec`: the browser would be a grandchild, whose death says nothing of how it
/// died and which the kernel does not end with the agent. The other one costs 60 ms at every start.
fn unwrapped(path: PathBuf) -> PathBuf {
    let inside = || Some(path.parent()?.parent()?.join("lib/chromium").join(path.file_name()?));
    inside().filter(|inside| is_script(&path) && is_program(inside)).unwrap_or(path)
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
    read.is_ok() && start == *b"#!"
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory tree in which programs can be put; removed when dropped.
    struct Machine(PathBuf);

    impl Machine {
        fn new() -> Self {
            let root = std::env::temp_dir().join(format!("wc-find-{}", crate::hex::random(8)));
            std::fs::create_dir(&root).expect("a fresh directory");
            Self(root)
        }

        fn put(&self, path: &str, content: &str, mode: u32) -> PathBuf {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("set");
            path
        }

        fn places(&self) -> SearchPlaces {
            SearchPlaces {
                path: Some(self.0.join("bin").into_os_string()),
                home: Some(self.0.join("home")),
                ..SearchPlaces::default()
            }
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_machine_without_a_browser_is_told_what_to_install() {
        let machine = Machine::new();
        machine.put("bin/chromium", "not executable", 0o644);
        let error = find(&machine.places()).expect_err("nothing there");
        for advice in ["apt-get install chromium", "brew install --cask chromium", "npx playwright install chromium"] {
            assert!(error.to_string().contains(advice));
        }
    }

    #[test]
    fn a_path_that_was_given_wins_and_must_be_a_program() {
        let machine = Machine::new();
        machine.put("bin/chromium", "elf", 0o755);
        let mine = machine.put("mine", "elf", 0o755);
        let found = find(&SearchPlaces { chrome: Some(mine.clone()), ..machine.places() }).expect("found");
        assert_eq!(found.full_program(), Some(Program { path: mine, full: true }));
        let missing = machine.0.join("missing");
        assert_eq!(
            find(&SearchPlaces { headless_shell: Some(missing.clone()), ..machine.places() }),
            Err(FindError::NotAProgram { variable: "CHROME_HEADLESS_SHELL_PATH", path: missing })
        );
    }

    #[test]
    fn the_full_browser_runs_everything_where_there_is_no_headless_shell() {
        let machine = Machine::new();
        let chromium = machine.put("bin/google-chrome", "elf", 0o755);
        let found = find(&machine.places()).expect("found");
        assert_eq!(found.default_program(), Program { path: chromium, full: true });
        let shell = machine.put("bin/chrome-headless-shell", "elf", 0o755);
        let found = find(&machine.places()).expect("found");
        assert_eq!(found.default_program(), Program { path: shell, full: false });
    }

    #[test]
    fn playwrights_newest_revision_is_taken() {
        let machine = Machine::new();
        for revision in ["999", "1187", "mcp"] {
            machine.put(&format!("home/.cache/ms-playwright/chromium-{revision}/chrome-linux/chrome"), "elf", 0o755);
        }
        // A download that was interrupted.
        machine.put("home/.cache/ms-playwright/chromium-2000/chrome-linux/chrome", "elf", 0o644);
        let full = find(&machine.places()).expect("found").full_program().expect("found");
        assert!(full.path.ends_with("chromium-1187/chrome-linux/chrome"), "{}", full.path.display());
    }

    #[test]
    fn debians_wrapper_script_is_seen_through_and_other_scripts_are_left_alone() {
        let machine = Machine::new();
        machine.put("bin/chromium-headless-shell", "#!/bin/sh\n", 0o755);
        let real = machine.put("lib/chromium/chromium-headless-shell", "elf", 0o755);
        let other = machine.put("bin/chromium", "#!/bin/sh\nexec /somewhere/else", 0o755);
        let found = find(&machine.places()).expect("found");
        assert_eq!(found.default_program().path, real);
        assert_eq!(found.full_program().expect("found").path, other);
    }
}
