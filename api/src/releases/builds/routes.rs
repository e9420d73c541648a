use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::model::{
    Build, BuildForm, NewBuild, PublishBuild, PublishedBuild, TEXT_PARTS, UploadedBuild,
};
use super::store::{self, BuildFile};
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::releases::form::{Form, UploadBody, UploadedFile, extension};
use crate::releases::launch::{self, Candidate, ExportMetadata, METADATA_NAME};
use crate::releases::publishing::{self, Kind};
use crate::releases::{blobs, links};
use crate::scope::{Editor, Viewer};
use crate::webhooks::Event;

/// The largest description of an export that is read.
const METADATA_BYTES: u64 = 1024 * 1024;

/// The newest 100, newest first.
#[utoipa::path(get, path = "/builds", tag = "builds", security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<Build>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
) -> ApiResult<Json<Vec<Build>>> {
    Ok(Json(store::list(&state.postgres, scope.project).await?))
}

/// Uploads a build of at most 256 MiB, parts in any order. The file that starts
/// the app is found by its name or type.
#[utoipa::path(post, path = "/builds", tag = "builds", security(("bearer" = ["editor"])),
    request_body(content = BuildForm, content_type = "multipart/form-data"),
    responses((status = 201, body = UploadedBuild),
              (status = 503, description = "Too many uploads at once, or a dependency is away")))]
pub(crate) async fn upload(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    body: UploadBody,
) -> ApiResult<(StatusCode, Json<UploadedBuild>)> {
    let form = Form::read(&state, scope.project, body, &TEXT_PARTS).await?;
    let new = NewBuild::of(&form)?;
    let files = describe(&form.files, &new.platform).await?;
    let stored = blobs::store(&state, scope.project, &form.files).await?;
    let mut change = Change::begin(&state, &scope).await?;
    let blobs = blobs::own(&mut change, &stored).await?;
    let build = store::insert(&mut change, &new).await?;
    store::insert_assets(&mut change, build.id, &files, &blobs).await?;
    let details = json!({
        "runtimeVersion": new.runtime_version,
        "platform": new.platform,
        "gitBranch": new.git_branch,
    });
    change
        .audit(Action::BUILD_UPLOADED, build.id, details)
        .await?;
    let data = json!({
        "build_id": build.id,
        "build_uuid": build.build_uuid,
        "runtime_version": new.runtime_version,
        "platform": new.platform,
        "git_branch": new.git_branch,
    });
    change.emit(Event::BuildUploaded, data).await?;
    change.commit().await?;
    Ok((StatusCode::CREATED, Json(build)))
}

/// Extensions, and which file starts the app, if that can be told.
async fn describe<'a>(files: &'a [UploadedFile], platform: &str) -> ApiResult<Vec<BuildFile<'a>>> {
    let metadata = export_metadata(files, platform).await?;
    let candidates: Vec<_> = files
        .iter()
        .map(|file| Candidate {
            name: &file.name,
            content_type: &file.content_type,
        })
        .collect();
    let launch = launch::detect(&candidates, &metadata);
    let described = files.iter().enumerate().map(|(index, file)| {
        let implied = || metadata.extension(&file.name).unwrap_or_default();
        let extension = Some(extension(&file.name)).filter(|extension| !extension.is_empty());
        BuildFile {
            file,
            extension: extension.unwrap_or_else(implied).to_owned(),
            is_launch_asset: launch == Some(index),
        }
    });
    Ok(described.collect())
}

async fn export_metadata(files: &[UploadedFile], platform: &str) -> ApiResult<ExportMetadata> {
    let Some(file) = files.iter().find(|file| file.name == METADATA_NAME) else {
        return Ok(ExportMetadata::default());
    };
    let bytes = file.staged.read_small(METADATA_BYTES).await;
    let bytes = bytes.map_err(ApiError::unavailable)?.unwrap_or_default();
    Ok(ExportMetadata::parse(&bytes, platform))
}

/// Makes an update of a build. May be repeated, also for several channels.
#[utoipa::path(post, path = "/builds/{id}/publish", tag = "builds",
    security(("bearer" = ["editor"])), params(("id" = i64, Path)), request_body = PublishBuild,
    responses((status = 201, body = PublishedBuild)))]
pub(crate) async fn publish(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
    JsonBody(body): JsonBody<PublishBuild>,
) -> ApiResult<(StatusCode, Json<PublishedBuild>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let content = store::hold(&mut change, id).await?;
    let content = content.ok_or_else(|| ApiError::not_found("build"))?;
    let (channel, terms) = body.check()?;
    let linked = links::check(body.linked_flags)?;
    let made = publishing::publish(
        &mut change,
        &channel,
        &content,
        &terms,
        Kind::Normal,
        &linked,
    )
    .await?;
    if store::copy_assets(&mut change, id, made.id).await? != 1 {
        return Err(ApiError::bad_request(
            "the build has no file that starts the app",
        ));
    }
    let details = json!({
        "updateId": made.id,
        "channel": channel,
        "rolloutPercentage": terms.rollout_percentage,
        "runtimeVersion": content.runtime_version,
        "platform": content.platform,
    });
    change.audit(Action::BUILD_PUBLISHED, id, details).await?;
    let data = json!({
        "build_id": id,
        "update_id": made.id,
        "update_uuid": made.update_uuid,
        "group_id": terms.group_id,
        "channel": channel,
        "runtime_version": content.runtime_version,
        "platform": content.platform,
    });
    change.emit(Event::BuildPublished, data).await?;
    change.commit().await?;
    let published = PublishedBuild {
        update_id: made.id,
        update_uuid: made.update_uuid,
        group_id: terms.group_id,
    };
    Ok((StatusCode::CREATED, Json(published)))
}

/// Removes a build that no update came from.
#[utoipa::path(delete, path = "/builds/{id}", tag = "builds", security(("bearer" = ["editor"])),
    params(("id" = i64, Path)),
    responses((status = 204), (status = 409, description = "An update came from the build")))]
pub(crate) async fn delete(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
) -> ApiResult<StatusCode> {
    let mut change = Change::begin(&state, &scope).await?;
    if !store::delete(&mut change, id).await? {
        return Err(ApiError::not_found("build"));
    }
    change.audit(Action::BUILD_DELETED, id, json!({})).await?;
    change
        .emit(Event::BuildDeleted, json!({ "build_id": id }))
        .await?;
    change.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
