//! Storage clean-up (management.md §17).

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use utoipa::ToSchema;

use super::blobs;
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::ApiResult;
use crate::scope::{Admin, Viewer};

/// How many blobs one run gives up at most; another run goes on.
const BATCH: i64 = 10_000;

/// What the project's builds and updates take, each stored file once.
#[derive(Debug, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(super) struct StorageUsage {
    /// Files that a build or an update refers to.
    #[serde(rename = "totalS3Objects")]
    total_objects: i64,
    /// Their size in bytes.
    total_size_bytes: i64,
    /// Files that an update refers to.
    update_assets: i64,
    /// Files that a build refers to.
    build_assets: i64,
}

/// What a clean-up freed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Collected {
    deleted_objects: i64,
    /// In bytes.
    freed_bytes: i64,
}

/// How much of the storage is in use.
#[utoipa::path(get, path = "/gc", tag = "storage", security(("bearer" = ["viewer"])),
    responses((status = 200, body = StorageUsage)))]
pub(super) async fn usage(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<StorageUsage>> {
    Ok(Json(count(&state.postgres, scope.project).await?))
}

/// Deletes files of the project that no build and no update has referred to
/// for 24 hours. May be repeated, and run several times at once.
#[utoipa::path(post, path = "/gc", tag = "storage", security(("bearer" = ["admin"])),
    responses((status = 200, body = Collected)))]
pub(super) async fn collect(
    State(state): State<ApiState>,
    Admin(scope): Admin,
) -> ApiResult<Json<Collected>> {
    let mut change = Change::begin(&state, &scope).await?;
    let sizes = give_up(&mut change).await?;
    let collected = Collected {
        deleted_objects: sizes.len() as i64,
        freed_bytes: sizes.iter().sum(),
    };
    let details = json!({
        "deletedObjects": collected.deleted_objects,
        "freedBytes": collected.freed_bytes,
    });
    change.audit(Action::GC_RUN, None, details).await?;
    change.commit().await?;
    // They are marked: if the store is away now, the worker removes them later.
    if let Err(error) = blobs::remove_unowned(&state).await {
        tracing::warn!(cause = ?error, "objects that gc gave up are removed later");
    }
    Ok(Json(collected))
}

async fn count(pool: &PgPool, project: ProjectId) -> Result<StorageUsage, sqlx::Error> {
    sqlx::query_as(
        "select count(*) as total_objects,
                coalesce(sum(size_bytes), 0)::bigint as total_size_bytes,
                count(*) filter (where in_update) as update_assets,
                count(*) filter (where in_build) as build_assets
         from (select b.size_bytes,
                      exists (select from update_assets a
                              where a.project_id = b.project_id and a.blob_id = b.id) as in_update,
                      exists (select from build_assets a
                              where a.project_id = b.project_id and a.blob_id = b.id) as in_build
               from blobs b where b.project_id = $1) files
         where in_update or in_build",
    )
    .bind(project.0)
    .fetch_one(pool)
    .await
}

/// Deletes the rows of blobs that nothing needs; their sizes. A trigger leaves
/// their objects to be removed.
///
/// A transaction that is about to refer to a blob holds its row, so it is not
/// among the candidates. One that has just done so is seen by the second
/// statement, which has a newer snapshot than the locks.
async fn give_up(change: &mut Change) -> Result<Vec<i64>, sqlx::Error> {
    let before = change.at() - blobs::GRACE;
    let candidates: Vec<i64> = sqlx::query_scalar(
        "select b.id from blobs b
         where b.project_id = $1 and b.needed_at < $2
           and not exists (select from update_assets a
                           where a.project_id = b.project_id and a.blob_id = b.id)
           and not exists (select from build_assets a
                           where a.project_id = b.project_id and a.blob_id = b.id)
         order by b.id limit $3
         for update skip locked",
    )
    .bind(change.project())
    .bind(before)
    .bind(BATCH)
    .fetch_all(change.connection())
    .await?;
    sqlx::query_scalar(
        "delete from blobs b
         where b.project_id = $1 and b.id = any($2)
           and not exists (select from update_assets a
                           where a.project_id = b.project_id and a.blob_id = b.id)
           and not exists (select from build_assets a
                           where a.project_id = b.project_id and a.blob_id = b.id)
         returning b.size_bytes",
    )
    .bind(change.project())
    .bind(candidates)
    .fetch_all(change.connection())
    .await
}
