//! Stored files as rows: one per project and content.
//!
//! | Always | By |
//! |---|---|
//! | a row in `blobs` means a whole object in the store | the object comes first, the row with the change that needs it |
//! | an object in the store is in `blobs` or in `unowned_objects` | announced there before it is stored, in [`store`]; left there by a trigger when its blob goes |
//! | a referenced blob stays | foreign keys; gc locks rows, looks again, and deletes |
//! | an object that is removed is never wanted | its key is used once; who wants the content again stores it under another |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::{join_all, try_join_all};
use sluice_schema::id::ProjectId;
use sqlx::{FromRow, PgConnection, PgPool};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::form::UploadedFile;
use crate::ApiState;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::storage::Staged;

/// An upload has this long from its first object to its rows; a blob that
/// nothing refers to is spared for as long.
pub(super) const GRACE: TimeDelta = TimeDelta::hours(24);
const REMOVE_EVERY: Duration = Duration::from_mins(1);
/// How many objects are removed at a time.
const REMOVE_BATCH: i64 = 1000;
/// How many requests to the store at a time, for one of ours.
const STORE_CONCURRENCY: usize = 4;

/// A stored file.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Blob {
    pub(super) id: i64,
    pub(super) storage_key: String,
    pub(super) sha256: String,
    pub(super) md5: String,
    pub(super) size_bytes: i64,
}

/// Objects that were stored for a request and have no rows yet, by SHA-256.
#[derive(Debug, Default)]
pub(super) struct Stored<'a> {
    new: BTreeMap<String, NewObject<'a>>,
    contents: BTreeSet<String>,
}

#[derive(Debug)]
struct NewObject<'a> {
    key: String,
    file: &'a UploadedFile,
}

/// Makes objects of the files whose content the project does not have yet.
pub(super) async fn store<'a>(
    state: &ApiState,
    project: ProjectId,
    files: &'a [UploadedFile],
) -> ApiResult<Stored<'a>> {
    let contents: BTreeSet<String> = files.iter().map(|file| file.staged.sha256()).collect();
    let at = state.clock.now();
    let known = touch(&state.postgres, project, &contents, at).await?;
    let mut new = BTreeMap::new();
    for file in files {
        let sha256 = file.staged.sha256();
        if !known.contains(&sha256) {
            new.entry(sha256).or_insert_with(|| NewObject {
                key: new_key(project, &file.staged),
                file,
            });
        }
    }
    announce(&state.postgres, &new, at + GRACE).await?;
    let objects: Vec<&NewObject<'_>> = new.values().collect();
    for batch in objects.chunks(STORE_CONCURRENCY) {
        let kept = batch.iter().map(|object| {
            let NewObject { key, file } = object;
            state.storage.keep(&file.staged, key)
        });
        try_join_all(kept).await?;
    }
    Ok(Stored { new, contents })
}

/// A key that no object had before.
fn new_key(project: ProjectId, file: &Staged) -> String {
    let unique = Uuid::new_v4().simple().to_string();
    format!(
        "assets/{}/{}-{}",
        project.0,
        file.sha256_hex(),
        &unique[..12]
    )
}

/// The contents that the project has, spared from gc from now on.
async fn touch(
    pool: &PgPool,
    project: ProjectId,
    contents: &BTreeSet<String>,
    at: DateTime<Utc>,
) -> ApiResult<BTreeSet<String>> {
    let mut transaction = pool.begin().await?;
    let known: Vec<(i64, String)> = sqlx::query_as(
        "select id, sha256 from blobs where project_id = $1 and sha256 = any($2)
         order by sha256 for no key update",
    )
    .bind(project.0)
    .bind(Vec::from_iter(contents))
    .fetch_all(&mut *transaction)
    .await?;
    let (ids, known) = known.into_iter().unzip();
    renew(&mut transaction, project.0, ids, at).await?;
    transaction.commit().await?;
    Ok(known)
}

/// Selects the blobs of a build.
pub(super) const OF_BUILD: &str =
    "select blob_id from build_assets where project_id = $1 and build_id = $2";
/// Selects the blobs of an update.
pub(super) const OF_UPDATE: &str =
    "select blob_id from update_assets where project_id = $1 and update_id = $2";

/// Spares files from gc for a while: of what is about to go, and devices may be
/// loading.
pub(super) async fn spare(
    change: &mut Change,
    of: &'static str,
    id: i64,
) -> Result<(), sqlx::Error> {
    let statement = format!(
        "select id from blobs where project_id = $1 and id in ({of})
         order by sha256 for no key update"
    );
    let ids: Vec<i64> = sqlx::query_scalar(&statement)
        .bind(change.project())
        .bind(id)
        .fetch_all(change.connection())
        .await?;
    let (project, at) = (change.project(), change.at());
    renew(change.connection(), project, ids, at).await
}

/// Of blobs that are locked, all in the order of their content: whoever locks
/// several does so, and by a statement of its own. One that locks and updates
/// goes back to rows that others have changed meanwhile, in an order of its own.
async fn renew(
    connection: &mut PgConnection,
    project: i64,
    ids: Vec<i64>,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update blobs set needed_at = greatest(needed_at, $3)
         where project_id = $1 and id = any($2)",
    )
    .bind(project)
    .bind(ids)
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes which objects may come to be, so that they go if no blob owns them.
async fn announce(
    pool: &PgPool,
    new: &BTreeMap<String, NewObject<'_>>,
    delete_after: DateTime<Utc>,
) -> ApiResult<()> {
    let keys: Vec<&str> = new.values().map(|object| object.key.as_str()).collect();
    sqlx::query(
        "insert into unowned_objects (storage_key, delete_after) select k, $2 from unnest($1::text[]) k",
    )
    .bind(keys)
    .bind(delete_after)
    .execute(pool)
    .await?;
    Ok(())
}

/// Gives each content its row, in the change that refers to it. By SHA-256.
pub(super) async fn own(
    change: &mut Change,
    stored: &Stored<'_>,
) -> ApiResult<BTreeMap<String, Blob>> {
    insert(change, &stored.new).await?;
    let blobs: Vec<Blob> = sqlx::query_as(
        "select id, storage_key, sha256, md5, size_bytes from blobs
         where project_id = $1 and sha256 = any($2) order by id for key share",
    )
    .bind(change.project())
    .bind(Vec::from_iter(&stored.contents))
    .fetch_all(change.connection())
    .await?;
    let blobs: BTreeMap<_, _> = blobs
        .into_iter()
        .map(|blob| (blob.sha256.clone(), blob))
        .collect();
    let ours = stored.new.iter().filter(|(sha256, object)| {
        blobs
            .get(*sha256)
            .is_some_and(|blob| blob.storage_key == object.key)
    });
    let ours: Vec<&str> = ours.map(|(_, object)| object.key.as_str()).collect();
    let is_owned = withdraw(change, &ours).await? == ours.len() as u64;
    if !is_owned || blobs.len() < stored.contents.len() {
        return Err(ApiError::unavailable(
            "the upload took too long, and was given up",
        ));
    }
    Ok(blobs)
}

/// Another upload of the same content may have been faster: then its row
/// stays, and our object is left to be removed.
async fn insert(change: &mut Change, new: &BTreeMap<String, NewObject<'_>>) -> ApiResult<()> {
    let column =
        |value: fn(&NewObject<'_>) -> String| -> Vec<String> { new.values().map(value).collect() };
    let sizes: Vec<i64> = new
        .values()
        .map(|o| o.file.staged.size_bytes() as i64)
        .collect();
    sqlx::query(
        "insert into blobs (project_id, storage_key, sha256, md5, content_type, size_bytes, needed_at)
         select $1, f.* , $7
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
              f (storage_key, sha256, md5, content_type, size_bytes)
         order by f.sha256
         on conflict on constraint blobs_content_key
            do update set needed_at = greatest(blobs.needed_at, excluded.needed_at)",
    )
    .bind(change.project())
    .bind(column(|object| object.key.clone()))
    .bind(column(|object| object.file.staged.sha256()))
    .bind(column(|object| object.file.staged.md5()))
    .bind(column(|object| object.file.content_type.clone()))
    .bind(sizes)
    .bind(change.at())
    .execute(change.connection())
    .await?;
    Ok(())
}

/// How many of the announced objects were still ours to own.
async fn withdraw(change: &mut Change, keys: &[&str]) -> ApiResult<u64> {
    let done =
        sqlx::query("delete from unowned_objects where storage_key = any($1) and not doomed")
            .bind(keys)
            .execute(change.connection())
            .await?;
    Ok(done.rows_affected())
}

/// The project's blobs of these keys, kept from gc until the change is made.
pub(super) async fn hold(
    change: &mut Change,
    keys: &[&str],
) -> Result<BTreeMap<String, Blob>, sqlx::Error> {
    let blobs: Vec<Blob> = sqlx::query_as(
        "select id, storage_key, sha256, md5, size_bytes from blobs
         where project_id = $1 and storage_key = any($2) order by id for key share",
    )
    .bind(change.project())
    .bind(keys)
    .fetch_all(change.connection())
    .await?;
    Ok(blobs
        .into_iter()
        .map(|blob| (blob.storage_key.clone(), blob))
        .collect())
}

/// Removes objects of no blob from the store, until it is dropped.
pub(crate) async fn keep_removing(state: &ApiState) {
    let mut ticks = interval(REMOVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        loop {
            match remove_unowned(state).await {
                Ok(0) => break,
                Ok(removed) => tracing::info!(removed, "removed objects that nothing owns"),
                Err(error) => {
                    tracing::warn!(cause = ?error, "cannot remove objects that nothing owns");
                    break;
                }
            }
        }
    }
}

/// Removes a batch of the objects that are due; how many. Several may run at
/// once. What cannot be removed stays on the list and holds up nothing else.
pub(super) async fn remove_unowned(state: &ApiState) -> ApiResult<usize> {
    let keys = doom(&state.postgres, state.clock.now()).await?;
    let mut removed = Vec::new();
    let mut failed = None;
    for batch in keys.chunks(STORE_CONCURRENCY) {
        let outcomes = join_all(batch.iter().map(|key| state.storage.remove(key))).await;
        for (key, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Ok(()) => removed.push(key.as_str()),
                Err(error) => failed = Some(error),
            }
        }
    }
    forget(&state.postgres, &removed).await?;
    failed.map_or(Ok(removed.len()), Err)
}

/// Claims a batch for removal. Whom a crash interrupts, the next one repeats.
async fn doom(pool: &PgPool, at: DateTime<Utc>) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "update unowned_objects set doomed = true where storage_key in (
            select storage_key from unowned_objects where delete_after <= $1
            order by delete_after limit $2 for update skip locked)
         returning storage_key",
    )
    .bind(at)
    .bind(REMOVE_BATCH)
    .fetch_all(pool)
    .await
}

async fn forget(pool: &PgPool, keys: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query("delete from unowned_objects where storage_key = any($1)")
        .bind(keys)
        .execute(pool)
        .await?;
    Ok(())
}
