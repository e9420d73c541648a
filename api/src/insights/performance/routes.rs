use axum::Json;
use axum::extract::State;

use super::model::{Performance, PerformanceQuery, Question};
use super::store;
use crate::ApiState;
use crate::error::ApiResult;
use crate::insights::query::ReadQuery;
use crate::scope::Viewer;

/// Percentiles of performance samples by the hour.
#[utoipa::path(get, path = "/telemetry/performance", tag = "telemetry",
    security(("bearer" = ["viewer"])), params(PerformanceQuery),
    responses((status = 200, body = Performance)))]
pub(in crate::insights) async fn get(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    ReadQuery(query): ReadQuery<PerformanceQuery>,
) -> ApiResult<Json<Performance>> {
    let now = state.clock.now();
    let question = Question::new(query, &scope.default_channel, now);
    let project = scope.project;
    let insights = &state.insights;
    let folds = insights.folds.snapshot(now).await?;
    // Samples do not wait for folds: an answer lives as long as a snapshot.
    let read = store::read(&insights.reader, project, &question);
    let metrics = insights
        .performance
        .get(project, folds.taken, &question, read);
    Ok(Json(Performance {
        metrics: metrics.await?.to_vec(),
        last_updated_at: insights.last_updated(project, &folds).await?,
    }))
}
