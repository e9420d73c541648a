//! What devices reported, as people read it (telemetry.md §5): telemetry, flag
//! health, observe, and downloads.
//!
//! # The path of a read
//!
//! 1. [`query`] reads the parameters; an area's model makes a question of them
//!    and of the clock.
//! 2. [`folds`] says what is folded, as of a second ago at most. It also is how
//!    a request notices within 2 s that ClickHouse is away.
//! 3. [`answers`] has the answer, or lets one request ask the area's store,
//!    which asks ClickHouse within the limits of [`reader`].
//! 4. Rates are made of sums by [`metrics`], at the very end: what is stored,
//!    merged and filtered are sums.

pub(crate) mod activity;
pub(crate) mod anomalies;
mod answers;
mod blocks;
pub(crate) mod channels;
pub(crate) mod downloads;
pub(crate) mod evaluations;
mod flag_health;
mod folds;
mod matching;
mod metrics;
mod observe;
mod performance;
pub(crate) mod purge;
mod query;
mod reader;
mod stored;
mod timeseries;
mod window;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::sync::Cache;
use sluice_schema::id::ProjectId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::ApiState;
use crate::error::ApiResult;
pub use anomalies::watch_once;
use answers::{Answers, Paced};
use folds::{Folds, Snapshot};
pub use purge::purge_once;
use reader::{Reader, Statement};

/// Answers of one kind in memory, and for how long; there may be none newer for hours.
const FOLDED: (u64, Duration) = (1_000, Duration::from_mins(1));
/// The same of answers that only live until the next look at the ledger; pages are large.
const FRESH: (u64, Duration) = (100, Duration::from_secs(2));
/// The same of what was before the running hour.
const OVER: (u64, Duration) = (10_000, Duration::from_hours(1));
/// Projects whose first data was seen, in memory.
const MAX_PROJECTS: u64 = 100_000;

/// What answers are made of; a project without a row in any has no data.
const TABLES: [&str; 6] = [
    "daily",
    "hourly",
    "hourly_now",
    "perf_hours",
    "evaluation_hours",
    "download_hours",
];

/// Routes of this area, relative to the base path; merged by the crate root.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(evaluations::routes::get))
        .routes(routes!(timeseries::routes::get))
        .routes(routes!(downloads::routes::list))
        .routes(routes!(downloads::routes::adoption))
        .routes(routes!(downloads::routes::one))
        .routes(routes!(observe::routes::events))
        .routes(routes!(performance::routes::get))
        .routes(routes!(flag_health::routes::impacts))
        .routes(routes!(flag_health::routes::health))
        .routes(routes!(anomalies::routes::list))
}

/// What reads share: a way to ask, and what was answered.
pub(crate) struct Shared {
    reader: Reader,
    folds: Folds,
    timeseries: Answers<timeseries::model::Question, timeseries::model::Events>,
    flag_evals: Paced<timeseries::model::Question, timeseries::model::FlagEvals>,
    performance: Answers<performance::model::Question, Vec<performance::model::Metric>>,
    flag_health: Answers<flag_health::model::Question, flag_health::model::Slices>,
    observed: Answers<observe::model::Question, observe::model::Observed>,
    /// Of one update, or of all.
    downloads: Paced<Option<Uuid>, downloads::TotalsByUpdate>,
    adoption: Paced<downloads::model::Question, downloads::model::Adopted>,
    first_served: Paced<timeseries::model::Question, downloads::model::FirstServed>,
    /// Of a window of whole hours that are over.
    identities: Answers<window::Window, Option<metrics::Percent>>,
    with_data: Cache<ProjectId, ()>,
    adoption_cost: anomalies::AdoptionCost,
}

/// What reads share. Cloning it shares it.
pub(crate) type Insights = Arc<Shared>;

impl Shared {
    pub(crate) fn new(clickhouse: clickhouse::Client) -> Insights {
        let reader = Reader::new(clickhouse);
        Arc::new(Self {
            folds: Folds::new(reader.clone()),
            reader,
            timeseries: Answers::new("timeseries", FOLDED),
            flag_evals: Paced::new("flag_evals", FOLDED.0),
            performance: Answers::new("performance", FRESH),
            flag_health: Answers::new("flags", FOLDED),
            observed: Answers::new("observed", FRESH),
            downloads: Paced::new("downloads", FOLDED.0),
            adoption: Paced::new("adoption", FOLDED.0),
            first_served: Paced::new("first_served", FOLDED.0),
            identities: Answers::new("identities", OVER),
            with_data: Cache::new(MAX_PROJECTS),
            adoption_cost: anomalies::AdoptionCost::default(),
        })
    }

    /// Up to which receipt all that a project's logs hold is counted; none before
    /// its first data. Never goes back.
    async fn counted_until(
        &self,
        project: ProjectId,
        folds: &Snapshot,
    ) -> ApiResult<Option<DateTime<Utc>>> {
        let folded = self.last_updated(project, folds).await?;
        Ok(folded.and(folds.counted_until))
    }

    /// Up to which receipt all health of a project is folded; none before its first data.
    async fn last_updated(
        &self,
        project: ProjectId,
        folds: &Snapshot,
    ) -> ApiResult<Option<DateTime<Utc>>> {
        if folds.folded_until.is_none() || !self.has_data(project).await? {
            return Ok(None);
        }
        Ok(folds.folded_until)
    }

    async fn has_data(&self, project: ProjectId) -> ApiResult<bool> {
        if self.with_data.contains_key(&project) {
            return Ok(true);
        }
        let tables = TABLES.map(|table| {
            let rows = format!("(SELECT 1 FROM {table} WHERE project_id = ? LIMIT 1)");
            Statement::default().with(&rows, project.0)
        });
        let any = Statement::join(tables, " UNION ALL ");
        let any = Statement::new("SELECT count() FROM (")
            .append(any)
            .push(")");
        let found: u64 = self.reader.row(any).await?;
        if found > 0 {
            self.with_data.insert(project, ());
        }
        Ok(found > 0)
    }
}
