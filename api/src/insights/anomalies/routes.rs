use axum::Json;
use axum::extract::State;

use super::model::{EventsQuery, TelemetryEvent, Wanted};
use super::{raw, store};
use crate::ApiState;
use crate::error::ApiResult;
use crate::insights::query::ReadQuery;
use crate::scope::Viewer;

/// Anomalies, newest first: spikes of errors, of crashes and of latency.
///
/// An anomaly is open until its status is `healthy`. Where `type` is a raw one,
/// events as devices reported them come in the same form.
#[utoipa::path(get, path = "/telemetry/events", tag = "telemetry",
    security(("bearer" = ["viewer"])), params(EventsQuery),
    responses((status = 200, body = Vec<TelemetryEvent>)))]
pub(in crate::insights) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    ReadQuery(query): ReadQuery<EventsQuery>,
) -> ApiResult<Json<Vec<TelemetryEvent>>> {
    let now = state.clock.now();
    let events = match Wanted::new(query, now)? {
        Wanted::Nothing => Vec::new(),
        Wanted::Anomalies(filter) => {
            let rows = store::list(&state.postgres, scope.project, &filter).await?;
            rows.into_iter().map(TelemetryEvent::from).collect()
        }
        Wanted::Raw(kind, filter) => raw::list(&state, scope.project, kind, filter, now).await?,
    };
    Ok(Json(events))
}
