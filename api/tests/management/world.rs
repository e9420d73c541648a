//! Two projects in a database of its own, people and keys of every role in
//! each, and the API over it, at a time that tests move.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{HeaderMap, Method, Request};
use chrono::{DateTime, TimeDelta, Utc};
use http_body_util::BodyExt as _;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sluice_aggregator::config::ClickHouseConfig;
use sluice_api::ApiState;
use sluice_api::clock::Clock;
use sluice_api::state::Policy;
use sluice_api::storage::{Storage, StorageConfig};
use sluice_service::config::Secret;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tower::ServiceExt as _;

/// When every test begins.
pub(crate) const BEGINNING: &str = "2026-01-02T03:04:05Z";

pub(crate) struct World {
    pub(crate) state: ApiState,
    pub(crate) pool: PgPool,
    now: Arc<Mutex<DateTime<Utc>>>,
    router: Router,
    _files: Option<TempDir>,
}

/// A token and a project. The token `<slug>-<role>` is a session of a member,
/// `key-<slug>-<role>` an API key, `stranger` a session of somebody without a
/// project.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) token: &'static str,
    pub(crate) project: &'static str,
}

const fn caller(token: &'static str, project: &'static str) -> Caller {
    Caller { token, project }
}

pub(crate) const ADMIN: Caller = caller("ours-admin", "ours");
pub(crate) const EDITOR: Caller = caller("ours-editor", "ours");
pub(crate) const VIEWER: Caller = caller("ours-viewer", "ours");
pub(crate) const THEIR_ADMIN: Caller = caller("theirs-admin", "theirs");

/// What a request was answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null if it is not JSON.
    pub(crate) json: Value,
}

impl Answer {
    /// The body, if the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.json);
        if status >= 400 {
            let text = self.json["error"].as_str();
            assert!(text.is_some_and(|text| !text.is_empty()), "{}", self.json);
        }
        self.json
    }
}

impl World {
    /// Webhooks may go to private addresses, because their receivers are here.
    pub(crate) async fn start() -> Self {
        Self::with_policy(Policy {
            allow_private_webhooks: true,
            ..Policy::default()
        })
        .await
    }

    pub(crate) async fn with_policy(policy: Policy) -> Self {
        Self::over(clickhouse::Client::default(), policy, None).await
    }

    /// With every store that a route may ask: what devices reported, and files.
    pub(crate) async fn whole() -> Self {
        let made = sluice_engines::testing::clickhouse();
        let config = ClickHouseConfig {
            url: made.url,
            user: made.user,
            password: Some(Secret::new(made.password)),
            database: made.database,
        };
        sluice_aggregator::migrate::run(&config).await.unwrap();
        let policy = Policy {
            allow_private_webhooks: true,
            ..Policy::default()
        };
        Self::over(config.client(), policy, Some(tempfile::tempdir().unwrap())).await
    }

    async fn over(clickhouse: clickhouse::Client, policy: Policy, files: Option<TempDir>) -> Self {
        let url = sluice_engines::testing::postgres();
        let pool = PgPoolOptions::new().max_connections(8);
        let pool = pool.connect(&url).await.unwrap();
        sluice_schema::postgres::MIGRATOR.run(&pool).await.unwrap();
        let now = Arc::new(Mutex::new(BEGINNING.parse().unwrap()));
        let clock = Clock::from_fn({
            let now = Arc::clone(&now);
            move || *now.lock().unwrap()
        });
        let mut state = ApiState::new(pool.clone(), clickhouse, policy).with_clock(clock);
        if let Some(files) = &files {
            let config = StorageConfig::local(files.path().to_owned());
            state = state.with_storage(Storage::open(&config).unwrap());
        }
        let router = sluice_api::router(state.clone());
        let world = Self {
            state,
            pool,
            now,
            router,
            _files: files,
        };
        for slug in ["ours", "theirs"] {
            world.add_project(slug).await;
        }
        world.add_session("stranger").await;
        world
    }

    async fn add_project(&self, slug: &str) {
        self.run(&format!(
            "insert into projects (name, slug, created_at) values ('{slug}', '{slug}', '{BEGINNING}');
             insert into branches (project_id, name, created_at)
                select id, 'main', '{BEGINNING}' from projects where slug = '{slug}';
             insert into channels (project_id, name, branch_name, created_at)
                select id, 'production', 'main', '{BEGINNING}' from projects where slug = '{slug}';"
        ))
        .await;
        for role in ["admin", "editor", "viewer"] {
            self.add_session(&format!("{slug}-{role}")).await;
            self.run(&format!(
                "insert into memberships (project_id, user_id, role)
                 select p.id, u.id, '{role}' from projects p, users u
                 where p.slug = '{slug}' and u.name = '{slug}-{role}'"
            ))
            .await;
        }
        for role in ["admin", "editor", "viewer", "publishable"] {
            let key = format!("key-{slug}-{role}");
            let hash = hash(&key);
            self.run(&format!(
                "insert into api_keys (project_id, name, key_hash, key_prefix, role, created_at)
                 select id, '{key}', '{hash}', 'dsp_', '{role}', '{BEGINNING}'
                 from projects where slug = '{slug}'"
            ))
            .await;
        }
    }

    /// An account of that name, with a session whose token is the name.
    async fn add_session(&self, name: &str) {
        let hash = hash(name);
        self.run(&format!(
            "insert into users (email, name, role, password_hash, created_at)
             values ('{name}@example.test', '{name}', 'viewer', 'none', '{BEGINNING}');
             insert into sessions (token_hash, user_id, expires_at)
             select '{hash}', id, 'infinity' from users where name = '{name}'"
        ))
        .await;
    }

    /// Runs statements, in one transaction.
    pub(crate) async fn run(&self, statements: &str) {
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// The only number that a query finds.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        *self.now.lock().unwrap()
    }

    pub(crate) fn wait(&self, time: TimeDelta) {
        *self.now.lock().unwrap() += time;
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            json: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    pub(crate) async fn call(
        &self,
        caller: Caller,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let request = request(method, path)
            .header("authorization", format!("Bearer {}", caller.token))
            .header("x-project", caller.project);
        self.send(with_body(request, body)).await
    }

    pub(crate) async fn get(&self, caller: Caller, path: &str) -> Answer {
        self.call(caller, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, caller: Caller, path: &str, body: &Value) -> Answer {
        self.call(caller, Method::POST, path, Some(body)).await
    }

    pub(crate) async fn patch(&self, caller: Caller, path: &str, body: &Value) -> Answer {
        self.call(caller, Method::PATCH, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, caller: Caller, path: &str) -> Answer {
        self.call(caller, Method::DELETE, path, None).await
    }

    /// The audit log of the project, newest first.
    pub(crate) async fn audit(&self) -> Vec<Value> {
        let entries = self.get(ADMIN, "/audit-log").await.expect(200);
        entries.as_array().unwrap().clone()
    }

    /// The newest audit entry: action, entity id, details, actor's name.
    pub(crate) async fn last_audit(&self) -> (String, Value, Value, Value) {
        let entry = self.audit().await.remove(0);
        let action = entry["action"].as_str().unwrap().to_owned();
        let field = |name: &str| entry[name].clone();
        (
            action,
            field("entityId"),
            field("details"),
            field("actorName"),
        )
    }
}

/// `path` lies under `/v1/ota`.
pub(crate) fn request(method: Method, path: &str) -> Builder {
    Request::builder()
        .method(method)
        .uri(format!("{}{path}", sluice_api::BASE_PATH))
}

pub(crate) fn with_body(request: Builder, body: Option<&Value>) -> Request<Body> {
    let request = match body {
        Some(body) => request
            .header("content-type", "application/json")
            .body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    request.unwrap()
}

pub(crate) fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

/// The keys of an object, sorted.
pub(crate) fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}
