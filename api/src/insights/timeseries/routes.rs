use axum::Json;
use axum::extract::State;
use sluice_schema::id::ProjectId;

use super::model::{Data, Question, Timeseries, TimeseriesQuery};
use super::store;
use crate::ApiState;
use crate::error::ApiResult;
use crate::insights::downloads::model::FirstServed;
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
    let (project, question) = (scope.project, Question::new(query, now));
    let data = data(&state, project, &folds, &question).await?;
    Ok(Json(Timeseries {
        data,
        last_updated_at: state.insights.counted_until(project, &folds).await?,
    }))
}

async fn data(
    state: &ApiState,
    project: ProjectId,
    folds: &Snapshot,
    question: &Question,
) -> ApiResult<Vec<super::model::Point>> {
    let insights = &state.insights;
    let ask = async |question: &Question| {
        let key = question.filter.flag_key.as_deref();
        let flags = flags(&state.postgres, project, key).await?;
        // Boxed, because they are part of many futures.
        let read = Box::pin(store::read(
            &insights.reader,
            project,
            folds,
            question,
            &flags,
        ));
        let data = insights
            .timeseries
            .get(project, folds.version(), question, read);
        let served = question.of_downloads();
        let updates = store::first_served(insights.reader.clone(), project, served.clone());
        let updates = Box::pin(updates);
        let updates = insights.first_served.get(project, &served, updates);
        tokio::try_join!(data, updates)
    };
    let (data, updates) = ask(question).await?;
    let is_nothing = |data: &Data, updates: &FirstServed| data.is_empty() && !updates.any;
    let nothing = match question.unfiltered() {
        Some(all) if is_nothing(&data, &updates) => {
            let (data, updates) = ask(&all).await?;
            is_nothing(&data, &updates)
        }
        _ => is_nothing(&data, &updates),
    };
    Ok(if nothing {
        Vec::new()
    } else {
        question.points(&data, &updates)
    })
}
