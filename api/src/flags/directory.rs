//! Which project a handle or an API key means, from memory.
//!
//! The whole directory is one immutable map, read again when Postgres says that
//! it changed. What is not in it makes it read again, too, but only a few times a
//! second: a project answers as soon as it exists, and strangers cost little.

use std::collections::HashMap;

use arc_swap::ArcSwap;
use chrono::Utc;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::limit::Bucket;

/// How often a second misses may lead to a read.
const READS_PER_S: f64 = 5.0;

/// Projects by slug and UUID, and by the hash of their API keys.
pub(super) struct Directory {
    entries: ArcSwap<Entries>,
    /// Held while the directory is read, so that reads never overtake each other.
    reading: Mutex<Bucket>,
}

#[derive(Default)]
struct Entries {
    slugs: HashMap<String, ProjectId>,
    uuids: HashMap<Uuid, ProjectId>,
    keys: HashMap<String, ProjectId>,
}

impl Directory {
    /// An empty directory, which the first question fills.
    pub(super) fn new() -> Self {
        Self {
            entries: ArcSwap::default(),
            reading: Mutex::new(Bucket::full(READS_PER_S, 0)),
        }
    }

    /// The project of this slug or UUID, if it is in memory.
    pub(super) fn known_by_handle(&self, handle: &str) -> Option<ProjectId> {
        self.entries.load().of_handle(handle)
    }

    /// The project of this slug or UUID.
    pub(super) async fn by_handle(
        &self,
        pool: &PgPool,
        handle: &str,
    ) -> Result<Option<ProjectId>, sqlx::Error> {
        self.find(pool, |entries| entries.of_handle(handle)).await
    }

    /// The project of the active API key with this SHA-256 in hex.
    pub(super) async fn by_key_hash(
        &self,
        pool: &PgPool,
        hash: &str,
    ) -> Result<Option<ProjectId>, sqlx::Error> {
        self.find(pool, |entries| entries.keys.get(hash).copied())
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
        let mut reads = self.reading.lock().await;
        // Who waited finds what the one before it has read.
        if let Some(found) = get(&self.entries.load()) {
            return Ok(Some(found));
        }
        if reads
            .take(READS_PER_S, Utc::now().timestamp_micros())
            .is_ok()
        {
            self.entries.store(Entries::load(pool).await?.into());
        }
        Ok(get(&self.entries.load()))
    }

    /// Reads everything again.
    pub(super) async fn refresh(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let _reading = self.reading.lock().await;
        self.entries.store(Entries::load(pool).await?.into());
        Ok(())
    }

    /// Whether a project still exists.
    pub(super) fn holds(&self, project: ProjectId) -> bool {
        let entries = self.entries.load();
        entries.uuids.values().any(|known| *known == project)
    }
}

impl Entries {
    /// By slug, else by UUID in any case: a slug may look like a UUID, too.
    fn of_handle(&self, handle: &str) -> Option<ProjectId> {
        let by_uuid = || self.uuids.get(&Uuid::try_parse(handle).ok()?);
        self.slugs.get(handle).or_else(by_uuid).copied()
    }

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
            entries.uuids.insert(uuid, ProjectId(id));
            entries.slugs.insert(slug, ProjectId(id));
        }
        let keys = keys
            .into_iter()
            .map(|(hash, project)| (hash, ProjectId(project)));
        entries.keys = keys.collect();
        Ok(entries)
    }
}
