use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::response::Builder;
use axum::http::{Extensions, HeaderMap, Method, Response, StatusCode, Version};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sqlx::{FromRow, PgPool};

use super::range::Wanted;
use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::extract::Path;
use crate::network::ClientAddress;

/// How many files' facts are remembered; about 300 bytes each.
const REMEMBERED: u64 = 50_000;
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
const PREFIXES: [&str; 2] = ["assets/", "builds/"];

/// Facts of the files that were asked for, in memory. They never change: a key
/// is used once.
#[derive(Clone, Debug)]
pub(crate) struct AssetIndex(moka::future::Cache<String, Arc<Asset>>);

impl Default for AssetIndex {
    fn default() -> Self {
        Self(moka::future::Cache::new(REMEMBERED))
    }
}

#[derive(Debug, FromRow)]
struct Asset {
    sha256: String,
    size_bytes: i64,
    content_type: String,
}

impl Asset {
    /// A strong entity tag: the content's SHA-256 in hex.
    fn etag(&self) -> ApiResult<String> {
        let digest = BASE64_URL_SAFE_NO_PAD
            .decode(&self.sha256)
            .map_err(ApiError::internal)?;
        Ok(format!("\"{}\"", hex::encode(digest)))
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes.unsigned_abs()
    }
}

impl AssetIndex {
    /// The file of that key, if any project has it.
    async fn find(&self, pool: &PgPool, key: &str) -> ApiResult<Arc<Asset>> {
        if let Some(known) = self.0.get(key).await {
            return Ok(known);
        }
        // By its key alone: devices name no project, and keys cannot be guessed.
        let found: Option<Asset> = sqlx::query_as(
            "select sha256, size_bytes, content_type from blobs where storage_key = $1",
        )
        .bind(key)
        .fetch_optional(pool)
        .await?;
        let found = Arc::new(found.ok_or_else(no_such_asset)?);
        self.0.insert(key.to_owned(), Arc::clone(&found)).await;
        Ok(found)
    }
}

fn no_such_asset() -> ApiError {
    ApiError::not_found("Asset")
}

/// A file of an update, for devices. Never changes, so it may be kept for ever.
#[utoipa::path(get, path = "/assets/{*key}", tag = "devices", security(()),
    params(("key" = String, Path, description = "As in the manifest; the rest of the path"),
           ("Range" = Option<String>, Header, description = "One range of bytes"),
           ("If-Range" = Option<String>, Header, description = "Entity tag that the range is of"),
           ("If-None-Match" = Option<String>, Header, description = "Entity tags that the client has")),
    responses((status = 200, description = "The whole file", content_type = "application/octet-stream", body = Vec<u8>),
              (status = 206, description = "A part of the file", content_type = "application/octet-stream", body = Vec<u8>),
              (status = 304, description = "The client has it"),
              (status = 404, description = "No such file"),
              (status = 416, description = "The range lies outside of the file"),
              (status = 429, description = "Too many requests from this address")))]
pub(crate) async fn serve(
    State(state): State<ApiState>,
    ClientAddress(address): ClientAddress,
    method: Method,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response<Body>> {
    state.asset_reads.check(address, state.clock.now())?;
    check(&key)?;
    let asset = state.assets.find(&state.postgres, &key);
    let asset = state.heartbeat.bound(asset).await??;
    let (etag, size_bytes) = (asset.etag()?, asset.size_bytes());
    let response = Response::builder()
        .header(ETAG, &etag)
        .header(CACHE_CONTROL, IMMUTABLE)
        .header(ACCEPT_RANGES, "bytes");
    let range = match Wanted::of(&headers, &etag, size_bytes) {
        Wanted::Nothing => return finish(response.status(StatusCode::NOT_MODIFIED), Body::empty()),
        Wanted::Unsatisfiable => return Ok(unsatisfiable(size_bytes)),
        Wanted::All => None,
        Wanted::Part(range) => Some(range),
    };
    let response = match &range {
        None => response.status(StatusCode::OK),
        Some(range) => response.status(StatusCode::PARTIAL_CONTENT).header(
            CONTENT_RANGE,
            format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1),
        ),
    };
    let range = range.unwrap_or(0..size_bytes);
    let response = response
        .header(CONTENT_TYPE, &asset.content_type)
        .header(CONTENT_LENGTH, range.end - range.start)
        // Files are what editors uploaded; in a browser they must stay files.
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
    if method == Method::HEAD {
        return finish(response, Body::empty());
    }
    if let Some(bytes) = state.storage.read(&key, range).await? {
        return finish(response, Body::from_stream(bytes));
    }
    state.assets.0.invalidate(&key).await;
    Err(no_such_asset())
}

/// Refuses what can be no key (expo-updates.md §9).
fn check(key: &str) -> ApiResult<()> {
    let is_path = !key.is_empty() && !key.contains(['\\', '\0']);
    if !is_path
        || key
            .split('/')
            .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return Err(ApiError::bad_request("this is not the key of an asset"));
    }
    if !PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return Err(no_such_asset());
    }
    Ok(())
}

fn finish(response: Builder, body: Body) -> ApiResult<Response<Body>> {
    response.body(body).map_err(ApiError::internal)
}

fn unsatisfiable(size_bytes: u64) -> Response<Body> {
    let mut response = ApiError::range_not_satisfiable().into_response();
    let range = format!("bytes */{size_bytes}");
    if let Ok(value) = range.try_into() {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    response
}

/// Whether compression pays: the type is text.
pub(crate) fn is_text(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || ["javascript", "json", "xml"]
            .iter()
            .any(|ending| essence.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_are_refused_and_other_places_do_not_exist() {
        for bad in [
            "",
            "/assets/a",
            "assets/../secrets",
            "assets/./a",
            "assets\\a",
            "assets/a\0",
        ] {
            assert_eq!(check(bad).unwrap_err().status(), 400, "{bad:?}");
        }
        assert_eq!(check("staging/a").unwrap_err().status(), 404);
        assert!(check("assets/1/a").is_ok() && check("builds/7/b/c.png").is_ok());
    }

    #[test]
    fn text_is_compressed_and_images_are_not() {
        let is_text = |content_type: &str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type.parse().unwrap())]);
            is_text(
                StatusCode::OK,
                Version::HTTP_11,
                &headers,
                &Extensions::new(),
            )
        };
        for text in [
            "application/javascript",
            "text/css; charset=utf-8",
            "image/svg+xml",
            "application/json",
        ] {
            assert!(is_text(text), "{text}");
        }
        assert!(!is_text("image/png") && !is_text("application/octet-stream"));
    }
}
