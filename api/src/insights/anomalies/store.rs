use std::collections::HashMap;

use chrono::{DateTime, Months, TimeDelta, Utc};
use serde::Serialize;
use sluice_schema::id::ProjectId;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, Transaction};
use utoipa::ToSchema;

use super::evidence::Evidence;
use super::measure::Place;
use super::model::{AnomalyRow, Filter};
use super::rules::{Kind, Known, Severity};
use crate::insights::window::start_of_hour;

/// Rounds are this far apart at least, however many processes watch.
const PACE: TimeDelta = TimeDelta::seconds(30);
const KEPT: Months = Months::new(13);

/// The flag that has a part in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct LinkedFlag {
    pub(super) id: i64,
    pub(super) key: String,
    /// Name of the variation, or the text of its value.
    pub(super) variation: String,
}

/// The update that has a part in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkedUpdate {
    pub(super) id: i64,
    pub(super) runtime_version: String,
}

/// The figures of an alarm, for its row.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) severity: Severity,
    pub(super) description: String,
    pub(super) count: u64,
    pub(super) evidence: Evidence,
}

/// What rows are about.
pub(super) type Subject = (Place, Kind);

/// A row that is open, or began in the running hour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) id: i64,
    pub(super) count: u64,
    /// Nobody has looked closer yet.
    pub(super) bare: bool,
    pub(super) known: Known,
}

/// A turn of the watch: as long as it lasts no other process has one.
pub(super) struct Turn {
    tx: Transaction<'static, Postgres>,
    now: DateTime<Utc>,
    /// When the last round was.
    pub(super) last_round: Option<DateTime<Utc>>,
}

/// Takes the turn, unless another process has it or there was one just now.
pub(super) async fn take_turn(
    pool: &PgPool,
    now: DateTime<Utc>,
) -> Result<Option<Turn>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    // A round of the future is of a clock that was wrong.
    let free: Option<Option<DateTime<Utc>>> = sqlx::query_scalar(
        "select ran_at from anomaly_watch
         where ran_at is null or ran_at <= $1 or ran_at > $2
         for update skip locked",
    )
    .bind(now - PACE)
    .bind(now)
    .fetch_optional(&mut *tx)
    .await?;
    Ok(free.map(|last_round| Turn {
        tx,
        now,
        last_round,
    }))
}

type StoredRow = (
    i64,
    i64,
    String,
    String,
    String,
    bool,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
    i64,
    bool,
);

impl Turn {
    /// For what belongs to the turn, and counts with it.
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// The rows that are open, and of other subjects those of the running hour.
    pub(super) async fn known(&mut self) -> Result<HashMap<Subject, Stored>, sqlx::Error> {
        let rows: Vec<StoredRow> = sqlx::query_as(
            "select id, project_id, type, channel, severity, status <> 'healthy' as open,
                    detected_at, quiet_since, event_count, platforms = '{}'
             from anomalies where status <> 'healthy' or detected_at >= $1
             order by open",
        )
        .bind(start_of_hour(self.now))
        .fetch_all(&mut *self.tx)
        .await?;
        // The open one comes last, and stays.
        Ok(rows.into_iter().filter_map(stored).collect())
    }

    /// A new row. Another process, or the end of the project, may be before it.
    pub(super) async fn open(
        &mut self,
        subject: &Subject,
        report: &Report,
    ) -> Result<(), sqlx::Error> {
        let ((project, channel), kind) = subject;
        let query = sqlx::query(
            "insert into anomalies (project_id, type, channel, detected_at, severity, status,
                    description, event_count, affected_devices, platforms,
                    flag_id, flag_key, flag_variation, update_id, update_runtime_version)
             select p.id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15
             from projects p where p.id = $1
             on conflict do nothing",
        )
        .bind(project.0)
        .bind(kind.as_str())
        .bind(channel)
        .bind(self.now);
        bind_report(query, report).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// An open row goes on, at its worst.
    pub(super) async fn worsen(&mut self, id: i64, report: &Report) -> Result<(), sqlx::Error> {
        let query = sqlx::query(
            "update anomalies set severity = $2, status = $3, quiet_since = null,
                    description = $4, event_count = $5, affected_devices = $6, platforms = $7,
                    flag_id = coalesce($8, flag_id), flag_key = coalesce($9, flag_key),
                    flag_variation = coalesce($10, flag_variation),
                    update_id = coalesce($11, update_id),
                    update_runtime_version = coalesce($12, update_runtime_version)
             where id = $1",
        )
        .bind(id);
        bind_report(query, report).execute(&mut *self.tx).await?;
        Ok(())
    }

    /// Since when an open row is quiet; `None`: it is not.
    pub(super) async fn quiet(
        &mut self,
        id: i64,
        since: Option<DateTime<Utc>>,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("update anomalies set quiet_since = $2 where id = $1")
            .bind(id)
            .bind(since)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// An open row is over.
    pub(super) async fn resolve(&mut self, id: i64) -> Result<(), sqlx::Error> {
        sqlx::query("update anomalies set status = 'healthy' where id = $1")
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Nothing that the turn did counts, and it is over at once: who drops a
    /// transaction may hold its rows for a while yet.
    pub(super) async fn leave(self) {
        // A connection that cannot do so is closed, which comes to the same.
        let _ = self.tx.rollback().await;
    }

    /// Everything that the turn did counts, and the turn is over.
    pub(super) async fn end(mut self) -> Result<(), sqlx::Error> {
        let connection: &mut PgConnection = &mut self.tx;
        sqlx::query("update anomaly_watch set ran_at = $1")
            .bind(self.now)
            .execute(connection)
            .await?;
        self.tx.commit().await
    }
}

fn stored(row: StoredRow) -> Option<(Subject, Stored)> {
    let (id, project, kind, channel, severity, open, detected_at, quiet_since, count, bare) = row;
    let known = Known {
        open,
        severity: Severity::parse(&severity)?,
        detected_at,
        quiet_since,
    };
    let subject = ((ProjectId(project), channel), Kind::parse(&kind)?);
    let stored = Stored {
        id,
        count: count.unsigned_abs(),
        bare,
        known,
    };
    Some((subject, stored))
}

/// A page of a project's anomalies, newest first.
pub(super) async fn list(
    pool: &PgPool,
    project: ProjectId,
    filter: &Filter,
) -> Result<Vec<AnomalyRow>, sqlx::Error> {
    let mut query = QueryBuilder::new(
        "select id, detected_at, type, severity, status, description, channel, platforms,
                event_count, affected_devices, flag_id, flag_key, flag_variation, update_id,
                update_runtime_version
         from anomalies where project_id = ",
    );
    query.push_bind(project.0);
    query.push(" and detected_at >= ").push_bind(filter.since);
    for (clause, value) in [
        (" and type = ", &filter.kind),
        (" and channel = ", &filter.channel),
        (" and flag_key = ", &filter.flag_key),
        (" and severity = ", &filter.severity),
        (" and status = ", &filter.status),
    ] {
        if let Some(value) = value {
            query.push(clause).push_bind(value);
        }
    }
    if let Some(platform) = &filter.platform {
        query
            .push(" and ")
            .push_bind(platform)
            .push(" = any(platforms)");
    }
    query.push(" order by detected_at desc, id desc limit ");
    query
        .push_bind(filter.limit)
        .push(" offset ")
        .push_bind(filter.offset);
    query.build_query_as().fetch_all(pool).await
}

/// Deletes what is older than is kept; how many.
pub(crate) async fn purge(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let before = now.checked_sub_months(KEPT).unwrap_or(now);
    let delete = sqlx::query("delete from anomalies where detected_at < $1").bind(before);
    Ok(delete.execute(pool).await?.rows_affected())
}

/// Binds what a row takes from a report, in the order of the table's columns.
fn bind_report<'q>(
    query: Query<'q, Postgres, PgArguments>,
    report: &'q Report,
) -> Query<'q, Postgres, PgArguments> {
    let (flag, update) = (&report.evidence.flag, &report.evidence.update);
    query
        .bind(report.severity.as_str())
        .bind(report.severity.status())
        .bind(&report.description)
        .bind(report.count.cast_signed())
        .bind(report.evidence.devices.cast_signed())
        .bind(&report.evidence.platforms)
        .bind(flag.as_ref().map(|flag| flag.id))
        .bind(flag.as_ref().map(|flag| &flag.key))
        .bind(flag.as_ref().map(|flag| &flag.variation))
        .bind(update.as_ref().map(|update| update.id))
        .bind(update.as_ref().map(|update| &update.runtime_version))
}
