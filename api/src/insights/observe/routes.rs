use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::model::{Observed, Question};
use super::question::ObserveQuery;
use super::store;
use crate::ApiState;
use crate::error::ApiResult;
use crate::insights::query::ReadQuery;
use crate::scope::Viewer;

/// Events as devices reported them, newest first; or groups of them.
///
/// Errors, crashes and custom events of the last 30 days; launches only where
/// `type` asks for them.
#[utoipa::path(get, path = "/observe/events", tag = "observe",
    security(("bearer" = ["viewer"])), params(ObserveQuery),
    responses((status = 200, body = Observed)))]
pub(in crate::insights) async fn events(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    ReadQuery(query): ReadQuery<ObserveQuery>,
) -> ApiResult<Json<Arc<Observed>>> {
    let question = Question::new(query, scope.default_channel)?;
    let now = state.clock.now();
    let insights = &state.insights;
    // Raw events do not wait for folds: an answer lives as long as a snapshot.
    let taken = insights.folds.snapshot(now).await?.taken;
    let read = store::read(&insights.reader, scope.project, now, &question);
    let answer = insights.observed.get(scope.project, taken, &question, read);
    Ok(Json(answer.await?))
}
