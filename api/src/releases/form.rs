//! Multipart uploads, streamed into staging while they are hashed. Whatever
//! ends the request early removes what was staged.

mod source;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use sluice_schema::id::ProjectId;

use self::source::{Refusal, Source, Tap};
use super::slots::Slot;
use crate::error::{ApiError, ApiResult};
use crate::storage::{Staged, Storage};
use crate::{ApiState, extract, text};

/// The largest upload, in bytes.
pub(crate) const UPLOAD_LIMIT_BYTES: usize = 256 * 1024 * 1024;
/// The largest text part: no JSON value may be larger.
const TEXT_LIMIT_BYTES: usize = text::JSON_BYTES;
const MAX_FILES: usize = 5000;
/// The longest filename, and so the longest extension.
pub(super) const FILE_NAME_CHARS: usize = 1024;
const DEFAULT_TYPE: &str = "application/octet-stream";

/// A body of type multipart/form-data, not yet read.
#[derive(Debug)]
pub(super) struct UploadBody {
    parts: Multipart,
    tap: Arc<Tap>,
}

impl<S: Send + Sync> FromRequest<S> for UploadBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        extract::check_length(request.headers(), UPLOAD_LIMIT_BYTES)?;
        let content_type = request.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(is_form) {
            return Err(ApiError::unsupported_media_type("multipart/form-data"));
        }
        let tap = Arc::new(Tap::default());
        let mut request = request.map(|body| {
            let source = Source::new(body.into_data_stream(), Arc::clone(&tap));
            Body::from_stream(source)
        });
        DefaultBodyLimit::max(UPLOAD_LIMIT_BYTES).apply(&mut request);
        let parts = Multipart::from_request(request, state).await;
        let refused = |_| ApiError::bad_request("Content-Type names no boundary");
        let parts = parts.map_err(refused)?;
        Ok(Self { parts, tap })
    }
}

fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("multipart/form-data")
}

impl From<MultipartError> for ApiError {
    fn from(error: MultipartError) -> Self {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::too_large(UPLOAD_LIMIT_BYTES);
        }
        if let Some(refusal) = Refusal::behind(&error) {
            return refusal.into();
        }
        Self::bad_request(format!("bad multipart body: {}", error.body_text()))
    }
}

/// A file of an upload, complete in staging.
#[derive(Debug)]
pub(super) struct UploadedFile {
    /// A relative path without `.` and `..`.
    pub(super) name: String,
    /// As the part says, else `application/octet-stream`.
    pub(super) content_type: String,
    pub(super) staged: Staged,
}

/// All parts of an upload.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) texts: BTreeMap<String, String>,
    /// In the order of the parts.
    pub(super) files: Vec<UploadedFile>,
    /// Last, so that the files are gone when the next upload begins.
    _slot: Slot,
}

impl Form {
    /// Reads the whole body, as soon as there is a place for it. Parts that
    /// `texts` names are texts; all others must be files.
    pub(super) async fn read(
        state: &ApiState,
        project: ProjectId,
        body: UploadBody,
        texts: &[&str],
    ) -> ApiResult<Self> {
        let UploadBody { mut parts, tap } = body;
        let mut form = Self {
            texts: BTreeMap::new(),
            files: Vec::new(),
            _slot: state.uploads.take(project).await?,
        };
        while let Some(part) = tap.draw(parts.next_field()).await? {
            let name = part.name().unwrap_or_default().to_owned();
            if texts.contains(&name.as_str()) {
                let text = read_text(part, &name, &tap).await?;
                form.texts.insert(name, text);
            } else {
                let file = read_file(part, &name, &tap, &state.storage).await?;
                form.files.push(file);
            }
            if form.files.len() > MAX_FILES {
                return Err(ApiError::bad_request(format!(
                    "more than {MAX_FILES} files"
                )));
            }
        }
        if form.files.is_empty() {
            return Err(ApiError::bad_request("no file was uploaded"));
        }
        Ok(form)
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.texts.get(name).map_or("", String::as_str)
    }
}

async fn read_text(mut part: Field<'_>, name: &str, tap: &Tap) -> ApiResult<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = tap.draw(part.chunk()).await? {
        if bytes.len() + chunk.len() > TEXT_LIMIT_BYTES {
            let message = format!("{name} must have at most {TEXT_LIMIT_BYTES} bytes");
            return Err(ApiError::bad_request(message));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::bad_request(format!("{name} is not UTF-8")))
}

async fn read_file(
    mut part: Field<'_>,
    field: &str,
    tap: &Tap,
    storage: &Storage,
) -> ApiResult<UploadedFile> {
    let given = part.file_name().unwrap_or_default();
    if given.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the part {field:?} has no filename"
        )));
    }
    let name = clean_name(given);
    if name.is_empty() || name.chars().count() > FILE_NAME_CHARS {
        let message = format!("the filename of the part {field:?} is empty or too long");
        return Err(ApiError::bad_request(message));
    }
    let content_type = content_type(part.content_type())?;
    let mut writer = storage.stage()?;
    while let Some(chunk) = tap.draw(part.chunk()).await? {
        writer.write(&chunk).await.map_err(ApiError::unavailable)?;
    }
    let staged = writer.finish().await.map_err(ApiError::unavailable)?;
    Ok(UploadedFile {
        name,
        content_type,
        staged,
    })
}

fn content_type(given: Option<&str>) -> ApiResult<String> {
    let given = given.map(str::trim).filter(|given| !given.is_empty());
    checked_type("Content-Type", given.unwrap_or(DEFAULT_TYPE))
}

/// A content type that can be a header of the asset.
pub(super) fn checked_type(field: &str, given: &str) -> ApiResult<String> {
    if !given.is_ascii() || given.chars().any(|c| c.is_ascii_control()) {
        return Err(ApiError::bad_request(format!(
            "{field} is not a content type"
        )));
    }
    text::required(field, given, text::NAME_CHARS)
}

/// A relative path, without control characters and without `.` and `..`.
fn clean_name(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let segments = name
        .split('/')
        .filter(|segment| !matches!(*segment, "" | "." | ".."));
    segments.collect::<Vec<_>>().join("/")
}

/// The dot and what follows the last one in the file's own name; empty if
/// nothing does.
pub(super) fn extension(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    match name.rfind('.') {
        Some(dot) if dot + 1 < name.len() => &name[dot..],
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_relative_paths() {
        assert_eq!(
            clean_name("_expo/static/js/ios/entry-ab12.hbc"),
            "_expo/static/js/ios/entry-ab12.hbc"
        );
        assert_eq!(clean_name("/../a/./b\u{0}\n//c.png"), "a/b/c.png");
        assert_eq!(clean_name("../.."), "");
        assert_eq!(extension("a.b/entry.min.js"), ".js");
        assert_eq!(extension("a.b/c"), "");
        assert_eq!(extension("name."), "");
        assert_eq!(extension(".env"), ".env");
    }

    #[test]
    fn types_are_headers() {
        assert_eq!(content_type(None).unwrap(), DEFAULT_TYPE);
        assert_eq!(content_type(Some(" image/png ")).unwrap(), "image/png");
        assert!(content_type(Some("a\r\nb")).is_err() && content_type(Some("ä")).is_err());
        assert!(is_form("Multipart/Form-Data; boundary=x") && !is_form("multipart/mixed"));
    }

    proptest! {
        #[test]
        fn no_name_climbs_out(name in ".*") {
            let clean = clean_name(&name);
            prop_assert!(clean.split('/').all(|segment| segment != ".." && segment != "."));
            prop_assert!(!clean.starts_with('/') && !clean.chars().any(char::is_control));
            prop_assert_eq!(clean_name(&clean), clean.clone());
            prop_assert!(clean.ends_with(extension(&clean)));
        }
    }
}
