//! Downloads, installs and active devices (telemetry.md §5.3 to §5.5 and §8).

mod identities;
pub(super) mod model;
pub(super) mod routes;
pub(super) mod store;

use std::collections::HashMap;
use std::sync::Arc;

use sluice_schema::id::ProjectId;
use uuid::Uuid;

use self::model::Totals;
use crate::ApiState;
use crate::error::ApiResult;

/// What is counted of each update of a project, by what devices call it.
pub(crate) type TotalsByUpdate = HashMap<Uuid, Totals>;

/// What is counted of each update of a project that was ever downloaded.
pub(crate) async fn totals(state: &ApiState, project: ProjectId) -> ApiResult<Arc<TotalsByUpdate>> {
    let insights = &state.insights;
    insights.folds.snapshot(state.clock.now()).await?;
    let read = store::totals(insights.reader.clone(), project, None);
    insights.downloads.get(project, &None, read).await
}
