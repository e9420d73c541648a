use axum::Json;
use axum::extract::State;

use super::model::{EvaluationsQuery, FlagEvaluations};
use super::store;
use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::extract::Path;
use crate::insights::query::ReadQuery;
use crate::scope::Viewer;

/// How often a flag was evaluated, by day and by variation.
#[utoipa::path(get, path = "/flags/{id}/evaluations", tag = "flags", security(("bearer" = ["viewer"])),
    params(("id" = i64, Path), EvaluationsQuery), responses((status = 200, body = FlagEvaluations)))]
pub(in crate::insights) async fn get(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
    ReadQuery(query): ReadQuery<EvaluationsQuery>,
) -> ApiResult<Json<FlagEvaluations>> {
    let flag = store::flag(&state.postgres, scope.project, id).await?;
    let flag = flag.ok_or_else(|| ApiError::not_found("Flag"))?;
    let variations = store::variations(&state.postgres, scope.project, id).await?;
    let dates = query.dates(state.clock.now());
    let channels = scope.default_channel.filter(query.channel);
    let counts = store::counts_of_flag(
        &state.insights.reader,
        scope.project,
        &flag,
        &dates,
        &channels,
    )
    .await?;
    Ok(Json(FlagEvaluations::new(&dates, &variations, &counts)))
}
