use axum::Json;
use axum::extract::State;
use sluice_schema::id::ProjectId;

use super::model::{Data, Point, Question, Timeseries, TimeseriesQuery};
use super::store;
use crate::ApiState;
use crate::error::ApiResult;
use crate::insights::evaluations::store::flags;
use crate::insights::folds::Snapshot;
use crate::insights::query::ReadQuery;
use crate::scope::Viewer;

/// Health by day or hour.
///
/// A point for every bucket, zeros included; no point at all if the project has
/// no data in the window.
#[utoipa::path(get, path = "/telemetry/timeseries", tag = "telemetry",
    security(("bearer" = ["viewer"])), params(TimeseriesQuery),
    responses((status = 200, body = Timeseries)))]
pub(in crate::insights) async fn get(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    ReadQuery(query): ReadQuery<TimeseriesQuery>,
) -> ApiResult<Json<Timeseries>> {
    let now = state.clock.now();
    let folds = state.insights.folds.snapshot(now).await?;
    let question = Question::new(query, &scope.default_channel, now);
    let project = scope.project;
    Ok(Json(Timeseries {
        data: points(&state, project, &folds, &question).await?,
        last_updated_at: state.insights.counted_until(project, &folds).await?,
    }))
}

/// The points; none if the project has nothing in the window at all.
async fn points(
    state: &ApiState,
    project: ProjectId,
    folds: &Snapshot,
    question: &Question,
) -> ApiResult<Vec<Point>> {
    let found = data(state, project, folds, question).await?;
    let is_nothing = match question.unfiltered() {
        Some(all) if found.is_empty() => data(state, project, folds, &all).await?.is_empty(),
        _ => found.is_empty(),
    };
    Ok(if is_nothing {
        Vec::new()
    } else {
        question.points(&found)
    })
}

async fn data(
    state: &ApiState,
    project: ProjectId,
    folds: &Snapshot,
    question: &Question,
) -> ApiResult<Data> {
    let (insights, version) = (&state.insights, folds.version());
    let flags = flags(
        &state.postgres,
        project,
        question.filter.flag_key.as_deref(),
    )
    .await?;
    // Boxed, because they are part of many futures.
    let events = Box::pin(store::events(&insights.reader, project, folds, question));
    let events = insights.timeseries.get(project, version, question, events);
    let evaluated = question.of_evaluations();
    let evals = store::flag_evals(insights.reader.clone(), project, evaluated.clone(), flags);
    let evals = Box::pin(evals);
    let evals = insights.flag_evals.get(project, &evaluated, evals);
    let served = question.of_downloads();
    let updates = store::first_served(insights.reader.clone(), project, served.clone());
    let updates = Box::pin(updates);
    let updates = insights.first_served.get(project, &served, updates);
    let (events, flag_evals, updates) = tokio::try_join!(events, evals, updates)?;
    Ok(Data {
        events,
        flag_evals,
        updates,
    })
}
