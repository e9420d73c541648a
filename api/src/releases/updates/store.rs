use std::collections::BTreeMap;

use sluice_schema::id::ProjectId;
use sqlx::{FromRow, PgPool};

use super::model::{CreateAsset, Update, UpdateChange, UpdateFilter};
use crate::change::Change;
use crate::releases::blobs::{self, Blob};
use crate::releases::publishing::Content;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// Newest first. The files are counted for the rows of the page alone.
pub(super) async fn list(
    pool: &PgPool,
    project: ProjectId,
    filter: &UpdateFilter,
    (limit, offset): (i64, i64),
) -> Result<Vec<Update>> {
    sqlx::query_as(
        "select page.*, files.asset_count, files.total_size,
                0::bigint as total_downloads, 0::bigint as unique_devices
         from (select u.id, u.update_uuid, u.runtime_version, u.runtime_fingerprint, u.platform,
                      u.channel, u.branch_name, u.is_rollback, u.rollback_to_update_id,
                      u.rollout_percentage, u.is_critical, u.is_enabled, u.release_message,
                      u.expo_config, u.group_id, u.created_at,
                      b.git_commit_hash, b.git_branch, b.ci_run_url, b.message as build_message
               from updates u
               left join builds b on b.project_id = u.project_id and b.id = u.build_id
               where u.project_id = $1
                 and ($2::text is null or u.platform = $2)
                 and ($3::text is null or u.channel = $3)
                 and ($4::text is null or u.branch_name = $4)
                 and ($5::text is null or u.runtime_version = $5 or u.runtime_fingerprint = $5)
                 and ($6::text is null or strpos(
                        lower(concat_ws(e'\\n', u.release_message, b.git_commit_hash, b.git_branch,
                                        u.update_uuid, u.runtime_version)),
                        lower($6)) > 0)
               order by u.created_at desc, u.id desc
               limit $7 offset $8) page,
         lateral (select count(*) as asset_count,
                         coalesce(sum(f.size_bytes), 0)::bigint as total_size
                  from update_assets a
                  join blobs f on f.project_id = a.project_id and f.id = a.blob_id
                  where a.update_id = page.id) files
         order by page.created_at desc, page.id desc",
    )
    .bind(project.0)
    .bind(&filter.platform)
    .bind(&filter.channel)
    .bind(&filter.branch)
    .bind(&filter.runtime_version)
    .bind(&filter.search)
    .bind(limit)
    .bind(offset)
    .fetch_all(pool)
    .await
}

/// Whether the project has such an update.
pub(super) async fn exists(pool: &PgPool, project: ProjectId, id: i64) -> Result<bool> {
    sqlx::query_scalar("select exists (select from updates where project_id = $1 and id = $2)")
        .bind(project.0)
        .bind(id)
        .fetch_one(pool)
        .await
}

/// Whether some build is for these apps.
pub(super) async fn has_build_for(change: &mut Change, content: &Content) -> Result<bool> {
    sqlx::query_scalar(
        "select exists (select from builds where project_id = $1 and platform = $2
                        and (runtime_version = $3 or runtime_fingerprint = $3))",
    )
    .bind(change.project())
    .bind(&content.platform)
    .bind(&content.runtime_version)
    .fetch_one(change.connection())
    .await
}

/// Adds the files, in their order. Each key has its blob.
pub(super) async fn insert_assets(
    change: &mut Change,
    update: i64,
    assets: &[CreateAsset],
    blobs: &BTreeMap<String, Blob>,
) -> Result<()> {
    let blob = |asset: &CreateAsset| blobs.get(&asset.s3_key).map(|blob| blob.id);
    sqlx::query(
        "insert into update_assets (project_id, update_id, blob_id, file_extension, content_type, is_launch_asset)
         select $1, $2, f.blob_id, f.file_extension, f.content_type, f.is_launch_asset
         from unnest($3::bigint[], $4::text[], $5::text[], $6::boolean[]) with ordinality
              f (blob_id, file_extension, content_type, is_launch_asset, position)
         order by f.position",
    )
    .bind(change.project())
    .bind(update)
    .bind(assets.iter().map(blob).collect::<Vec<_>>())
    .bind(assets.iter().map(|a| a.file_extension.as_str()).collect::<Vec<_>>())
    .bind(assets.iter().map(|a| a.content_type.trim()).collect::<Vec<_>>())
    .bind(assets.iter().map(|a| a.is_launch_asset).collect::<Vec<_>>())
    .execute(change.connection())
    .await?;
    Ok(())
}

/// Gives an update the files of another.
pub(super) async fn copy_assets(change: &mut Change, from: i64, to: i64) -> Result<()> {
    sqlx::query(
        "insert into update_assets (project_id, update_id, blob_id, file_extension, content_type, is_launch_asset)
         select project_id, $3, blob_id, file_extension, content_type, is_launch_asset
         from update_assets where project_id = $1 and update_id = $2 order by id",
    )
    .bind(change.project())
    .bind(from)
    .bind(to)
    .execute(change.connection())
    .await?;
    Ok(())
}

/// An update as it is.
#[derive(Debug, FromRow)]
pub(in crate::releases) struct Stored {
    pub(in crate::releases) channel: String,
    pub(in crate::releases) is_rollback: bool,
    pub(in crate::releases) is_enabled: bool,
    pub(super) is_critical: bool,
    pub(super) rollout_percentage: i32,
    pub(super) release_message: String,
    #[sqlx(flatten)]
    pub(in crate::releases) content: Content,
}

/// The update, locked for a change.
pub(super) async fn lock(change: &mut Change, id: i64) -> Result<Option<Stored>> {
    read(change, id, "for no key update").await
}

/// The update, which stays as it is until the change is made.
pub(in crate::releases) async fn hold(change: &mut Change, id: i64) -> Result<Option<Stored>> {
    read(change, id, "for share").await
}

async fn read(change: &mut Change, id: i64, lock: &'static str) -> Result<Option<Stored>> {
    let statement = format!(
        "select channel, is_rollback, is_enabled, is_critical, rollout_percentage, release_message,
                build_id, runtime_version, runtime_fingerprint, platform, expo_config
         from updates where project_id = $1 and id = $2 {lock}"
    );
    sqlx::query_as(&statement)
        .bind(change.project())
        .bind(id)
        .fetch_optional(change.connection())
        .await
}

pub(super) async fn update(change: &mut Change, id: i64, to: &UpdateChange) -> Result<()> {
    sqlx::query(
        "update updates set
            rollout_percentage = coalesce($3, rollout_percentage),
            is_critical = coalesce($4, is_critical),
            release_message = coalesce($5, release_message)
         where project_id = $1 and id = $2",
    )
    .bind(change.project())
    .bind(id)
    .bind(to.rollout_percentage)
    .bind(to.is_critical)
    .bind(&to.release_message)
    .execute(change.connection())
    .await?;
    match to.is_enabled {
        Some(is_enabled) => switch(change, id, is_enabled).await,
        None => Ok(()),
    }
}

/// By itself, because flags are read again whenever this column is written.
async fn switch(change: &mut Change, id: i64, is_enabled: bool) -> Result<()> {
    sqlx::query("update updates set is_enabled = $3 where project_id = $1 and id = $2")
        .bind(change.project())
        .bind(id)
        .bind(is_enabled)
        .execute(change.connection())
        .await?;
    Ok(())
}

/// The newest rollback that targets the update.
pub(super) async fn rollback_to(change: &mut Change, id: i64) -> Result<Option<i64>> {
    sqlx::query_scalar(
        "select max(id) from updates where project_id = $1 and rollback_to_update_id = $2",
    )
    .bind(change.project())
    .bind(id)
    .fetch_one(change.connection())
    .await
}

/// Whether there was such an update; a conflict while a rollback targets it.
/// Its files are spared from gc for a while: devices may be loading them.
pub(super) async fn delete(change: &mut Change, id: i64) -> Result<bool> {
    blobs::spare(change, blobs::OF_UPDATE, id).await?;
    let deleted = sqlx::query("delete from updates where project_id = $1 and id = $2")
        .bind(change.project())
        .bind(id)
        .execute(change.connection())
        .await?;
    Ok(deleted.rows_affected() == 1)
}
