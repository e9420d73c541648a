//! API keys that were used of late. Whoever knows keys from memory notes here
//! that they were used, and stores it about once a minute, so that a request
//! costs Postgres nothing.

use std::collections::HashSet;
use std::mem;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::types::chrono::{DateTime, Utc};

/// SHA-256 of a whole key.
type KeyHash = [u8; 32];

/// What was noted since it was last stored: no more keys than there are.
#[derive(Debug, Default)]
pub struct UsedKeys(RwLock<HashSet<KeyHash>>);

impl UsedKeys {
    /// How often to [`store`](Self::store).
    pub const STORE_EVERY: Duration = Duration::from_mins(1);

    /// The key with this SHA-256, which exists, was used.
    pub fn note(&self, hash: KeyHash) {
        let is_noted = |keys: &HashSet<_>| keys.contains(&hash);
        // Most often it is, and reading it locks nobody out.
        if !is_noted(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
            keys.insert(hash);
        }
    }

    /// Stores it as uses at `now`. What cannot be stored stays noted.
    ///
    /// # Errors
    /// Postgres is away.
    pub async fn store(&self, pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
        let keys = mem::take(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner));
        if keys.is_empty() {
            return Ok(());
        }
        let stored = write(pool, &keys, now).await;
        if stored.is_err() {
            let mut noted = self.0.write().unwrap_or_else(PoisonError::into_inner);
            noted.extend(keys);
        }
        stored
    }
}

/// Waits for nobody: a key that another process writes needs no second write.
async fn write(
    pool: &PgPool,
    keys: &HashSet<KeyHash>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update api_keys set last_used_at = $2 where id in (
            select id from api_keys
            where key_hash = any($1)
              and (last_used_at is null or last_used_at <= $2 - interval '1 minute')
            for update skip locked)",
    )
    .bind(keys.iter().map(hex::encode).collect::<Vec<_>>())
    .bind(now)
    .execute(pool)
    .await?;
    Ok(())
}
