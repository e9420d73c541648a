//! How folded tables are read: sums as one column, the parts of a window in one union.

use sluice_schema::id::ProjectId;

use super::folds::Snapshot;
use super::metrics::Sums;
use super::reader::{Statement, Value};
use super::window::Window;

/// The sums that [`StoredSums`] reads, over rows with a column for each.
pub(super) const SUMS: &str =
    "tuple(sum(L), sum(J), sum(C), sum(S), sum(E), sum(EC), sum(H)) AS sums";

/// L, J, C, S, E, EC, H.
pub(super) type StoredSums = (u64, u64, u64, u64, u64, u64, u64);

impl From<StoredSums> for Sums {
    fn from(stored: StoredSums) -> Self {
        Self {
            launches: stored.0,
            js_errors: stored.1,
            crashes: stored.2,
            sessions: stored.3,
            failed: stored.4,
            crashed: stored.5,
            device_hours: stored.6,
        }
    }
}

/// Tables that hold the same by day, by hour, and of hours that are not closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    pub(super) daily: &'static str,
    pub(super) hourly: &'static str,
    pub(super) now: &'static str,
}

/// Rows of folded tables: of a project, in a window, that fit a filter.
#[derive(Clone, Debug)]
pub(super) struct Rows<'a> {
    pub(super) project: ProjectId,
    pub(super) window: Window,
    /// What is selected beside `time`, the start of the row's hour or day.
    pub(super) columns: &'a str,
    pub(super) filter: &'a Statement,
}

impl Rows<'_> {
    /// From days where they are folded; `None` where nothing is.
    pub(super) fn by_day(&self, tables: Tables, folds: &Snapshot) -> Option<Statement> {
        let versions = folds.days(self.window);
        self.union([
            (tables.daily, "day", &versions.days),
            (tables.hourly, "hour", &versions.hours),
            (tables.now, "hour", &versions.now),
        ])
    }

    /// From hours alone; `None` where nothing is folded.
    pub(super) fn by_hour(&self, tables: Tables, folds: &Snapshot) -> Option<Statement> {
        let versions = folds.hours(self.window);
        self.union([
            (tables.hourly, "hour", &versions.hours),
            (tables.now, "hour", &versions.now),
        ])
    }

    /// Of tables, their column of time, and their versions that count.
    fn union<const N: usize>(&self, parts: [(&str, &str, &Vec<u64>); N]) -> Option<Statement> {
        let named = parts.into_iter().filter(|(_, _, ver)| !ver.is_empty());
        let selects = named.map(|(table, time, versions)| {
            let columns = self.columns;
            Statement::new(&format!("SELECT {time} AS time, {columns} FROM {table}"))
                .with(" WHERE project_id = ?", self.project.0)
                .with(
                    &format!(" AND {time} >= toDateTime(?, 'UTC')"),
                    self.window.from.timestamp(),
                )
                .with(
                    &format!(" AND {time} < toDateTime(?, 'UTC')"),
                    self.window.to.timestamp(),
                )
                .with(" AND ver IN ?", Value::from(versions.as_slice()))
                .append(self.filter.clone())
        });
        let union = Statement::join(selects, " UNION ALL ");
        (!union.is_empty()).then_some(union)
    }
}

/// The maps of a project that hold a flag.
pub(super) fn maps_with_flag(project: ProjectId, key: &str) -> Statement {
    Statement::default()
        .with(
            "SELECT flag_map FROM flag_maps WHERE project_id = ?",
            project.0,
        )
        .with(" AND arrayExists(flag -> flag.1 = ?, flags)", key)
}
