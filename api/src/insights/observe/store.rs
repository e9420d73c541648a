use chrono::{DateTime, Utc};
use clickhouse::Row;
use serde::Deserialize;
use sluice_schema::id::ProjectId;

use super::model::{EventList, EventRow, FlagMaps, Group, GroupList, Observed, instant};
use super::paging::{Position, lower_bounds, split};
use super::question::{Detail, Filter, GroupBy, Page, Question};
use crate::insights::channels::DefaultChannel;
use crate::insights::reader::{ReadError, Reader, Statement};
use crate::insights::stored::maps_with_flag;

const EVENT_COLUMNS: &str = "SELECT toUnixTimestamp64Micro(received_at) AS received_us, \
     src_partition, src_offset, src_index, device_id, channel, platform, runtime_version, \
     update_uuid, type, name, message, stack, component_stack, error_name, is_fatal, count, tags, \
     flag_map FROM health_events";
const NEWEST_FIRST: &str = " ORDER BY received_at DESC, src_partition DESC, src_offset DESC, \
     src_index DESC";

/// What matches, at the moment `now`.
pub(super) async fn read(
    reader: &Reader,
    project: ProjectId,
    now: DateTime<Utc>,
    question: &Question,
) -> Result<Observed, ReadError> {
    let matches = Matches {
        reader,
        project,
        now,
        filter: &question.filter,
    };
    let void = question.filter.is_void(now);
    Ok(match question.group_by {
        None if void => Observed::Events(EventList::default()),
        None => {
            let events = matches.list(question.page, &question.default_channel);
            Observed::Events(events.await?)
        }
        Some(_) if void => Observed::Groups(GroupList::default()),
        Some(by) => Observed::Groups(matches.groups(by, question.page).await?),
    })
}

/// A page of the rows that fit a filter, at the moment `now`.
pub(in crate::insights) async fn page(
    reader: &Reader,
    project: ProjectId,
    now: DateTime<Utc>,
    filter: &Filter,
    page: Page,
) -> Result<Vec<EventRow>, ReadError> {
    let matches = Matches {
        reader,
        project,
        now,
        filter,
    };
    matches.page(page).await
}

/// The events of a project that fit a filter.
struct Matches<'a> {
    reader: &'a Reader,
    project: ProjectId,
    now: DateTime<Utc>,
    filter: &'a Filter,
}

#[derive(Row, Deserialize)]
struct GroupRow {
    key: String,
    total: u64,
    devices: u64,
    first_us: i64,
    last_us: i64,
}

#[derive(Row, Deserialize)]
struct MapRow {
    flag_map: u64,
    held: Vec<(String, String)>,
}

impl Matches<'_> {
    async fn list(
        &self,
        page: Page,
        default_channel: &DefaultChannel,
    ) -> Result<EventList, ReadError> {
        let (total, rows) = tokio::try_join!(self.total(), self.page(page))?;
        let full = page.limit > 0 && rows.len() as u64 == page.limit;
        let last = rows.last().filter(|_| full).map(EventRow::position);
        let maps = self.flag_maps(&rows).await?;
        let event = |row: EventRow| row.into_event(&maps, default_channel);
        let events = rows.into_iter().map(event);
        Ok(EventList {
            events: events.collect(),
            total,
            next_cursor: last.map(|position| position.to_string()),
        })
    }

    /// Looks further back until the page is full.
    async fn page(&self, page: Page) -> Result<Vec<EventRow>, ReadError> {
        let mut rows = Vec::new();
        if page.limit == 0 {
            return Ok(rows);
        }
        let oldest = self.filter.since(self.now);
        let after = page.after.map(|position| instant(position.received_us));
        let newest = after.or(self.filter.to).unwrap_or(self.now);
        for from in lower_bounds(newest, oldest) {
            rows = self.reader.rows(self.page_from(from, page)).await?;
            if rows.len() as u64 == page.limit {
                break;
            }
        }
        Ok(rows)
    }

    fn page_from(&self, from: DateTime<Utc>, page: Page) -> Statement {
        let mut page_of = Statement::new(EVENT_COLUMNS).append(self.raw(from, self.filter.to));
        if let Some(position) = page.after {
            page_of = page_of.append(after(position));
        }
        page_of
            .push(NEWEST_FIRST)
            .with(" LIMIT ?", page.limit.cast_signed())
            .with(" OFFSET ?", page.offset.cast_signed())
    }

    /// The number of all matches: of whole hours from counts, unless a detail
    /// is asked for that only raw events have.
    async fn total(&self) -> Result<u64, ReadError> {
        let (from, to) = (self.filter.since(self.now), self.filter.to);
        if self.filter.detail != Detail::default() {
            let count = Statement::new("SELECT count() FROM health_events");
            return self.reader.row(count.append(self.raw(from, to))).await;
        }
        let parts = split(from, to);
        let hours = parts.hours.map(|(from, to)| self.counted(from, to));
        let rest = parts.rest.into_iter().map(|(from, to)| {
            let count = Statement::new("SELECT count() AS n FROM health_events");
            count.append(self.raw(from, Some(to)))
        });
        let all = Statement::join(hours.into_iter().chain(rest), " UNION ALL ");
        let total = Statement::new("SELECT sum(n) FROM (").append(all).push(")");
        self.reader.row(total).await
    }

    fn counted(&self, from: DateTime<Utc>, to: Option<DateTime<Utc>>) -> Statement {
        let hours = Statement::new("SELECT sum(events) AS n FROM event_hours")
            .with(" WHERE project_id = ?", self.project.0)
            .with(" AND hour >= toDateTime(?, 'UTC')", from.timestamp());
        let hours = match to {
            Some(to) => hours.with(" AND hour < toDateTime(?, 'UTC')", to.timestamp()),
            None => hours,
        };
        hours.append(self.dimensions("update_uuid"))
    }

    async fn groups(&self, by: GroupBy, page: Page) -> Result<GroupList, ReadError> {
        let raw = self.raw(self.filter.since(self.now), self.filter.to);
        let total = Statement::new(&format!("SELECT uniqExact({by}) FROM health_events"));
        let total = self.reader.row(total.append(raw.clone()));
        let groups = Statement::new(&format!(
            "SELECT toString({by}) AS key, sum(count) AS total, \
             uniqCombined64If(device, device != 0) AS devices, \
             toUnixTimestamp64Micro(min(received_at)) AS first_us, \
             toUnixTimestamp64Micro(max(received_at)) AS last_us FROM health_events"
        ));
        let groups = groups
            .append(raw)
            .push(" GROUP BY key ORDER BY last_us DESC, key")
            .with(" LIMIT ?", page.limit.cast_signed())
            .with(" OFFSET ?", page.offset.cast_signed());
        let groups = async {
            match page.limit {
                0 => Ok(Vec::<GroupRow>::new()),
                _ => self.reader.rows(groups).await,
            }
        };
        let (total, groups) = tokio::try_join!(total, groups)?;
        Ok(GroupList {
            groups: groups.into_iter().map(Group::from).collect(),
            total,
        })
    }

    /// Flags of the maps that these rows name.
    async fn flag_maps(&self, rows: &[EventRow]) -> Result<FlagMaps, ReadError> {
        let mut ids: Vec<u64> = rows.iter().map(|row| row.flag_map).collect();
        ids.retain(|id| *id != 0);
        if ids.is_empty() {
            return Ok(FlagMaps::new());
        }
        let maps = Statement::new("SELECT flag_map, any(flags) AS held FROM flag_maps")
            .with(" WHERE project_id = ?", self.project.0)
            .with(" AND flag_map IN ?", ids.as_slice())
            .push(" GROUP BY flag_map");
        let maps: Vec<MapRow> = self.reader.rows(maps).await?;
        Ok(maps
            .into_iter()
            .map(|map| (map.flag_map, map.held))
            .collect())
    }

    /// Raw rows that match, received from `from` up to and with `to`.
    fn raw(&self, from: DateTime<Utc>, to: Option<DateTime<Utc>>) -> Statement {
        let rows = Statement::default()
            .with(" WHERE project_id = ?", self.project.0)
            .with(
                " AND received_at >= fromUnixTimestamp64Micro(?, 'UTC')",
                from.timestamp_micros(),
            );
        let rows = match to {
            Some(to) => rows.with(
                " AND received_at <= fromUnixTimestamp64Micro(?, 'UTC')",
                to.timestamp_micros(),
            ),
            None => rows,
        };
        rows.append(self.dimensions("lowerUTF8(update_uuid)"))
            .append(self.detail())
    }

    /// What counts by the hour have too.
    fn dimensions(&self, update_uuid: &str) -> Statement {
        let types: Vec<String> = self.filter.types.iter().map(|t| (*t).to_owned()).collect();
        let update = format!(" AND {update_uuid} = ?");
        Statement::default()
            .with(" AND type IN ?", types.as_slice())
            .append(self.filter.channels.clause())
            .with_some(" AND platform = ?", self.filter.platform.as_deref())
            .with_some(
                " AND runtime_version = ?",
                self.filter.runtime_version.as_deref(),
            )
            .with_some(&update, self.filter.update_uuid.as_deref())
    }

    fn detail(&self) -> Statement {
        let detail = &self.filter.detail;
        let search = detail.search.as_deref();
        let clause = Statement::default()
            .with_some(" AND device_id = ?", detail.device_id.as_deref())
            .with_some(" AND error_name = ?", detail.error_name.as_deref())
            // Both look for a plain substring: there are no wildcards.
            .with_some(" AND (positionCaseInsensitiveUTF8(message, ?) > 0", search)
            .with_some(" OR positionCaseInsensitiveUTF8(name, ?) > 0)", search);
        match &detail.flag_key {
            None => clause,
            Some(key) => clause
                .push(" AND flag_map IN (")
                .append(maps_with_flag(self.project, key))
                .push(")"),
        }
    }
}

fn after(position: Position) -> Statement {
    Statement::default()
        .with(
            " AND (received_at, src_partition, src_offset, src_index) \
             < (fromUnixTimestamp64Micro(?, 'UTC')",
            position.received_us,
        )
        .with(", toUInt16(?)", i64::from(position.partition))
        .with(", toUInt64(?)", position.offset.cast_signed())
        .with(", toUInt16(?))", i64::from(position.index))
        .with(
            " AND received_at <= fromUnixTimestamp64Micro(?, 'UTC')",
            position.received_us,
        )
}

impl From<GroupRow> for Group {
    fn from(row: GroupRow) -> Self {
        Self {
            key: row.key,
            total_count: row.total,
            unique_devices: row.devices,
            first_seen: instant(row.first_us),
            last_seen: instant(row.last_us),
        }
    }
}
