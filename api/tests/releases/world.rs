//! Two projects in a database of their own, a storage directory, and the API
//! over both.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sluice_api::ApiState;
use sluice_api::clock::Clock;
use sluice_api::flags::FlagLimits;
use sluice_api::state::{Policy, UploadLimits};
use sluice_api::storage::{Storage, StorageConfig};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tower::ServiceExt as _;

/// The project that tests act in.
pub(crate) const OURS: &str = "ours";
/// A project of someone else.
pub(crate) const THEIRS: &str = "theirs";
const BOUNDARY: &str = "b0undary";

pub(crate) struct World {
    pub(crate) state: ApiState,
    pub(crate) pool: PgPool,
    pub(crate) dir: TempDir,
    router: Router,
    now_us: Arc<AtomicI64>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    /// The body, after checking the status.
    #[track_caller]
    pub(crate) fn of(&self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status.as_u16(), status, "{text}");
        if self.bytes.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
    }

    /// Refused so, in JSON, with a message that has this text in it.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, text: &str) {
        let error = self.of(status)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(text), "{error}");
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// A part of a multipart body.
pub(crate) enum Part<'a> {
    Text(&'a str, &'a str),
    /// Filename, type, bytes.
    File(&'a str, &'a str, &'a [u8]),
    /// Name of the part, filename, bytes.
    Named(&'a str, &'a str, &'a [u8]),
}

impl World {
    pub(crate) async fn start() -> Self {
        let unlimited = FlagLimits {
            project_per_s: 1e9,
            device_per_s: 1e9,
            address_per_s: 1e9,
        };
        // However slow the machine, uploads get their turn.
        let patient = UploadLimits {
            wait: Duration::from_hours(1),
            ..UploadLimits::default()
        };
        Self::with_policy(Policy {
            flag_limits: unlimited,
            upload_limits: patient,
            ..Policy::default()
        })
        .await
    }

    pub(crate) async fn with_policy(policy: Policy) -> Self {
        let url = sluice_engines::testing::postgres();
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(&url)
            .await
            .unwrap();
        sluice_schema::postgres::MIGRATOR.run(&pool).await.unwrap();
        let dir = TempDir::new().unwrap();
        let storage = Storage::open(&StorageConfig::local(dir.path())).unwrap();
        Self::over(pool, dir, storage, policy).await
    }

    async fn over(pool: PgPool, dir: TempDir, storage: Storage, policy: Policy) -> Self {
        let start: DateTime<Utc> = "2026-03-01T08:00:00.123456Z".parse().unwrap();
        let now_us = Arc::new(AtomicI64::new(start.timestamp_micros()));
        let clock = Clock::from_fn({
            let now_us = Arc::clone(&now_us);
            move || DateTime::from_timestamp_micros(now_us.load(Ordering::SeqCst)).unwrap()
        });
        let state = ApiState::new(pool.clone(), clickhouse::Client::default(), policy)
            .with_storage(storage)
            .with_clock(clock);
        let router = sluice_api::router(state.clone());
        let world = Self {
            state,
            pool,
            dir,
            router,
            now_us,
        };
        world.furnish().await;
        world
    }

    /// Both projects have branch main behind production, a key of each role,
    /// and a webhook for everything.
    async fn furnish(&self) {
        self.run(
            "insert into projects (name, slug) values ('Ours', 'ours'), ('Theirs', 'theirs');
             insert into branches (project_id, name) select id, 'main' from projects;
             insert into channels (project_id, name, branch_name) select id, 'production', 'main' from projects;",
        )
        .await;
        let events: Vec<&str> = sluice_api::webhooks::Event::ALL
            .iter()
            .map(|e| e.name())
            .collect();
        sqlx::query("insert into webhooks (project_id, url, events) select id, 'http://x.test', $1 from projects")
            .bind(events)
            .execute(&self.pool)
            .await
            .unwrap();
        for slug in [OURS, THEIRS] {
            for role in ["publishable", "viewer", "editor", "admin"] {
                sqlx::query(
                    "insert into api_keys (project_id, name, key_hash, key_prefix, role)
                     select id, $2, $3, 'dsp', $2 from projects where slug = $1",
                )
                .bind(slug)
                .bind(role)
                .bind(hex::encode(Sha256::digest(key(slug, role))))
                .execute(&self.pool)
                .await
                .unwrap();
            }
        }
    }

    pub(crate) async fn run(&self, statements: &str) {
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// The only value that a query gives, as JSON.
    pub(crate) async fn value(&self, query: &str) -> Value {
        let query = format!("select to_jsonb(q.v) from ({query}) q (v)");
        let value: Option<Value> = sqlx::query_scalar(&query)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        value.unwrap_or_default()
    }

    pub(crate) fn advance(&self, by: TimeDelta) {
        self.now_us
            .fetch_add(by.num_microseconds().unwrap(), Ordering::SeqCst);
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self
            .router
            .clone()
            .oneshot(request)
            .await
            .unwrap()
            .into_parts();
        Answer {
            status: parts.status,
            headers: parts.headers,
            bytes: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    /// A request with a JSON body, or none, by an editor of ours.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.call_as((OURS, "editor"), method, path, body).await
    }

    pub(crate) async fn call_as(
        &self,
        (slug, role): (&str, &str),
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = authorized(method, path, slug, role);
        let body = match body {
            Some(body) => {
                request = request.header("content-type", "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(body)).await
    }

    /// A request of a device.
    pub(crate) async fn fetch(&self, method: &str, key: &str, headers: &[(&str, &str)]) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/ota/assets/{key}"));
        let request = headers
            .iter()
            .fold(request, |request, (n, v)| request.header(*n, *v));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn upload(&self, path: &str, parts: &[Part<'_>]) -> Answer {
        self.upload_as((OURS, "editor"), path, parts).await
    }

    pub(crate) async fn upload_as(
        &self,
        who: (&str, &str),
        path: &str,
        parts: &[Part<'_>],
    ) -> Answer {
        self.send(form_request(who, path, Body::from(form(parts))))
            .await
    }

    /// Uploads one file by itself; as `POST /updates` takes it.
    pub(crate) async fn asset(&self, name: &str, bytes: &[u8], is_launch: bool) -> Value {
        self.asset_of(OURS, name, bytes, is_launch).await
    }

    pub(crate) async fn asset_of(
        &self,
        slug: &str,
        name: &str,
        bytes: &[u8],
        is_launch: bool,
    ) -> Value {
        let part = Part::File(name, "application/javascript", bytes);
        let mut asset = self
            .upload_as((slug, "editor"), "/assets/upload", &[part])
            .await
            .of(200)[0]
            .take();
        asset["isLaunchAsset"] = json!(is_launch);
        asset
    }

    /// A build for ios, runtime 1.0.0, of one bundle; its id.
    pub(crate) async fn build(&self, bundle: &[u8]) -> i64 {
        self.build_for("ios", bundle).await
    }

    pub(crate) async fn build_for(&self, platform: &str, bundle: &[u8]) -> i64 {
        let parts = [
            Part::Text("runtimeVersion", "1.0.0"),
            Part::Text("platform", platform),
            Part::Text("message", "from CI"),
            Part::Text("gitCommitHash", "c0ffee"),
            Part::Text("gitBranch", "feature/pay"),
            Part::File("entry.hbc", "application/javascript", bundle),
            Part::File("assets/logo.png", "image/png", b"logo"),
        ];
        self.upload("/builds", &parts).await.of(201)["id"]
            .as_i64()
            .unwrap()
    }

    /// A build, published to a channel; the update's id.
    pub(crate) async fn publish(&self, channel: &str) -> i64 {
        let build = self.build(b"bundle").await;
        let body = json!({ "channel": channel });
        let published = self
            .post(&format!("/builds/{build}/publish"), body)
            .await
            .of(201);
        published["updateId"].as_i64().unwrap()
    }

    /// The update as lists show it.
    pub(crate) async fn update(&self, id: i64) -> Value {
        let all = self.get("/updates?limit=500").await.of(200);
        let found = all
            .as_array()
            .unwrap()
            .iter()
            .find(|update| update["id"] == id);
        found.unwrap_or_else(|| panic!("no update {id}")).clone()
    }

    /// Audit rows of our project, oldest first: action, entity id, details.
    pub(crate) async fn audit(&self) -> Vec<(String, Option<i64>, Value)> {
        sqlx::query_as(
            "select action, entity_id, details from audit_log
             where project_id = (select id from projects where slug = 'ours') order by id",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Events that were written for our webhook, oldest first: name and data.
    pub(crate) async fn events(&self) -> Vec<(String, Value)> {
        sqlx::query_as(
            "select event, body::jsonb -> 'data' from webhook_deliveries
             where project_id = (select id from projects where slug = 'ours') order by id",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Checks that the last change left one audit row and one event, and only
    /// in our project.
    #[track_caller]
    pub(crate) fn noted(
        &self,
        action: (&str, Option<i64>, Value),
        event: Option<(&str, Value)>,
    ) -> impl Future<Output = ()> {
        let action = (action.0.to_owned(), action.1, action.2);
        let event = event.map(|(name, data)| (name.to_owned(), data));
        async move {
            assert_eq!(self.audit().await.last(), Some(&action));
            if event.is_some() {
                assert_eq!(self.events().await.last(), event.as_ref());
            }
            let elsewhere = self.value(
                "select (select count(*) from audit_log a join projects p on p.id = a.project_id
                         where p.slug = 'theirs')
                      + (select count(*) from webhook_deliveries d join projects p on p.id = d.project_id
                         where p.slug = 'theirs')",
            );
            assert_eq!(elsewhere.await, json!(0));
        }
    }

    /// How many audit rows and deliveries there are in all.
    pub(crate) async fn notes(&self) -> (usize, usize) {
        (self.audit().await.len(), self.events().await.len())
    }

    /// Names of files in a folder of the storage, and below.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        files_below(&self.dir.path().join(folder))
    }
}

pub(crate) fn files_below(dir: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let entries = entries.map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| {
        if path.is_dir() {
            files_below(&path)
        } else {
            vec![path.display().to_string()]
        }
    });
    files.collect()
}

pub(crate) fn key(slug: &str, role: &str) -> String {
    format!("dsp_{slug}_{role}")
}

pub(crate) fn authorized(
    method: &str,
    path: &str,
    slug: &str,
    role: &str,
) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("/v1/ota{path}"))
        .header("authorization", format!("Bearer {}", key(slug, role)))
        .header("x-project", slug)
}

pub(crate) fn form_request(who: (&str, &str), path: &str, body: Body) -> Request<Body> {
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    authorized("POST", path, who.0, who.1)
        .header("content-type", content_type)
        .body(body)
        .unwrap()
}

pub(crate) fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        body.extend(part_head(part).into_bytes());
        body.extend(match part {
            Part::Text(_, text) => text.as_bytes(),
            Part::File(_, _, bytes) | Part::Named(_, _, bytes) => bytes,
        });
        body.extend(b"\r\n");
    }
    body.extend(form_end());
    body
}

pub(crate) fn part_head(part: &Part<'_>) -> String {
    match part {
        Part::Text(name, _) => {
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n")
        }
        Part::File(name, content_type, _) => format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"assets\"; filename=\"{name}\"\r\n\
             content-type: {content_type}\r\n\r\n"
        ),
        Part::Named(field, name, _) => format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\r\n"
        ),
    }
}

pub(crate) fn form_end() -> Vec<u8> {
    format!("--{BOUNDARY}--\r\n").into_bytes()
}
