//! How lasting device ids are (telemetry.md §2.9): where an app brings no
//! storage, each start of its process is a new id, and every count of distinct
//! devices grows without bound. It is told, and not repaired.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_schema::id::ProjectId;

use crate::insights::metrics::Percent;
use crate::insights::reader::{ReadError, Reader, Statement};
use crate::insights::window::{Window, start_of_hour};

/// As far back as there are rows per device and hour.
const LENGTH: TimeDelta = TimeDelta::days(7);
/// Of larger projects some ids stand for all: about so many rows are looked at.
const ROWS: u64 = 2_000_000;

/// The seven days before the running hour.
pub(super) fn window(now: DateTime<Utc>) -> Window {
    let to = start_of_hour(now);
    Window {
        from: to - LENGTH,
        to,
    }
}

/// Of the ids of a window the percentage that was seen in exactly one hour;
/// none without ids.
pub(super) async fn seen_once(
    reader: &Reader,
    project: ProjectId,
    window: Window,
) -> Result<Option<Percent>, ReadError> {
    let rows = |select: &str| {
        Statement::new(select)
            .with(" FROM device_hours WHERE project_id = ?", project.0)
            .with(" AND hour >= toDateTime(?, 'UTC')", window.from.timestamp())
            .with(" AND hour < toDateTime(?, 'UTC')", window.to.timestamp())
    };
    let all: u64 = reader.row(rows("SELECT count()")).await?;
    // Numbers of devices are hashes: any remainder is as good as another.
    let one_in = (all / ROWS + 1).cast_signed();
    let ids = rows("SELECT uniqExact(hour) AS hours").with(
        " AND device != 0 AND device % ? = 0 GROUP BY device",
        one_in,
    );
    let shares = Statement::new("SELECT countIf(hours = 1), count() FROM (");
    let (once, ids): (u64, u64) = reader.row(shares.append(ids).push(")")).await?;
    Ok(Percent::of(once, ids))
}
