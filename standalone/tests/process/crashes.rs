//! The process dies while somebody uploads or publishes: what they were told is
//! kept, and of the rest there is all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use hyper::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::sluice::{INSIDE, PATIENCE, POLL, Sluice, directory, signal};

const FILE_BYTES: usize = 100 * 1024 * 1024;
const CHUNK_BYTES: usize = 1024 * 1024;
const BOUNDARY: &str = "a-line-between-parts";

/// A build of one file, before and after its content.
fn form() -> (String, String) {
    let text = |name: &str, value: &str| {
        format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
    };
    let before = format!(
        "{}{}--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"assets\"; \
         filename=\"index.bundle\"\r\nContent-Type: application/javascript\r\n\r\n",
        text("runtimeVersion", "1.0.0"),
        text("platform", "ios")
    );
    (before, format!("\r\n--{BOUNDARY}--\r\n"))
}

/// An upload under way.
pub(crate) struct Upload(TcpStream);

impl Upload {
    /// Sends all that comes before the file's content.
    pub(crate) async fn begin(sluice: &Sluice, file_bytes: usize) -> Self {
        let (before, after) = form();
        let base_url = sluice.text("baseUrl");
        let address = base_url.strip_prefix("http://").unwrap();
        let head = format!(
            "POST /v1/ota/builds HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Authorization: Bearer {}\r\nX-Project: {}\r\n\
             Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
             Content-Length: {}\r\n\r\n{before}",
            sluice.text("apiKey"),
            sluice.text("projectSlug"),
            before.len() + file_bytes + after.len(),
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(stream)
    }

    /// Content of the file: so many times the same byte.
    pub(crate) async fn send(&mut self, byte: u8, bytes: usize) {
        let chunk = vec![byte; CHUNK_BYTES];
        for _ in 0..bytes / CHUNK_BYTES {
            self.0.write_all(&chunk).await.unwrap();
        }
        self.0
            .write_all(&chunk[..bytes % CHUNK_BYTES])
            .await
            .unwrap();
    }

    pub(crate) async fn end(&mut self) {
        self.0.write_all(form().1.as_bytes()).await.unwrap();
    }

    /// The answer as it came, after all was sent.
    pub(crate) async fn answer(mut self) -> String {
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// Regular files below a directory, by path, with their sizes in bytes.
fn files_in(dir: &Path) -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // What goes away meanwhile is not there.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            files.extend(files_in(&entry.path()));
        } else {
            files.insert(entry.path().to_str().unwrap().to_owned(), metadata.len());
        }
    }
    files
}

/// Waits until staging holds so many bytes.
async fn until_staged(sluice: &Sluice, bytes: u64) {
    let staging = sluice.data_dir.join("files/staging");
    let deadline = Instant::now() + PATIENCE;
    while files_in(&staging).values().sum::<u64>() < bytes {
        assert!(Instant::now() < deadline, "never staged");
        tokio::time::sleep(POLL).await;
    }
}

async fn count(pool: &PgPool, query: &str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

/// Staging is empty; each blob has its object, whole; each object is a blob's
/// or will be removed.
async fn files_and_rows_agree(sluice: &Sluice, pool: &PgPool) {
    let files = sluice.data_dir.join("files");
    assert_eq!(files_in(&files.join("staging")), BTreeMap::new());
    let path = |key: &String| files.join(key).to_str().unwrap().to_owned();
    let blobs: Vec<(String, i64)> = sqlx::query_as("select storage_key, size_bytes from blobs")
        .fetch_all(pool)
        .await
        .unwrap();
    let announced: Vec<String> = sqlx::query_scalar("select storage_key from unowned_objects")
        .fetch_all(pool)
        .await
        .unwrap();
    let mut objects = files_in(&files.join("assets"));
    for (key, size_bytes) in &blobs {
        let found = objects.remove(&path(key));
        assert_eq!(found, Some(*size_bytes as u64), "{key}");
    }
    let known: BTreeSet<String> = announced.iter().map(path).collect();
    assert!(
        objects.keys().all(|object| known.contains(object)),
        "{objects:?}"
    );
}

#[tokio::test]
async fn an_upload_that_a_kill_9_interrupts_leaves_nothing() {
    let dir = directory();
    let mut sluice = Sluice::start(dir.path()).await;
    for staged in [CHUNK_BYTES, FILE_BYTES / 2, FILE_BYTES - CHUNK_BYTES] {
        let mut upload = Upload::begin(&sluice, FILE_BYTES).await;
        upload.send(0, staged).await;
        // What is on its way to the disk may be a little less.
        until_staged(&sluice, staged as u64 / 2).await;
        let staging = sluice.data_dir.join("files/staging");
        sluice.kill();
        assert_eq!(files_in(&staging).len(), 1, "it died with half a file");
        sluice = Sluice::start(dir.path()).await;
        let pool = sluice.postgres().await;
        assert_eq!(sluice.get("/v1/ota/builds").await, json!([]));
        for table in ["builds", "build_assets", "blobs", "unowned_objects"] {
            let rows = count(&pool, &format!("select count(*) from {table}")).await;
            assert_eq!(rows, 0, "{table}");
        }
        assert_eq!(files_in(&sluice.data_dir.join("files/assets")).len(), 0);
        files_and_rows_agree(&sluice, &pool).await;
    }
}

#[tokio::test]
async fn a_build_is_there_as_a_whole_or_not_at_all() {
    let dir = directory();
    let mut sluice = Sluice::start(dir.path()).await;
    // Right after the last byte, at what comes first after it, and at the end.
    for (byte, awaited) in [(0, None), (1, Some("unowned_objects")), (2, Some("builds"))] {
        let before = sluice.get("/v1/ota/builds").await;
        let mut upload = Upload::begin(&sluice, FILE_BYTES).await;
        upload.send(byte, FILE_BYTES).await;
        let pool = sluice.postgres().await;
        let query = format!("select count(*) from {}", awaited.unwrap_or("builds"));
        let rows = count(&pool, &query).await;
        let mut holder = pool.begin().await.unwrap();
        if awaited == Some("unowned_objects") {
            // So that what comes after it waits.
            let hold = "lock table builds in share mode";
            sqlx::query(hold).execute(&mut *holder).await.unwrap();
        }
        upload.end().await;
        let deadline = Instant::now() + PATIENCE;
        while awaited.is_some() && count(&pool, &query).await == rows {
            assert!(Instant::now() < deadline, "nothing new: {query}");
            tokio::time::sleep(POLL).await;
        }
        sluice.kill();
        drop(holder);
        sluice = Sluice::start(dir.path()).await;
        let pool = sluice.postgres().await;
        files_and_rows_agree(&sluice, &pool).await;
        let builds = sluice.get("/v1/ota/builds").await;
        let builds = builds.as_array().unwrap();
        assert!(builds.iter().all(|build| build["assetCount"] == 1));
        let more = builds.len() - before.as_array().unwrap().len();
        assert!(awaited.is_none_or(|table| more == usize::from(table == "builds")));
        assert!(more <= 1);
        let usage = sluice.get("/v1/ota/gc").await;
        assert_eq!(usage["totalSizeBytes"], FILE_BYTES * builds.len());
        let audited = "select count(*) from audit_log where action = 'build.uploaded'";
        assert_eq!(count(&pool, audited).await, builds.len() as i64);
    }
}

#[tokio::test]
async fn what_was_published_through_a_kill_9_is_whole() {
    const PUBLISHES: usize = 200;
    const BEFORE_THE_KILL: usize = 20;
    const AT_A_TIME: usize = 8;

    let dir = directory();
    let sluice = Sluice::start_with(dir.path(), &INSIDE).await;
    let mut upload = Upload::begin(&sluice, CHUNK_BYTES).await;
    upload.send(0, CHUNK_BYTES).await;
    upload.end().await;
    let uploaded = |answer: &Value| !answer.as_array().unwrap().is_empty();
    let build = sluice.get_until("/v1/ota/builds", uploaded).await[0]["id"].clone();
    let hook = json!({ "url": "http://127.0.0.1:9/", "events": ["build.published"] });
    sluice.post("/v1/ota/webhooks", &hook).await;

    let path = format!("/v1/ota/builds/{build}/publish");
    let bodies: Vec<_> = (0..PUBLISHES)
        .map(|n| json!({ "channel": "production", "groupId": format!("group-{n}") }))
        .collect();
    let publishes = bodies
        .iter()
        .map(|body| sluice.try_call(Method::POST, &path, Some(body)));
    let mut publishes = stream::iter(publishes).buffer_unordered(AT_A_TIME);
    let mut told = BTreeSet::new();
    while told.len() < BEFORE_THE_KILL {
        let answer = publishes.next().await.unwrap().unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        told.insert(answer.body["updateId"].as_i64().unwrap());
    }
    signal(sluice.child.id(), Signal::KILL);
    while let Some(answer) = publishes.next().await {
        let answer = answer.filter(|answer| answer.status == StatusCode::CREATED);
        told.extend(answer.and_then(|answer| answer.body["updateId"].as_i64()));
    }
    drop(publishes);
    drop(sluice);
    assert!(told.len() < PUBLISHES, "the kill came too late");

    let sluice = Sluice::start(dir.path()).await;
    let pool = sluice.postgres().await;
    let updates: Vec<i64> = sqlx::query_scalar("select id from updates order by id")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert!(told.iter().all(|id| updates.contains(id)));
    for of_each in [
        "select count(*) from update_assets where is_launch_asset",
        "select count(distinct update_id) from update_assets",
        "select count(*) from audit_log where action = 'build.published'",
        "select count(*) from webhook_deliveries",
        "select count(distinct body::json->'data'->>'update_id') from webhook_deliveries",
    ] {
        assert_eq!(
            count(&pool, of_each).await,
            updates.len() as i64,
            "{of_each}"
        );
    }
    files_and_rows_agree(&sluice, &pool).await;
}
