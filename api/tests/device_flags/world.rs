//! One project in a database of its own, and the API over it.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sluice_api::ApiState;
use sluice_api::state::Policy;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

/// Until when something must have happened.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The slug of the only project.
pub(crate) const SLUG: &str = "my-app";

pub(crate) struct World {
    pub(crate) state: ApiState,
    pub(crate) pool: PgPool,
    router: Router,
    follower: JoinHandle<()>,
    asker: JoinHandle<()>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl World {
    /// An empty project, and rates that no test reaches.
    pub(crate) async fn start() -> Self {
        let unlimited = sluice_api::flags::FlagLimits {
            project_per_s: 1e9,
            device_per_s: 1e9,
            address_per_s: 1e9,
        };
        Self::with_policy(Policy {
            flag_limits: unlimited,
            ..Policy::default()
        })
        .await
    }

    pub(crate) async fn with_policy(policy: Policy) -> Self {
        Self::over(clickhouse::Client::default(), policy).await
    }

    /// With a store of what devices reported, too.
    pub(crate) async fn with_clickhouse() -> Self {
        let database = sluice_engines::testing::clickhouse();
        let client = clickhouse::Client::default()
            .with_url(&database.url)
            .with_user(&database.user)
            .with_password(&database.password)
            .with_database(&database.database);
        for migration in sluice_schema::clickhouse::MIGRATIONS {
            for statement in migration.statements() {
                client.query_raw(statement).execute().await.unwrap();
            }
        }
        Self::over(client, Policy::default()).await
    }

    async fn over(clickhouse: clickhouse::Client, policy: Policy) -> Self {
        let url = sluice_engines::testing::postgres();
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect(&url)
            .await
            .unwrap();
        sluice_schema::postgres::MIGRATOR.run(&pool).await.unwrap();
        let state = ApiState::new(pool.clone(), clickhouse, policy);
        let world = Self {
            router: sluice_api::router(state.clone()),
            follower: tokio::spawn(state.flags.clone().follow()),
            asker: tokio::spawn({
                let state = state.clone();
                async move { state.flags.keep_asking(&state.clickhouse).await }
            }),
            state,
            pool,
        };
        world
            .run("insert into projects (name, slug) values ('My App', 'my-app')")
            .await;
        world
    }

    /// Runs statements, in one transaction.
    pub(crate) async fn run(&self, statements: &str) {
        sqlx::raw_sql(statements).execute(&self.pool).await.unwrap();
    }

    /// A boolean flag with the variations On and Off, false by default.
    pub(crate) async fn flag(&self, key: &str) -> i64 {
        sqlx::query_scalar(
            "with flag as (
                 insert into flags (project_id, key, name, flag_type, default_value)
                 select id, $1, $1, 'boolean', 'false' from projects returning id, project_id),
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

    /// A rule for every channel.
    pub(crate) async fn rule(&self, flag: i64, rule_type: &str, config: Value, value: Value) {
        sqlx::query(
            "insert into flag_rules (project_id, flag_id, rule_type, rule_config, variant_value)
             select project_id, id, $2, $3, nullif($4, 'null'::jsonb) from flags where id = $1",
        )
        .bind(flag)
        .bind(rule_type)
        .bind(config)
        .bind(value)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// An API key of this role.
    pub(crate) async fn key(&self, role: &str) -> String {
        let key = format!("dsp_{role}");
        let hash = hex::encode(Sha256::digest(&key));
        sqlx::query(
            "insert into api_keys (project_id, name, key_hash, key_prefix, role)
             select id, 'test', $1, 'dsp', $2 from projects where slug = 'my-app'",
        )
        .bind(hash)
        .bind(role)
        .execute(&self.pool)
        .await
        .unwrap();
        key
    }

    /// A release of group `group` on production, which runs as the update with this UUID.
    pub(crate) async fn update(&self, uuid: &str, group: &str) {
        self.run(&format!(
            "insert into updates (project_id, update_uuid, runtime_version, platform, channel,
                                  branch_name, group_id)
             select id, '{uuid}', '1.0', 'ios', 'production', 'main', '{group}' from projects"
        ))
        .await;
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.send(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.answer(request("GET", path, headers).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let request = request("POST", path, headers).header("content-type", "application/json");
        self.answer(request.body(Body::from(body.to_string())).unwrap())
            .await
    }

    /// Postgres goes away, for good.
    pub(crate) async fn cut_postgres(&self) {
        self.follower.abort();
        self.pool.close().await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.follower.abort();
        self.asker.abort();
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    })
}

/// Asks again until the answer is as wanted.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(10)).await;
    }
}
