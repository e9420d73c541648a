use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::ApiState;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::releases::blobs::{self, Blob};
use crate::releases::form::{Form, UploadBody, UploadedFile, extension};
use crate::scope::Editor;

/// A file to publish, to be named in `POST /updates`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UploadedAsset {
    /// Opaque.
    s3_key: String,
    /// base64url without padding.
    hash_sha256: String,
    /// Lower-case hex.
    hash_md5: String,
    content_type: String,
    /// With its dot; empty if the name has none.
    file_extension: String,
    /// In bytes.
    file_size: i64,
}

/// The body of an upload, for its description.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct AssetForm {
    /// Any number of files under any names; each part has a filename.
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
}

impl UploadedAsset {
    fn new(file: &UploadedFile, blob: &Blob) -> Self {
        Self {
            s3_key: blob.storage_key.clone(),
            hash_sha256: blob.sha256.clone(),
            hash_md5: blob.md5.clone(),
            content_type: file.content_type.clone(),
            file_extension: extension(&file.name).to_owned(),
            file_size: blob.size_bytes,
        }
    }
}

/// Uploads files for an update. The same content is stored once per project.
#[utoipa::path(post, path = "/assets/upload", tag = "updates", security(("bearer" = ["editor"])),
    request_body(content = AssetForm, content_type = "multipart/form-data"),
    responses((status = 200, body = Vec<UploadedAsset>),
              (status = 503, description = "Too many uploads at once, or a dependency is away")))]
pub(crate) async fn upload(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    body: UploadBody,
) -> ApiResult<Json<Vec<UploadedAsset>>> {
    let form = Form::read(&state, scope.project, body, &[]).await?;
    let stored = blobs::store(&state, scope.project, &form.files).await?;
    let mut change = Change::begin(&state, &scope).await?;
    let blobs = blobs::own(&mut change, &stored).await?;
    change.commit().await?;
    let assets = form.files.iter().map(|file| {
        let blob = blobs.get(&file.staged.sha256());
        blob.map(|blob| UploadedAsset::new(file, blob))
    });
    let assets: Option<Vec<_>> = assets.collect();
    assets
        .map(Json)
        .ok_or_else(|| ApiError::internal("an uploaded file has no row"))
}
