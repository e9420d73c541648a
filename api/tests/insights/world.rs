//! Two projects, what their devices send, and the API over it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use clickhouse::Client;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sluice_aggregator::batch::BatchLimits;
use sluice_aggregator::{Aggregator, Parts, migrate};
use sluice_api::ApiState;
use sluice_api::clock::Clock;
use sluice_api::state::Policy;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_eventlog::{EventLog, Record};
use sluice_schema::clickhouse::folds::{HourKind, SETTINGS, fold_day, fold_hour};
use sluice_schema::frame::{
    ContentKind, FrameBuilder, ProjectRef, Request as Received, mark_replay,
};
use sluice_schema::id::{FrameId, ProjectId};
use sluice_schema::wire::manifests::ManifestRequest;
use sluice_schema::wire::{Scratch, health};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;

/// Until when something must have happened.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 24 * HOUR_S;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }
}

pub(crate) struct World {
    pub(crate) pool: PgPool,
    /// The present of the API.
    pub(crate) now: DateTime<Utc>,
    store: Store,
    pub(crate) log: Arc<EmbeddedLog>,
    dead_letters: Arc<EmbeddedLog>,
    last_frame: Bytes,
    /// Requests of the manifest endpoint.
    manifests: Arc<EmbeddedLog>,
    last_manifests: Bytes,
    folds: u64,
    router: Router,
    _dir: TempDir,
}

/// Where ClickHouse is.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) url: String,
    user: String,
    password: String,
    database: String,
}

impl Store {
    fn client(&self) -> Client {
        Client::default()
            .with_url(&self.url)
            .with_user(&self.user)
            .with_password(&self.password)
            .with_database(&self.database)
    }
}

impl World {
    /// At noon of yesterday, so that no hour ends while a test runs and nothing expires.
    pub(crate) async fn start() -> Self {
        let yesterday = Utc::now().date_naive() - TimeDelta::days(1);
        Self::at(yesterday.and_hms_opt(12, 30, 0).unwrap().and_utc()).await
    }

    pub(crate) async fn at(now: DateTime<Utc>) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect(&sluice_engines::testing::postgres())
            .await
            .unwrap();
        sluice_schema::postgres::MIGRATOR.run(&pool).await.unwrap();
        let made = sluice_engines::testing::clickhouse();
        let store = Store {
            url: made.url,
            user: made.user,
            password: made.password,
            database: made.database,
        };
        migrate::run_in(&store.client()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let open =
            |name: &str| EmbeddedLog::open(&dir.path().join(name), EmbeddedConfig::default());
        let (log, dead_letters) = (open("health").unwrap(), open("dead-letter").unwrap());
        let manifests = open("manifests").unwrap();
        let router = router(&pool, &store, now);
        let world = Self {
            pool,
            now,
            store,
            log: Arc::new(log),
            dead_letters: Arc::new(dead_letters),
            last_frame: Bytes::new(),
            manifests: Arc::new(manifests),
            last_manifests: Bytes::new(),
            folds: 0,
            router,
            _dir: dir,
        };
        for slug in ["my-app", "other"] {
            world
                .run(&format!(
                    "insert into projects (name, slug) values ('{slug}', '{slug}')"
                ))
                .await;
            for role in ["viewer", "publishable"] {
                world.key(slug, role).await;
            }
        }
        world
    }

    /// Runs statements of Postgres.
    pub(crate) async fn run(&self, statements: &str) {
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// An API key `dsp_<slug>_<role>`.
    async fn key(&self, slug: &str, role: &str) {
        sqlx::query(
            "insert into api_keys (project_id, name, key_hash, key_prefix, role)
             select id, 'test', $1, 'dsp', $2 from projects where slug = $3",
        )
        .bind(hex::encode(Sha256::digest(format!("dsp_{slug}_{role}"))))
        .bind(role)
        .bind(slug)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    async fn project(&self, slug: &str) -> ProjectId {
        let id = sqlx::query_scalar("select id from projects where slug = $1").bind(slug);
        ProjectId(id.fetch_one(&self.pool).await.unwrap())
    }

    /// A boolean flag of my-app with the variations On and Off.
    pub(crate) async fn flag(&self, key: &str) -> i64 {
        sqlx::query_scalar(
            "with flag as (
                 insert into flags (project_id, key, name, flag_type, default_value)
                 select id, $1, $1, 'boolean', 'false' from projects where slug = 'my-app'
                 returning id, project_id),
             variations as (
                 insert into flag_variations (project_id, flag_id, value, name, sort_order)
                 select project_id, id, v.value::jsonb, v.name, v.sort_order
                 from flag, (values ('true', 'On', 0), ('false', 'Off', 1)) v (value, name, sort_order))
             select id from flag",
        )
        .bind(key)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// Devices of my-app send these bodies now.
    pub(crate) async fn send(&mut self, bodies: &[Value]) {
        self.send_at("my-app", self.now, bodies).await;
    }

    /// The edge accepts these bodies at a moment, in one frame.
    pub(crate) async fn send_at(&mut self, slug: &str, at: DateTime<Utc>, bodies: &[Value]) {
        let bodies = bodies.iter().map(Value::to_string).collect();
        self.accept(slug, at, bodies).await;
    }

    async fn accept(&mut self, slug: &str, at: DateTime<Utc>, bodies: Vec<String>) {
        let project = ProjectRef::Id(self.project(slug).await);
        let mut builder = FrameBuilder::new();
        for body in &bodies {
            let payload = body.as_bytes();
            let request = Received {
                project: project.clone(),
                received_at_us: at.timestamp_micros(),
                kind: ContentKind::Health,
                payload,
            };
            let kept = health::decode(payload, &mut Scratch::default())
                .unwrap()
                .kept();
            builder.push(&request, kept);
        }
        self.last_frame = builder.finish(FrameId::new());
        append(&self.log, self.last_frame.clone());
    }

    /// The last frame arrives again, marked as a replay.
    pub(crate) fn replay(&self) {
        append(&self.log, mark_replay(&self.last_frame).unwrap());
    }

    /// The manifest endpoint answers these requests at a moment, in one frame.
    pub(crate) async fn manifests_at(
        &mut self,
        slug: &str,
        at: DateTime<Utc>,
        requests: &[ManifestRequest<'_>],
    ) {
        let project = ProjectRef::Id(self.project(slug).await);
        let mut builder = FrameBuilder::new();
        for request in requests {
            let request = Received {
                project: project.clone(),
                received_at_us: at.timestamp_micros(),
                kind: ContentKind::Manifests,
                payload: &request.encode(),
            };
            builder.push(&request, 1);
        }
        self.last_manifests = builder.finish(FrameId::new());
        append(&self.manifests, self.last_manifests.clone());
    }

    /// The last frame of manifest requests arrives again, marked as a replay.
    pub(crate) fn replay_manifests(&self) {
        append(&self.manifests, mark_replay(&self.last_manifests).unwrap());
    }

    /// An update of a project: its id, and what devices call it.
    pub(crate) async fn update(&self, slug: &str, runtime_version: &str) -> (i64, Uuid) {
        sqlx::query_as(
            "insert into updates (project_id, runtime_version, platform, channel, branch_name, group_id)
             select id, $2, 'ios', 'production', 'main', 'g' from projects where slug = $1
             returning id, update_uuid",
        )
        .bind(slug)
        .bind(runtime_version)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// Stores and folds all that was sent, and forgets what the API remembers.
    pub(crate) async fn settle(&mut self) {
        let manifests = Aggregator::manifests(self.parts(&self.manifests));
        let manifests = Self::run_until_caught_up(manifests).await;
        for (stop, task) in [self.aggregate().await, manifests] {
            stop.cancel();
            task.await.unwrap();
        }
        // What the aggregator folded by its own clock gives way to ours.
        for table in ["folds", "folded_until"] {
            let forget = format!("TRUNCATE TABLE {table}");
            self.store.client().query(&forget).execute().await.unwrap();
        }
        self.fold().await;
        self.router = router(&self.pool, &self.store, self.now);
    }

    /// Stores all that was sent; the aggregator goes on, and folds, until it is stopped.
    pub(crate) async fn aggregate(&self) -> (CancellationToken, JoinHandle<()>) {
        let health = Aggregator::new(self.parts(&self.log));
        Self::run_until_caught_up(health).await
    }

    fn parts(&self, log: &Arc<EmbeddedLog>) -> Parts {
        Parts {
            log: log.clone(),
            dead_letters: self.dead_letters.clone(),
            clickhouse: self.store.client(),
            projects: Arc::new(HashMap::<String, ProjectId>::new()),
            limits: BatchLimits::default(),
        }
    }

    async fn run_until_caught_up(aggregator: Aggregator) -> (CancellationToken, JoinHandle<()>) {
        let mut progress = aggregator.progress();
        let stop = CancellationToken::new();
        let task = aggregator.run(stop.clone());
        let task = tokio::spawn(async move { task.await.unwrap() });
        let now_us = micros_now();
        let stored = progress.wait_for(|p| p.caught_up_us > now_us);
        let stored = tokio::time::timeout(PATIENCE, stored).await;
        stored.expect("stored in time").unwrap();
        (stop, task)
    }

    /// Folds every hour, the running one of [`World::now`] as open, and days before today.
    async fn fold(&mut self) {
        let hours = "SELECT DISTINCT toUnixTimestamp(hour) FROM device_hours ORDER BY 1";
        let hours = self.store.client().query(hours).fetch_all::<u32>();
        let running = self.now.timestamp().div_euclid(HOUR_S) * HOUR_S;
        let today = self.now.timestamp().div_euclid(DAY_S) * DAY_S;
        let mut days: BTreeMap<i64, Vec<(i64, u64)>> = BTreeMap::new();
        for hour in hours.await.unwrap() {
            let hour = i64::from(hour);
            let open = hour == running;
            let (name, kind) = if open {
                ("now", HourKind::Open)
            } else {
                ("hour", HourKind::Closed)
            };
            let ver = self.commit(name, hour, &fold_hour(kind), &[]).await;
            let day = hour.div_euclid(DAY_S) * DAY_S;
            if day < today {
                days.entry(day).or_default().push((hour, ver));
            }
        }
        for (day, parts) in days {
            self.commit("day", day, &fold_day(), &parts).await;
        }
        let until =
            "INSERT INTO folded_until (watermark) SELECT fromUnixTimestamp64Micro(?, 'UTC')";
        let until = self
            .store
            .client()
            .query(until)
            .bind(self.now.timestamp_micros());
        until.execute().await.unwrap();
    }

    async fn commit(
        &mut self,
        kind: &str,
        slot: i64,
        fold: &[String],
        parts: &[(i64, u64)],
    ) -> u64 {
        self.folds += 1;
        let ver = self.folds;
        let versions: Vec<u64> = parts.iter().map(|(_, ver)| *ver).collect();
        let client = SETTINGS
            .into_iter()
            .fold(self.store.client(), |client, (name, value)| {
                client.with_setting(name, value)
            });
        for statement in fold {
            let statement = client.query(statement).param("h", slot).param("ver", ver);
            let statement = statement.param("vers", versions.clone());
            statement.execute().await.unwrap();
        }
        let commit =
            "INSERT INTO folds (kind, slot, ver, parts) SELECT ?, toDateTime(?, 'UTC'), ?, ?";
        let commit = self
            .store
            .client()
            .query(commit)
            .bind(kind)
            .bind(slot)
            .bind(ver);
        commit.bind(parts).execute().await.unwrap();
        ver
    }

    /// Runs a statement of ClickHouse.
    pub(crate) async fn clickhouse(&self, statement: &str) {
        let statement = self.store.client().query(statement);
        statement.execute().await.unwrap();
    }

    /// Rows of the raw table.
    pub(crate) async fn raw_rows(&self) -> u64 {
        self.count("SELECT count() FROM health_events").await
    }

    /// The number that is a statement's answer.
    pub(crate) async fn count(&self, statement: &str) -> u64 {
        let count = self.store.client().query(statement).fetch_one();
        count.await.unwrap()
    }

    /// How a table was made, in full.
    pub(crate) async fn definition(&self, table: &str) -> String {
        let definition = "SELECT create_table_query FROM system.tables \
                          WHERE database = currentDatabase() AND name = ?";
        let definition = self.store.client().query(definition).bind(table);
        definition.fetch_one().await.unwrap()
    }

    /// Tables whose rows belong to projects.
    pub(crate) async fn tables_of_projects(&self) -> Vec<String> {
        let tables = "SELECT DISTINCT table FROM system.parts_columns \
                      WHERE database = currentDatabase() AND active AND column = 'project_id'";
        self.store.client().query(tables).fetch_all().await.unwrap()
    }

    /// The same API over another ClickHouse address.
    pub(crate) fn over(&self, url: String) -> Router {
        sluice_api::router(self.state_over(url))
    }

    /// What a process of the API has, that remembers nothing.
    pub(crate) fn state(&self) -> ApiState {
        state(&self.pool, &self.store, self.now)
    }

    /// The same over another ClickHouse address.
    pub(crate) fn state_over(&self, url: String) -> ApiState {
        let store = Store {
            url,
            ..self.store.clone()
        };
        state(&self.pool, &store, self.now)
    }

    pub(crate) fn clickhouse_url(&self) -> &str {
        &self.store.url
    }

    /// What a viewer of my-app reads.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let answer = self.get(path, "dsp_my-app_viewer", Some("my-app")).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {:?}", answer.body);
        answer.json()
    }

    pub(crate) async fn get(&self, path: &str, token: &str, project: Option<&str>) -> Answer {
        get(&self.router, path, token, project).await
    }
}

/// Makes a record durable.
fn append(log: &EmbeddedLog, bytes: Bytes) {
    let (done, appended) = std::sync::mpsc::channel();
    let record = Record {
        id: FrameId::new(),
        partition: 0,
        bytes,
    };
    let tell = Box::new(move |result| done.send(result).unwrap());
    log.append(record, tell);
    appended.recv().unwrap().unwrap();
}

fn router(pool: &PgPool, store: &Store, now: DateTime<Utc>) -> Router {
    sluice_api::router(state(pool, store, now))
}

fn state(pool: &PgPool, store: &Store, now: DateTime<Utc>) -> ApiState {
    let state = ApiState::new(pool.clone(), store.client(), Policy::default());
    state.with_clock(Clock::from_fn(move || now))
}

pub(crate) async fn get(router: &Router, path: &str, token: &str, project: Option<&str>) -> Answer {
    let request = Request::get(format!("/v1/ota{path}"));
    let request = match token {
        "" => request,
        token => request.header("authorization", format!("Bearer {token}")),
    };
    let request = match project {
        Some(project) => request.header("x-project", project),
        None => request,
    };
    let request = request.body(Body::empty()).unwrap();
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

fn micros_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_micros() as i64
}

/// A body of a device on production.
pub(crate) fn body(device: &str, events: Value) -> Value {
    json!({
        "projectSlug": "my-app", "deviceId": device, "platform": "ios", "runtimeVersion": "1.0",
        "channel": "production", "events": events,
    })
}

/// The same with other members.
pub(crate) fn with(mut body: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

/// An event whose device holds `new-cart: true`.
pub(crate) fn on(kind: &str, count: u32) -> Value {
    json!({"type": kind, "count": count, "flagStates": {"new-cart": true}})
}

/// So many devices, each of which sends these events.
pub(crate) fn devices(prefix: &str, n: usize, events: &Value) -> Vec<Value> {
    let device = |n: usize| body(&format!("{prefix}-{n}"), events.clone());
    (0..n).map(device).collect()
}
