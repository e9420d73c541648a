//! Against a server on loopback that speaks as much of the S3 protocol as is
//! used here, and forgets nothing that it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sluice_service::config::Secret;
use tempfile::TempDir;

use super::super::{PART_BYTES, Staged, Storage, StorageConfig};
use super::S3Config;

#[derive(Default)]
struct Server {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    parts: Mutex<BTreeMap<u32, Vec<u8>>>,
    requests: Mutex<Vec<String>>,
    /// Parts from this one on are refused.
    refuse_from: Option<u32>,
}

async fn serve(
    State(server): State<Arc<Server>>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let signed = headers
        .get("authorization")
        .map_or("", |v| v.to_str().unwrap());
    if !signed.starts_with("AWS4-HMAC-SHA256 Credential=key-id/") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let key = uri.path().to_owned();
    let kinds: Vec<_> = query.keys().map(String::as_str).collect();
    server
        .requests
        .lock()
        .unwrap()
        .push(format!("{method} {}", kinds.join("+")));
    let part = query
        .get("partNumber")
        .map(|number| number.parse::<u32>().unwrap());
    match (method.as_str(), part) {
        ("PUT", Some(part)) if server.refuse_from.is_some_and(|from| part >= from) => {
            StatusCode::BAD_REQUEST.into_response()
        }
        ("PUT", Some(part)) => {
            server.parts.lock().unwrap().insert(part, body.to_vec());
            [("etag", "\"e\"")].into_response()
        }
        ("PUT", None) => {
            server.objects.lock().unwrap().insert(key, body.to_vec());
            [("etag", "\"e\"")].into_response()
        }
        ("POST", _) if query.contains_key("uploads") => {
            "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                .into_response()
        }
        ("POST", _) => {
            let whole = server
                .parts
                .lock()
                .unwrap()
                .values()
                .flatten()
                .copied()
                .collect();
            server.objects.lock().unwrap().insert(key, whole);
            "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
                .into_response()
        }
        ("DELETE", _) => {
            server.objects.lock().unwrap().remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => server.object(&key, &headers),
    }
}

impl Server {
    fn object(&self, key: &str, headers: &HeaderMap) -> Response {
        let objects = self.objects.lock().unwrap();
        let Some(object) = objects.get(key) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let common = [
            ("etag", "\"e\""),
            ("last-modified", "Sun, 01 Mar 2026 08:00:00 GMT"),
        ];
        let Some(range) = headers.get("range") else {
            return (common, object.clone()).into_response();
        };
        let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let part = &object[first.parse().unwrap()..=last.parse().unwrap()];
        let range = [("content-range", format!("bytes {range}/{}", object.len()))];
        (
            StatusCode::PARTIAL_CONTENT,
            common,
            range,
            Body::from(part.to_vec()),
        )
            .into_response()
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

async fn start(server: Server) -> (Arc<Server>, Storage, TempDir) {
    let server = Arc::new(server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .fallback(serve)
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::clone(&server));
    tokio::spawn(axum::serve(listener, router).into_future());
    let dir = TempDir::new().unwrap();
    let secret = |text: &str| Secret::new(text.to_owned());
    let s3 = S3Config {
        bucket: "files".to_owned(),
        region: "eu-1".to_owned(),
        endpoint: Some(endpoint),
        credentials: Some((secret("key-id"), secret("secret"))),
    };
    let config = StorageConfig {
        s3: Some(s3),
        ..StorageConfig::local(dir.path())
    };
    (server, Storage::open(&config).unwrap(), dir)
}

async fn stage(storage: &Storage, bytes: &[u8]) -> Staged {
    let mut writer = storage.stage().unwrap();
    writer.write(bytes).await.unwrap();
    writer.finish().await.unwrap()
}

async fn read(storage: &Storage, key: &str, range: std::ops::Range<u64>) -> Option<Vec<u8>> {
    let stream = storage.read(key, range).await.unwrap()?;
    Some(stream.try_collect::<Vec<_>>().await.unwrap().concat())
}

#[tokio::test]
async fn a_small_file_is_one_request_and_a_large_one_comes_in_parts() {
    let (server, storage, _dir) = start(Server::default()).await;
    let small = stage(&storage, b"small").await;
    storage.keep(&small, "assets/1/small").await.unwrap();
    assert_eq!(server.requests(), ["PUT "]);
    assert_eq!(read(&storage, "assets/1/small", 1..3).await.unwrap(), b"ma");
    server.requests();
    let bytes: Vec<u8> = (0..PART_BYTES * 2 + 5).map(|n| (n / 7) as u8).collect();
    let large = stage(&storage, &bytes).await;
    storage.keep(&large, "assets/1/large").await.unwrap();
    let part = "PUT partNumber+uploadId";
    assert_eq!(
        server.requests(),
        ["POST uploads", part, part, part, "POST uploadId"]
    );
    let all = read(&storage, "assets/1/large", 0..bytes.len() as u64)
        .await
        .unwrap();
    assert!(all == bytes);
    storage.remove("assets/1/large").await.unwrap();
    assert_eq!(read(&storage, "assets/1/large", 0..1).await, None);
}

#[tokio::test]
async fn an_upload_that_fails_half_way_is_given_up() {
    let refusing = Server {
        refuse_from: Some(2),
        ..Server::default()
    };
    let (server, storage, _dir) = start(refusing).await;
    let large = stage(&storage, &vec![1; PART_BYTES + 1]).await;
    let answer = storage.keep(&large, "assets/1/large").await.unwrap_err();
    assert_eq!(answer.status(), 503);
    assert_eq!(server.requests().last().unwrap(), "DELETE uploadId");
    assert!(server.objects.lock().unwrap().is_empty());
}
