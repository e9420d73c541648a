//! Which project a handle or an API key means, from memory.
//!
//! The whole directory is one immutable map, read again when Postgres says that
//! it changed. A handle that is not in it is looked up at most once a second,
//! so that a project answers as soon as it exists and strangers cost nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

/// How often misses may lead to a query.
const MISS_INTERVAL: Duration = Duration::from_secs(1);

/// Projects by slug and UUID, and by the hash of their API keys.
#[derive(Default)]
pub(super) struct Directory {
    entries: ArcSwap<Entries>,
    refreshed_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Entries {
    by_handle: HashMap<String, ProjectId>,
    by_key_hash: HashMap<String, ProjectId>,
}

impl Directory {
    /// The project of this slug or UUID.
    pub(super) async fn by_handle(
        &self,
        pool: &PgPool,
        handle: &str,
    ) -> Result<Option<ProjectId>, sqlx::Error> {
        let uuid = Uuid::try_parse(handle).map(|uuid| uuid.to_string());
        let handle = uuid.as_deref().unwrap_or(handle);
        self.find(pool, |entries| entries.by_handle.get(handle).copied())
            .await
    }

    /// The project of the active API key with this SHA-256 in hex.
    pub(super) async fn by_key_hash(
        &self,
        pool: &PgPool,
        hash: &str,
    ) -> Result<Option<ProjectId>, sqlx::Error> {
        self.find(pool, |entries| entries.by_key_hash.get(hash).copied())
            .await
    }

    async fn find(
        &self,
        pool: &PgPool,
        get: impl Fn(&Entries) -> Option<ProjectId>,
    ) -> Result<Option<ProjectId>, sqlx::Error> {
        if let Some(found) = get(&self.entries.load()) {
            return Ok(Some(found));
        }
        // One at a time; who waited finds what the one before it has read.
        let mut refreshed_at = self.refreshed_at.lock().await;
        let is_fresh = refreshed_at.is_some_and(|at| at.elapsed() < MISS_INTERVAL);
        if !is_fresh {
            self.entries.store(Entries::load(pool).await?.into());
            *refreshed_at = Some(Instant::now());
        }
        Ok(get(&self.entries.load()))
    }

    /// Reads everything again.
    pub(super) async fn refresh(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut refreshed_at = self.refreshed_at.lock().await;
        self.entries.store(Entries::load(pool).await?.into());
        *refreshed_at = Some(Instant::now());
        Ok(())
    }

    /// Whether a project still exists.
    pub(super) fn holds(&self, project: ProjectId) -> bool {
        self.entries
            .load()
            .by_handle
            .values()
            .any(|known| *known == project)
    }
}

impl Entries {
    async fn load(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let projects: Vec<(i64, Uuid, String)> =
            sqlx::query_as("select id, uuid, slug from projects")
                .fetch_all(pool)
                .await?;
        let keys: Vec<(String, i64)> =
            sqlx::query_as("select key_hash, project_id from api_keys where is_active")
                .fetch_all(pool)
                .await?;
        let mut entries = Self::default();
        for (id, uuid, slug) in projects {
            entries.by_handle.insert(uuid.to_string(), ProjectId(id));
            entries.by_handle.insert(slug, ProjectId(id));
        }
        let keys = keys
            .into_iter()
            .map(|(hash, project)| (hash, ProjectId(project)));
        entries.by_key_hash = keys.collect();
        Ok(entries)
    }
}
