use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use sluice_schema::id::ProjectId;

use super::catalogue::{self, Selection};
use super::health::{DEFAULT_HOURS, FlagHealth, HealthQuery, MAX_HOURS};
use super::impacts::{self, Impacts, ImpactsQuery};
use super::model::{Grain, Question, Slices, Span};
use super::store;
use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::extract::Path;
use crate::insights::folds::Snapshot;
use crate::insights::query::ReadQuery;
use crate::page::Whole;
use crate::scope::Viewer;

/// Health of all flags, by variation, channel and runtime version.
///
/// Only flags that are enabled, and variations with a launch in the window.
#[utoipa::path(get, path = "/telemetry/flag-impacts", tag = "telemetry",
    security(("bearer" = ["viewer"])), params(ImpactsQuery),
    responses((status = 200, body = Impacts)))]
pub(in crate::insights) async fn impacts(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    ReadQuery(query): ReadQuery<ImpactsQuery>,
) -> ApiResult<Json<Impacts>> {
    let (now, project) = (state.clock.now(), scope.project);
    let selection = Selection {
        key: query.flag_key.as_deref(),
        include_disabled: query.include_disabled.unwrap_or_default(),
        ..Selection::default()
    };
    let flags = Arc::new(catalogue::flags(&state.postgres, project, selection).await?);
    let question = Question {
        flags: Arc::clone(&flags),
        grain: query.grain(),
        span: query.span(now),
        channels: scope.default_channel.filter(query.channel),
        default_channel: scope.default_channel,
        platform: query.platform,
        runtime_version: None,
    };
    let folds = state.insights.folds.snapshot(now).await?;
    let slices = slices(&state, project, &folds, &question).await?;
    let uuids = impacts::update_uuids(&slices);
    let updates = store::update_ids(&state.postgres, project, &uuids).await?;
    Ok(Json(Impacts {
        data: impacts::rows(&flags, &slices, &updates),
        total_devices: slices.devices.all,
        last_updated_at: state.insights.last_updated(project, &folds).await?,
    }))
}

/// Health of a flag, by variation and channel.
#[utoipa::path(get, path = "/flags/{id}/health", tag = "flags",
    security(("bearer" = ["viewer"])), params(("id" = i64, Path), HealthQuery),
    responses((status = 200, body = FlagHealth)))]
pub(in crate::insights) async fn health(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
    ReadQuery(query): ReadQuery<HealthQuery>,
) -> ApiResult<Json<FlagHealth>> {
    let (now, project) = (state.clock.now(), scope.project);
    let selection = Selection {
        id: Some(id),
        include_disabled: query.include_disabled.unwrap_or_default(),
        ..Selection::default()
    };
    let flags = catalogue::flags(&state.postgres, project, selection).await?;
    let Some(flag) = flags.first().cloned() else {
        // A flag that is disabled has no rows, which one that is not there has neither.
        let exists = catalogue::exists(&state.postgres, project, id).await?;
        let without_data = exists.then(|| Json(FlagHealth::without_data()));
        return without_data.ok_or_else(|| ApiError::not_found("Flag"));
    };
    let hours = Whole::clamped(query.hours, DEFAULT_HOURS, 1, MAX_HOURS);
    let question = Question {
        flags: Arc::new(flags),
        grain: Grain::Channel,
        span: Span::hours(now, hours),
        channels: scope.default_channel.filter(query.channel),
        default_channel: scope.default_channel,
        platform: query.platform,
        runtime_version: query.runtime_version,
    };
    let folds = state.insights.folds.snapshot(now).await?;
    let slices = slices(&state, project, &folds, &question).await?;
    let last_updated = state.insights.last_updated(project, &folds).await?;
    Ok(Json(FlagHealth::new(&flag, &slices, last_updated)))
}

async fn slices(
    state: &ApiState,
    project: ProjectId,
    folds: &Snapshot,
    question: &Question,
) -> ApiResult<Arc<Slices>> {
    let insights = &state.insights;
    let read = store::read(&insights.reader, project, folds, question);
    let version = folds.version();
    insights
        .flag_health
        .get(project, version, question, read)
        .await
}
