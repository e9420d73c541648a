use std::collections::BTreeMap;

use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use super::model::{Build, NewBuild, UploadedBuild};
use crate::change::Change;
use crate::releases::blobs::{self, Blob};
use crate::releases::form::UploadedFile;
use crate::releases::publishing::Content;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// How many builds a list has.
const LIMIT: i64 = 100;

/// The newest, newest first.
pub(super) async fn list(pool: &PgPool, project: ProjectId) -> Result<Vec<Build>> {
    sqlx::query_as(
        "select b.id, b.build_uuid, b.runtime_version, b.platform, b.git_commit_hash, b.git_branch,
                b.ci_run_url, b.message, b.created_at,
                (select count(*) from build_assets a where a.build_id = b.id) as asset_count,
                exists (select from updates u
                        where u.project_id = b.project_id and u.build_id = b.id) as is_published
         from builds b
         where b.project_id = $1
         order by b.created_at desc, b.id desc
         limit $2",
    )
    .bind(project.0)
    .bind(LIMIT)
    .fetch_all(pool)
    .await
}

pub(super) async fn insert(change: &mut Change, new: &NewBuild) -> Result<UploadedBuild> {
    let (id, build_uuid) = sqlx::query_as(
        "insert into builds (project_id, runtime_version, runtime_fingerprint, platform,
                             git_commit_hash, git_branch, ci_run_url, message, expo_config, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning id, build_uuid",
    )
    .bind(change.project())
    .bind(&new.runtime_version)
    .bind(&new.runtime_fingerprint)
    .bind(&new.platform)
    .bind(&new.git_commit_hash)
    .bind(&new.git_branch)
    .bind(&new.ci_run_url)
    .bind(&new.message)
    .bind(&new.expo_config)
    .bind(change.at())
    .fetch_one(change.connection())
    .await?;
    Ok(UploadedBuild { id, build_uuid })
}

/// A file of a build, as the build knows it.
#[derive(Debug)]
pub(super) struct BuildFile<'a> {
    pub(super) file: &'a UploadedFile,
    pub(super) extension: String,
    pub(super) is_launch_asset: bool,
}

/// Adds the files, in their order. Each content has its blob.
pub(super) async fn insert_assets(
    change: &mut Change,
    build: i64,
    files: &[BuildFile<'_>],
    blobs: &BTreeMap<String, Blob>,
) -> Result<()> {
    let blob = |file: &BuildFile<'_>| blobs.get(&file.file.staged.sha256()).map(|blob| blob.id);
    sqlx::query(
        "insert into build_assets (project_id, build_id, blob_id, file_name, file_extension,
                                   content_type, is_launch_asset)
         select $1, $2, f.blob_id, f.file_name, f.file_extension, f.content_type, f.is_launch_asset
         from unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::boolean[]) with ordinality
              f (blob_id, file_name, file_extension, content_type, is_launch_asset, position)
         order by f.position",
    )
    .bind(change.project())
    .bind(build)
    .bind(files.iter().map(blob).collect::<Vec<_>>())
    .bind(files.iter().map(|f| f.file.name.as_str()).collect::<Vec<_>>())
    .bind(files.iter().map(|f| f.extension.as_str()).collect::<Vec<_>>())
    .bind(files.iter().map(|f| f.file.content_type.as_str()).collect::<Vec<_>>())
    .bind(files.iter().map(|f| f.is_launch_asset).collect::<Vec<_>>())
    .execute(change.connection())
    .await?;
    Ok(())
}

/// What a build holds, which stays until the change is made.
pub(super) async fn hold(change: &mut Change, id: i64) -> Result<Option<Content>> {
    sqlx::query_as(
        "select id as build_id, runtime_version, runtime_fingerprint, platform, expo_config
         from builds where project_id = $1 and id = $2 for key share",
    )
    .bind(change.project())
    .bind(id)
    .fetch_optional(change.connection())
    .await
}

/// Gives an update the assets of a build; how many of them start the app.
pub(super) async fn copy_assets(change: &mut Change, build: i64, update: i64) -> Result<i64> {
    sqlx::query_scalar(
        "with copies as (
            insert into update_assets (project_id, update_id, blob_id, file_extension, content_type, is_launch_asset)
            select project_id, $3, blob_id, file_extension, content_type, is_launch_asset
            from build_assets where project_id = $1 and build_id = $2 order by id
            returning is_launch_asset)
         select count(*) filter (where is_launch_asset) from copies",
    )
    .bind(change.project())
    .bind(build)
    .bind(update)
    .fetch_one(change.connection())
    .await
}

/// Whether there was such a build; a conflict while an update came from it.
/// Its files are spared from gc for a while.
pub(super) async fn delete(change: &mut Change, id: i64) -> Result<bool> {
    blobs::spare(change, blobs::OF_BUILD, id).await?;
    let deleted = sqlx::query("delete from builds where project_id = $1 and id = $2")
        .bind(change.project())
        .bind(id)
        .execute(change.connection())
        .await?;
    Ok(deleted.rows_affected() == 1)
}
