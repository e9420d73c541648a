//! An edge on a port of its own, and a client that shows every byte of an answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use sluice_eventlog::committer::CommitterConfig;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_eventlog::{EventLog, ReadEvent};
use sluice_ingest::directory::Directory;
use sluice_ingest::{Edge, Limits, NotFound, Parts, serve};
use sluice_schema::frame::{ContentKind, Frame, ProjectRef};
use sluice_schema::postgres::MIGRATOR;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const HEALTH: &str = "/v1/ota/health-metrics";
pub const EVALUATIONS: &str = "/v1/ota/flag-evaluations";
/// The key of the project `my-app`, which has the id 1.
pub const KEY: &str = "dsp_0123456789abcdef";

/// What differs from an ordinary edge.
#[derive(Default)]
pub struct Setting {
    pub limits: Limits,
    pub log: EmbeddedConfig,
    pub copy: Option<PathBuf>,
}

pub struct World {
    pub address: SocketAddr,
    pub edge: Arc<Edge>,
    pub directory: Arc<Directory>,
    pub health: Arc<EmbeddedLog>,
    pub evaluations: Arc<EmbeddedLog>,
    pub stop: CancellationToken,
    pub serving: JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An address of a migrated database with the project `my-app` and its key.
pub async fn database() -> PgPool {
    let pool = PgPoolOptions::new()
        .max_connections(6)
        .connect(&sluice_engines::testing::postgres())
        .await
        .unwrap();
    migrate(&pool).await;
    pool
}

pub async fn migrate(pool: &PgPool) {
    MIGRATOR.run(pool).await.unwrap();
    assert_eq!(add_project(pool, "my-app").await, 1);
    add_key(pool, 1, KEY, "editor").await;
}

pub async fn add_project(pool: &PgPool, slug: &str) -> i64 {
    sqlx::query_scalar("insert into projects (name, slug) values ($1, $1) returning id")
        .bind(slug)
        .fetch_one(pool)
        .await
        .unwrap()
}

pub fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

pub async fn add_key(pool: &PgPool, project: i64, key: &str, role: &str) {
    sqlx::query(
        "insert into api_keys (project_id, name, key_hash, key_prefix, role) \
         values ($1, 'k', $2, 'dsp_', $3)",
    )
    .bind(project)
    .bind(hash(key))
    .bind(role)
    .execute(pool)
    .await
    .unwrap();
}

impl World {
    /// An edge that knows what is in a fresh database.
    pub async fn start(setting: Setting) -> Self {
        Self::with(database().await, setting).await
    }

    /// An edge that knows what `pool` has.
    pub async fn with(pool: PgPool, setting: Setting) -> Self {
        let world = Self::without_waiting(pool, setting).await;
        let directory = Arc::clone(&world.directory);
        eventually("the directory is loaded", async || directory.is_current()).await;
        world
    }

    pub async fn without_waiting(pool: PgPool, setting: Setting) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| Arc::new(EmbeddedLog::open(&dir.path().join(name), setting.log).unwrap());
        let (health, evaluations) = (open("health"), open("evaluations"));
        let directory = Arc::new(Directory::open(pool, setting.copy));
        let edge = Edge::start(Parts {
            directory: Arc::clone(&directory),
            health: Arc::clone(&health) as Arc<dyn EventLog>,
            evaluations: Arc::clone(&evaluations) as Arc<dyn EventLog>,
            committer: CommitterConfig {
                in_flight: 1,
                ..CommitterConfig::default()
            },
            limits: setting.limits,
        })
        .unwrap();
        let stop = CancellationToken::new();
        tokio::spawn({
            let (directory, stop) = (Arc::clone(&directory), stop.clone());
            async move { directory.follow(stop).await }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, Arc::clone(&edge), NotFound, stop.clone()));
        Self {
            address,
            edge,
            directory,
            health,
            evaluations,
            stop,
            serving,
            _dir: dir,
        }
    }

    pub async fn send(&self, request: Request<'_>) -> Reply {
        exchange(self.address, &request.bytes()).await
    }

    pub async fn post(&self, body: impl AsRef<[u8]>) -> Reply {
        self.send(Request::post(HEALTH, body.as_ref())).await
    }

    /// Posts `{"evaluations": …}` of one flag with these headers.
    pub async fn evaluate(&self, headers: &[(&str, &str)]) -> Reply {
        let body = br#"{"evaluations":[{"flagKey":"f","count":1}]}"#;
        let request = headers.iter().fold(
            Request::post(EVALUATIONS, body),
            |request, (name, value)| request.with(name, value),
        );
        self.send(request).await
    }
}

/// A request of the health log or of the evaluations log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub project: Result<i64, String>,
    pub kind: ContentKind,
    pub payload: Vec<u8>,
}

/// Everything in a log.
pub fn logged(log: &EmbeddedLog) -> Vec<Logged> {
    let mut reader = log.reader("test").unwrap();
    let mut all = Vec::new();
    loop {
        match reader.poll(1 << 20, Duration::ZERO).unwrap() {
            ReadEvent::Records { records, .. } => {
                for record in records {
                    let frame = Frame::decode(&record.bytes).unwrap();
                    all.extend(frame.requests().unwrap().into_iter().map(|r| Logged {
                        project: match r.project {
                            ProjectRef::Id(id) => Ok(id.0),
                            ProjectRef::Slug(slug) => Err(slug.to_owned()),
                        },
                        kind: r.kind,
                        payload: r.payload.to_vec(),
                    }));
                }
            }
            ReadEvent::Assigned(_) => {}
            _ => return all,
        }
    }
}

/// A request, down to its bytes.
pub struct Request<'b> {
    method: &'b str,
    path: &'b str,
    headers: Vec<(String, String)>,
    body: &'b [u8],
}

impl<'b> Request<'b> {
    pub fn new(method: &'b str, path: &'b str) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: b"",
        }
    }

    /// As an SDK sends it.
    pub fn post(path: &'b str, body: &'b [u8]) -> Self {
        Self {
            body,
            ..Self::new("POST", path)
        }
        .with("Content-Type", "application/json")
    }

    /// Sets a header; an empty value takes it away.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: edge\r\n", self.method, self.path);
        head += "Connection: close\r\n";
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let chunked = self
            .headers
            .iter()
            .any(|(name, _)| name == "Transfer-Encoding");
        if chunked {
            let size = format!("{:x}\r\n", self.body.len());
            return [
                head.as_bytes(),
                b"\r\n",
                size.as_bytes(),
                self.body,
                b"\r\n0\r\n\r\n",
            ]
            .concat();
        }
        if !self.body.is_empty() || self.method == "POST" {
            head.extend(["Content-Length: ", &self.body.len().to_string(), "\r\n"]);
        }
        [head.as_bytes(), b"\r\n", self.body].concat()
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Json {
        assert_eq!(self.header("content-type"), Some("application/json"));
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                (name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        Some(Self {
            status,
            headers,
            body: body.to_owned(),
        })
    }
}

/// Sends `bytes` on a connection of their own and reads until the edge closes it.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    Reply::parse(&answer).expect("an answer")
}

pub async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_mins(1), read).await;
    // A reset after the answer is the client's to tolerate, not before it.
    let _ = read.expect("the edge closes the connection");
    answer
}

/// Waits for something that other threads bring about.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A body of the project `my-app` with these events.
pub fn body(events: &Json) -> Json {
    json!({"projectSlug": "my-app", "deviceId": "d", "platform": "ios",
           "runtimeVersion": "1", "events": events})
}

pub fn launch() -> String {
    body(&json!([{"type": "app_launch", "count": 1}])).to_string()
}
