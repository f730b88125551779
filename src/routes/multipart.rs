//! Files that clients upload: a form (`multipart/form-data`, RFC 7578) of one part, which is called `file`.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::stream;
use multer::Multipart;

use super::body;
use crate::error::ApiError;

const PART: &str = "file";
/// What a form has around its file, in bytes.
const MAX_FRAME: usize = 64 * 1024;
/// In bytes, as file systems have it.
const MAX_NAME: usize = 255;
/// How long it may take to come.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct UploadedFile {
    pub name: String,
    pub content: Bytes,
}

fn of_the_file(what: &str) -> ApiError {
    ApiError::invalid(format!("{PART}: {what}"))
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", format!("{PART}: must be at most {most} bytes"))
}

/// Reads all of it before anything is said: whoever still sends would find the connection broken instead of an answer.
pub async fn one_file(headers: &HeaderMap, body: Body, most: usize) -> Result<UploadedFile, ApiError> {
    let read = body::read_at_most(headers, body, most + MAX_FRAME, DEADLINE).await;
    let body = read.map_err(|error| match error.status {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(most),
        _ => error,
    })?;
    let boundary = headers.get(CONTENT_TYPE).and_then(|value| multer::parse_boundary(value.to_str().ok()?).ok());
    let Some(boundary) = boundary else {
        return Err(of_the_file("send it as a part of multipart/form-data"));
    };
    let unreadable = |_: multer::Error| of_the_file("the form that it is sent in cannot be read");
    let mut form = Multipart::new(stream::iter([Ok::<_, Infallible>(body)]), boundary);
    let mut file = None;
    while let Some(part) = form.next_field().await.map_err(unreadable)? {
        match part.name() {
            Some(PART) if file.is_some() => return Err(of_the_file("must be there once")),
            Some(PART) => {}
            Some(other) if is_word(other) => {
                return Err(ApiError::invalid(format!("{other}: is not expected: send one part, {PART}")));
            }
            _ => return Err(of_the_file("send one part, of this name")),
        }
        let name = part.file_name().unwrap_or_default().to_owned();
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(of_the_file(&format!("must have a file name, of at most {MAX_NAME} bytes")));
        }
        let content = part.bytes().await.map_err(unreadable)?;
        if content.len() > most {
            return Err(too_large(most));
        }
        file = Some(UploadedFile { name, content });
    }
    file.ok_or_else(|| of_the_file("is missing"))
}

/// Whether it can be repeated as the name of a field.
fn is_word(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.[]".contains(&b))
}
