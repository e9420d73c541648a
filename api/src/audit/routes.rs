use axum::Json;
use axum::extract::State;

use super::model::{AuditEntry, AuditFilter};
use super::store;
use crate::ApiState;
use crate::error::ApiResult;
use crate::extract::Query;
use crate::page;
use crate::scope::Viewer;

const LIMIT: i64 = 200;

/// What was done in the project, newest first.
///
/// The next page is `before=<last id>`; a short page is the end.
#[utoipa::path(get, path = "/audit-log", tag = "audit log", params(AuditFilter),
    security(("bearer" = ["viewer"])),
    responses((status = 200, body = Vec<AuditEntry>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Query(filter): Query<AuditFilter>,
) -> ApiResult<Json<Vec<AuditEntry>>> {
    let limit = page::limit(filter.limit, LIMIT, LIMIT)?;
    let entries = store::list(&state.postgres, scope.project, &filter, limit).await?;
    Ok(Json(entries))
}
