//! Where a browser is not taken to.

use serde_json::Value;

/// Schemes behind which are the container's files, the browser's own pages, and its DevTools. An extension's pages
/// (`chrome-extension:`) and the page in place of one that failed (`chrome-error:`) are not among them.
const CLOSED: [&str; 9] = [
    "file",
    "filesystem",
    "externalfile",
    "content",
    "chrome",
    "chrome-untrusted",
    "chrome-search",
    "devtools",
    "chrome-devtools",
];

/// What is no text is the browser's to complain about.
pub fn check(url: Option<&Value>) -> Result<(), String> {
    let Some(url) = url.and_then(Value::as_str) else { return Ok(()) };
    match closed_scheme(url) {
        Some(scheme) => Err(format!("{scheme}: URLs cannot be opened in a session")),
        None => Ok(()),
    }
}

/// As Chrome reads a URL: tabs and line breaks count nowhere, nor do spaces and control characters in front and at
/// the end, and the scheme may be in capitals.
fn closed_scheme(url: &str) -> Option<String> {
    let read: String = url.chars().filter(|character| !matches!(character, '\t' | '\n' | '\r')).collect();
    let (scheme, rest) = read.trim_matches(|character| character <= ' ').split_once(':')?;
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "view-source" => closed_scheme(rest),
        // about:version is an old name of chrome://version; only these two are pages of their own.
        "about" if !matches!(rest.split(['?', '#']).next(), Some("blank" | "srcdoc")) => Some(scheme),
        _ => CLOSED.contains(&scheme.as_str()).then_some(scheme),
    }
}
