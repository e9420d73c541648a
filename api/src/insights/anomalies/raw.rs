//! Events as devices reported them, in the form of anomalies.

use chrono::{DateTime, Utc};
use sluice_schema::id::ProjectId;
use uuid::Uuid;

use super::evidence;
use super::model::{Filter, TelemetryEvent, grade};
use crate::ApiState;
use crate::error::ApiResult;
use crate::insights::channels::Channels;
use crate::insights::observe::{self, EventRow};

/// A page of the events of a type, newest first.
pub(super) async fn list(
    state: &ApiState,
    project: ProjectId,
    kind: &'static str,
    filter: Filter,
    now: DateTime<Utc>,
) -> ApiResult<Vec<TelemetryEvent>> {
    let page = observe::Page::new(filter.limit, filter.offset);
    let filter = observe::Filter {
        types: vec![kind],
        channels: Channels::exactly(filter.channel),
        platform: filter.platform,
        from: Some(filter.since),
        detail: observe::Detail {
            flag_key: filter.flag_key,
            ..observe::Detail::default()
        },
        ..observe::Filter::default()
    };
    let insights = &state.insights;
    // Refuses soon while the store is away.
    insights.folds.snapshot(now).await?;
    let rows = observe::page(&insights.reader, project, now, &filter, page).await?;
    let uuid = |row: &EventRow| row.update_uuid.parse::<Uuid>().ok();
    let mut uuids: Vec<Uuid> = rows.iter().filter_map(uuid).collect();
    uuids.sort_unstable();
    uuids.dedup();
    let updates = evidence::updates(&state.postgres, project, uuids).await?;
    let events = rows.into_iter().map(|row| {
        let update = uuid(&row).and_then(|uuid| updates.get(&uuid).cloned());
        TelemetryEvent {
            linked_update: update,
            ..event(row)
        }
    });
    Ok(events.collect())
}

fn event(row: EventRow) -> TelemetryEvent {
    let (severity, status) = grade(&row.r#type);
    let sent = |text: String| (!text.is_empty()).then_some(text);
    let first_line = row.stack.lines().next().unwrap_or_default().to_owned();
    let id = row.position().id();
    TelemetryEvent {
        id,
        timestamp: observe::instant(row.received_us),
        severity: severity.to_owned(),
        status: status.to_owned(),
        title: sent(row.message).unwrap_or(row.name),
        r#type: row.r#type,
        description: first_line,
        linked_flag: None,
        linked_update: None,
        affected_devices: 1,
        channel: sent(row.channel),
        platforms: vec![row.platform],
        count: u64::from(row.count),
        device_id: Some(row.device_id),
        update_uuid: sent(row.update_uuid),
        runtime_version: Some(row.runtime_version),
    }
}
