//! Archives of extensions.

use std::io::{Cursor, Write as _};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

pub fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        zip.start_file(*name, SimpleFileOptions::default()).expect("begun");
        zip.write_all(text.as_bytes()).expect("written");
    }
    zip.finish().expect("finished").into_inner()
}

/// One whose pages and worker know its name.
pub fn extension(name: &str) -> Vec<u8> {
    let manifest = serde_json::json!({
        "manifest_version": 3, "name": name, "version": "1.0", "background": {"service_worker": "worker.js"},
    });
    zip(&[("manifest.json", &manifest.to_string()), ("worker.js", &format!("globalThis.calledIt = '{name}';"))])
}
