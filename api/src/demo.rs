//! The project that standalone starts with, so that there is something to see.

use chrono::Utc;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use crate::error::ApiResult;
use crate::projects::slug;
use crate::role::Role;
use crate::{api_keys, auth, projects};

/// Slug of the demo project; what the SDK's examples send.
pub const SLUG: &str = "my-app";

/// How to use the demo project.
#[derive(Clone, Debug)]
pub struct DemoCredentials {
    /// Slug of the project.
    pub project_slug: String,
    /// An admin key of it. Only its hash is stored.
    pub api_key: String,
}

/// Makes the demo project with its flags, unless it is there, and a key unless
/// `kept_key`, which the caller kept from before, still works.
pub async fn ensure(pool: &PgPool, kept_key: Option<&str>) -> ApiResult<DemoCredentials> {
    let mut transaction = pool.begin().await?;
    // One at a time, also between processes.
    sqlx::query("select pg_advisory_xact_lock(hashtext('sluice demo project'))")
        .execute(&mut *transaction)
        .await?;
    let project = ensure_project(&mut transaction).await?;
    let api_key = match kept_key {
        Some(key) if is_valid(&mut transaction, project, key).await? => key.to_owned(),
        _ => new_key(&mut transaction, project).await?,
    };
    transaction.commit().await?;
    Ok(DemoCredentials {
        project_slug: SLUG.to_owned(),
        api_key,
    })
}

async fn ensure_project(connection: &mut PgConnection) -> ApiResult<i64> {
    let found = sqlx::query_scalar("select id from projects where slug = $1")
        .bind(SLUG)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(project) = found {
        return Ok(project);
    }
    let at = Utc::now();
    let project = projects::store::insert(connection, "My App", &slug::parse(SLUG)?, at)
        .await?
        .id;
    projects::store::add_main_branch(connection, project, at).await?;
    for (key, values) in flags() {
        insert_flag(connection, project, key, &values).await?;
    }
    Ok(project)
}

async fn is_valid(connection: &mut PgConnection, project: i64, key: &str) -> ApiResult<bool> {
    let found = sqlx::query_scalar(
        "select exists (select from api_keys where key_hash = $1 and project_id = $2 and is_active)",
    );
    let hash = auth::token::hash(key);
    Ok(found.bind(hash).bind(project).fetch_one(connection).await?)
}

async fn new_key(connection: &mut PgConnection, project: i64) -> ApiResult<String> {
    let key = auth::token::random_api_key()?;
    api_keys::store::insert(
        connection,
        project,
        "Standalone",
        Role::Admin,
        &key,
        Utc::now(),
    )
    .await?;
    Ok(key)
}

/// A flag whose variations are `values`; the first is the default.
async fn insert_flag(
    connection: &mut PgConnection,
    project: i64,
    key: &str,
    values: &[Value],
) -> ApiResult<()> {
    let flag: i64 = sqlx::query_scalar(
        "insert into flags (project_id, key, name, flag_type, default_value)
         values ($1, $2, $2, $3, $4) returning id",
    )
    .bind(project)
    .bind(key)
    .bind(flag_type(&values[0]))
    .bind(&values[0])
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query(
        "insert into flag_variations (project_id, flag_id, value, sort_order)
         select $1, $2, v.value, v.ordinality - 1 from unnest($3::jsonb[]) with ordinality v(value)",
    )
    .bind(project)
    .bind(flag)
    .bind(values)
    .execute(connection)
    .await?;
    Ok(())
}

fn flag_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        _ => "json",
    }
}

/// The flags that recorded devices of the demo project report.
fn flags() -> Vec<(&'static str, Vec<Value>)> {
    let switches = [
        "image-cdn",
        "lazy-tabs",
        "new-checkout",
        "perf-hud",
        "redesigned-profile",
    ];
    let texts = [
        "ab-onboarding",
        "geo-prices",
        "new-payment-engine",
        "offline-mode",
        "theme",
    ];
    let numbers = [
        "cart-badge",
        "max-cart-items",
        "push-optin",
        "search-v2",
        "wallet",
    ];
    let objects = [
        "chat",
        "checkout-config",
        "dark-mode",
        "haptics",
        "promo-banner",
    ];
    let layout = |layout: &str| json!({ "layout": layout, "maxRetries": 3 });
    let kinds: [(&[&'static str], Vec<Value>); 4] = [
        (&switches, vec![json!(true), json!(false)]),
        (&texts, vec![json!("system"), json!("light"), json!("dark")]),
        (&numbers, vec![json!(10), json!(50)]),
        (&objects, vec![layout("single"), layout("multi")]),
    ];
    kinds
        .iter()
        .flat_map(|(keys, values)| keys.iter().map(|key| (*key, values.clone())))
        .collect()
}
