//! What a browser downloads, heard from itself: which downloads have come to their end, and what pages call them.
//!
//! Chromium saves a download by the name its page suggests (`allow`), and then over what has that name already (measured,
//! 156); or by an id of its own (`allowAndName`), which says nothing to anybody. So the filter has every client ask for the
//! latter, and the names are heard here, on a socket of the agent's own: what a client hears depends on what it asked for.
//! For clients that go by names, each download can be found by its name as well, the last one of it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat, unlinkat};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::browser::Endpoint;
use super::devtools::{self, DevtoolsError, Socket};
use super::filter::DOWNLOADS;
use crate::clock::now_ms;
use crate::hex;

/// How many downloads of a session are remembered, whole or not. Those beyond keep the names that the browser gave them.
const MAX_REMEMBERED: usize = 10_000;
/// In bytes, with what is added to it still within what file systems take.
const MAX_NAME: usize = 200;

/// A download that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What its page calls it, made harmless.
    pub name: String,
    pub at_ms: u64,
}

#[derive(Debug, Default)]
struct Heard {
    /// What was suggested, by the browser's id of a download that has not come to its end.
    begun: HashMap<String, String>,
    finished: HashMap<String, Finished>,
}

/// Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Downloads(Arc<Mutex<Heard>>);

/// How the browser tells of one.
#[derive(Deserialize)]
struct Told<'a> {
    method: &'a str,
    params: Value,
}

impl Downloads {
    /// Listens for as long as the browser lives. It must be asked before any client can: what is said here of how downloads
    /// are treated, which is as if nothing had been said, would take back what a client says.
    pub async fn listen(endpoint: &Endpoint, home: &Path) -> Result<Self, DevtoolsError> {
        let mut socket = devtools::dial(endpoint).await?;
        let params = json!({ "behavior": "default", "eventsEnabled": true });
        let ask = json!({ "id": 1, "method": "Browser.setDownloadBehavior", "params": params });
        socket.send(Message::text(ask.to_string())).await?;
        while let Some(message) = socket.next().await {
            let Ok(answer) = serde_json::from_slice::<Value>(&message?.into_data()) else { continue };
            if answer["id"] != 1 {
                continue;
            }
            if let Some(error) = answer.get("error") {
                return Err(DevtoolsError::Answer(format!("setDownloadBehavior: {}", error["message"])));
            }
            let downloads = Self::default();
            tokio::spawn(downloads.clone().follow(socket, home.to_owned()));
            return Ok(downloads);
        }
        Err(DevtoolsError::Io(io::ErrorKind::UnexpectedEof.into()))
    }

    async fn follow(self, mut socket: Socket, home: PathBuf) {
        while let Some(Ok(message)) = socket.next().await {
            let data = message.into_data();
            if let Ok(told) = serde_json::from_slice::<Told<'_>>(&data)
                && let Some((id, finished)) = self.hear(&told, &home.join(DOWNLOADS))
            {
                // Who goes by the name finds it, or does not: it is kept either way.
                let _ = name(&home, &id, &finished.name);
            }
        }
    }

    /// The download that has come to its end with what was told.
    fn hear(&self, told: &Told<'_>, dir: &Path) -> Option<(String, Finished)> {
        let text = |name: &str| told.params[name].as_str();
        let id = text("guid")?;
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (told.method, text("state")) {
            ("Browser.downloadWillBegin", _) => {
                if heard.begun.len() + heard.finished.len() < MAX_REMEMBERED {
                    let name = harmless(text("suggestedFilename").unwrap_or_default());
                    heard.begun.insert(id.to_owned(), name);
                }
                None
            }
            ("Browser.downloadProgress", Some("completed")) => {
                // What is saved elsewhere is not the session's to keep.
                if text("filePath").is_none_or(|path| Path::new(path) != dir.join(id)) {
                    heard.begun.remove(id);
                    return None;
                }
                heard.finish(id).map(|finished| (id.to_owned(), finished))
            }
            ("Browser.downloadProgress", Some("canceled")) => {
                heard.begun.remove(id);
                None
            }
            _ => None,
        }
    }

    /// The download that a file is. That there is such a file is news of it, too: it has its name from when it is whole, and
    /// the browser says so a moment later.
    pub fn of_file(&self, file: &str) -> Option<Finished> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).finish(file)
    }
}

impl Heard {
    fn finish(&mut self, id: &str) -> Option<Finished> {
        if let Some(name) = self.begun.remove(id) {
            self.finished.insert(id.to_owned(), Finished { name, at_ms: now_ms() });
        }
        self.finished.get(id).cloned()
    }
}

/// By what the browser calls a file that it is still writing.
pub fn is_unfinished(name: &str) -> bool {
    name.ends_with(".crdownload")
}

/// The directory that downloads go to, and not what somebody has put in its place. `None`: nothing was to be downloaded.
pub fn open_dir(home: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(CWD, home.join(DOWNLOADS), flags, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives a finished download a second name, and takes it from another that has it.
fn name(home: &Path, id: &str, name: &str) -> io::Result<()> {
    let an_id = name.len() == 36 && name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if an_id || is_unfinished(name) {
        // It would take the place of another download.
        return Ok(());
    }
    let Some(dir) = open_dir(home)? else { return Ok(()) };
    let between = format!(".{}", hex::random(8));
    linkat(&dir, id, &dir, &between, AtFlags::empty())?;
    if let Err(error) = renameat(&dir, &between, &dir, name) {
        let _ = unlinkat(&dir, &between, AtFlags::empty());
        return Err(error.into());
    }
    Ok(())
}

/// A name that is one everywhere, and shows what it is. Pages choose what it is made from.
pub fn harmless(suggested: &str) -> String {
    let last = suggested.rsplit(['/', '\\']).next().unwrap_or_default();
    let harmless = |c: char| match c {
        ':' | '*' | '?' | '"' | '<' | '>' | '|' => '_',
        // They turn around what follows: `exe.fdp` would read as a PDF.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '_',
        c if c.is_control() => '_',
        c => c,
    };
    let name: String = last.chars().map(harmless).collect();
    let name = name.trim().trim_start_matches('.').trim_end_matches(['.', ' ']);
    let name = match name.rsplit_once('.') {
        Some((stem, ending)) if ending.len() <= 32 => format!("{}.{ending}", cut(stem, MAX_NAME - ending.len() - 1)),
        _ => cut(name, MAX_NAME).to_owned(),
    };
    if name.is_empty() || name.starts_with('.') { format!("download{name}") } else { name }
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_page_suggests_is_one_harmless_name() {
        for (suggested, name) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("/", "download"),
            ("", "download"),
            ("..", "download"),
            (".bashrc", "bashrc"),
            ("a\0b\r\nc.txt", "a_b__c.txt"),
            ("invoice\u{202e}fdp.exe", "invoice_fdp.exe"),
            ("con:out?.txt", "con_out_.txt"),
            (" spaced .txt. ", "spaced .txt"),
            ("日本語.csv", "日本語.csv"),
        ] {
            assert_eq!(harmless(suggested), name, "{suggested:?}");
        }
        let long = harmless(&format!("{}.tar", "ü".repeat(5_000)));
        assert!(long.len() <= MAX_NAME && long.ends_with("ü.tar"), "{long}");
        assert!(harmless(&format!("x.{}", "y".repeat(5_000))).len() <= MAX_NAME);
    }

    fn told(method: &'static str, params: Value) -> Told<'static> {
        Told { method, params }
    }

    #[test]
    fn a_download_is_finished_when_it_is_whole_and_where_it_belongs() {
        let (downloads, dir) = (Downloads::default(), Path::new("/home/downloads"));
        let begin = |id: &str| told("Browser.downloadWillBegin", json!({ "guid": id, "suggestedFilename": "a/b.txt" }));
        let end = |id: &str, state: &str, at: &str| {
            told("Browser.downloadProgress", json!({ "guid": id, "state": state, "filePath": at }))
        };
        for id in ["1", "2", "3", "4"] {
            assert_eq!(downloads.hear(&begin(id), dir), None);
        }
        assert_eq!(downloads.hear(&end("1", "inProgress", "/home/downloads/1"), dir), None);
        assert_eq!(downloads.hear(&end("2", "canceled", "/home/downloads/2"), dir), None);
        assert_eq!(downloads.hear(&end("3", "completed", "/home/Downloads/b.txt"), dir), None);
        let (id, finished) = downloads.hear(&end("4", "completed", "/home/downloads/4"), dir).expect("whole");
        assert_eq!((id.as_str(), finished.name.as_str()), ("4", "b.txt"));
        assert_eq!(downloads.hear(&end("5", "completed", "/home/downloads/5"), dir), None, "it never began");
        assert_eq!(downloads.of_file("4"), Some(finished));
        for id in ["2", "3", "5"] {
            assert_eq!(downloads.of_file(id), None, "{id}");
        }
        // Its file is there before it is said that it is whole.
        let found = downloads.of_file("1").expect("whole");
        assert_eq!(downloads.hear(&end("1", "completed", "/home/downloads/1"), dir), Some(("1".to_owned(), found)));
    }

    /// Taken out: that they are counted.
    #[test]
    fn a_page_that_begins_downloads_for_ever_is_not_remembered_for_ever() {
        let (downloads, dir) = (Downloads::default(), Path::new("/home/downloads"));
        for id in 0..MAX_REMEMBERED + 10 {
            let params = json!({ "guid": id.to_string(), "suggestedFilename": "x" });
            downloads.hear(&told("Browser.downloadWillBegin", params), dir);
        }
        assert_eq!(downloads.0.lock().expect("not poisoned").begun.len(), MAX_REMEMBERED);
    }
}
