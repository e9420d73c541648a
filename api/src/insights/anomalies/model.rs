use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::store::{LinkedFlag, LinkedUpdate};
use crate::error::{ApiError, ApiResult};
use crate::page::Whole;

const DEFAULT_DAYS: i64 = 14;
const MAX_DAYS: i64 = 90;
const DEFAULT_LIMIT: i64 = 200;
const MAX_LIMIT: i64 = 1_000;
const MAX_OFFSET: i64 = 100_000;
/// Types that are anomalies, and those that are raw.
const ANOMALIES: [&str; 4] = [
    "crash_spike",
    "error_spike",
    "latency_spike",
    "adoption_drop",
];
const RAW: [&str; 4] = ["js_error", "crash", "custom", "app_launch"];

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct EventsQuery {
    /// So many days up to now; nearest of 1 to 90. Also `period=14d`.
    #[param(value_type = Option<i64>, format = "whole-number", default = 14)]
    pub(super) days: Option<Whole>,
    /// `error_spike`, `crash_spike`, `latency_spike` or `adoption_drop`: only those anomalies.
    /// `js_error`, `crash`, `custom` or `app_launch`: events of the last 30 days as devices
    /// reported them, instead of anomalies. Anything else: nothing. Also `event_type`.
    pub(super) r#type: Option<String>,
    /// Only what is linked to this flag; of raw events, those of devices that held it. Also
    /// `flagKey`.
    pub(super) flag_key: Option<String>,
    /// Exactly this channel.
    pub(super) channel: Option<String>,
    /// Of anomalies, those to which this platform contributed a tenth at least.
    pub(super) platform: Option<String>,
    /// `critical`, `warning` or `info`.
    pub(super) severity: Option<String>,
    /// `incident`, `degraded` or `healthy`.
    pub(super) status: Option<String>,
    /// How many at most; nearest of 0 to 1,000.
    #[param(value_type = Option<i64>, format = "whole-number", default = 200)]
    pub(super) limit: Option<Whole>,
    /// How many to skip; at most 100,000.
    #[param(value_type = Option<i64>, format = "whole-number", default = 0)]
    pub(super) offset: Option<Whole>,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Anomalies(Filter),
    /// Events of this type.
    Raw(&'static str, Filter),
}

/// Which of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) since: DateTime<Utc>,
    pub(super) kind: Option<String>,
    pub(super) flag_key: Option<String>,
    pub(super) channel: Option<String>,
    pub(super) platform: Option<String>,
    pub(super) severity: Option<String>,
    pub(super) status: Option<String>,
    pub(super) limit: i64,
    pub(super) offset: i64,
}

impl Wanted {
    pub(super) fn new(query: EventsQuery, now: DateTime<Utc>) -> ApiResult<Self> {
        let kind = query.r#type.as_deref();
        let raw = RAW.into_iter().find(|raw| kind == Some(*raw));
        let is_anomaly = kind.is_none_or(|kind| ANOMALIES.contains(&kind));
        let filter = Filter::new(query, now)?;
        Ok(match raw {
            Some(raw) if filter.may_be(raw) => Self::Raw(raw, filter),
            None if is_anomaly => Self::Anomalies(filter),
            _ => Self::Nothing,
        })
    }
}

impl Filter {
    fn new(query: EventsQuery, now: DateTime<Utc>) -> ApiResult<Self> {
        let days = Whole::clamped(query.days, DEFAULT_DAYS, 1, MAX_DAYS);
        let offset = Whole::clamped(query.offset, 0, 0, i64::MAX);
        if offset > MAX_OFFSET {
            let message = format!("offset must not exceed {MAX_OFFSET}: narrow the list by days");
            return Err(ApiError::bad_request(message));
        }
        Ok(Self {
            since: now - TimeDelta::days(days),
            kind: query.r#type,
            flag_key: query.flag_key,
            channel: query.channel,
            platform: query.platform,
            severity: query.severity,
            status: query.status,
            limit: Whole::clamped(query.limit, DEFAULT_LIMIT, 0, MAX_LIMIT),
            offset,
        })
    }

    /// Whether raw events of a type have the severity and the status.
    fn may_be(&self, raw: &str) -> bool {
        let (severity, status) = grade(raw);
        let is = |wanted: &Option<String>, given| wanted.as_deref().is_none_or(|w| w == given);
        is(&self.severity, severity) && is(&self.status, status)
    }
}

/// Severity and status of raw events of a type.
pub(super) fn grade(raw: &str) -> (&'static str, &'static str) {
    match raw {
        "crash" => ("critical", "incident"),
        "js_error" => ("warning", "degraded"),
        _ => ("info", "healthy"),
    }
}

/// An anomaly, or where `type` asks for those an event as a device reported it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TelemetryEvent {
    /// Unique among anomalies; of an event, its place in the log.
    pub(super) id: u64,
    /// Of detection, or of receipt.
    pub(super) timestamp: DateTime<Utc>,
    pub(super) r#type: String,
    /// `critical`, `warning` or `info`.
    pub(super) severity: String,
    /// `incident` or `degraded` as long as it goes on; then `healthy`, as an adoption drop is at once.
    pub(super) status: String,
    pub(super) title: String,
    pub(super) description: String,
    /// The flag whose devices fail most beside those with other values.
    pub(super) linked_flag: Option<LinkedFlag>,
    /// The same of updates; of an event, the one that it came from.
    pub(super) linked_update: Option<LinkedUpdate>,
    /// Distinct devices with the error in an hour of the channel, at its worst; of an
    /// adoption drop, active devices without the update.
    pub(super) affected_devices: u64,
    pub(super) channel: Option<String>,
    /// Those with a tenth of the errors at least.
    pub(super) platforms: Vec<String>,
    /// Errors, crashes or samples of an hour, at its worst; of an adoption drop, active
    /// devices that have the update.
    pub(super) count: u64,
    /// Only of events.
    pub(super) device_id: Option<String>,
    /// Only of events.
    pub(super) update_uuid: Option<String>,
    /// Only of events.
    pub(super) runtime_version: Option<String>,
}

/// An anomaly as stored.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct AnomalyRow {
    id: i64,
    detected_at: DateTime<Utc>,
    r#type: String,
    severity: String,
    status: String,
    description: String,
    channel: String,
    platforms: Vec<String>,
    event_count: i64,
    affected_devices: i64,
    flag_id: Option<i64>,
    flag_key: Option<String>,
    flag_variation: Option<String>,
    update_id: Option<i64>,
    update_runtime_version: Option<String>,
}

impl From<AnomalyRow> for TelemetryEvent {
    fn from(row: AnomalyRow) -> Self {
        let flag = row.flag_id.zip(row.flag_key).zip(row.flag_variation);
        let update = row.update_id.zip(row.update_runtime_version);
        Self {
            id: row.id.unsigned_abs(),
            timestamp: row.detected_at,
            title: format!("{} on {}", name(&row.r#type), row.channel),
            r#type: row.r#type,
            severity: row.severity,
            status: row.status,
            description: row.description,
            linked_flag: flag.map(|((id, key), variation)| LinkedFlag { id, key, variation }),
            linked_update: update.map(|(id, runtime_version)| LinkedUpdate {
                id,
                runtime_version,
            }),
            affected_devices: row.affected_devices.unsigned_abs(),
            channel: Some(row.channel),
            platforms: row.platforms,
            count: row.event_count.unsigned_abs(),
            device_id: None,
            update_uuid: None,
            runtime_version: None,
        }
    }
}

fn name(kind: &str) -> &'static str {
    match kind {
        "crash_spike" => "Crash spike",
        "latency_spike" => "Latency spike",
        "adoption_drop" => "Adoption drop",
        _ => "Error spike",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: EventsQuery) -> Wanted {
        Wanted::new(query, Utc::now()).expect("a good query")
    }

    fn of_type(kind: &str) -> EventsQuery {
        EventsQuery {
            r#type: Some(kind.to_owned()),
            ..EventsQuery::default()
        }
    }

    #[test]
    fn a_type_says_what_is_listed_and_by_default_anomalies_are() {
        assert!(
            matches!(wanted(EventsQuery::default()), Wanted::Anomalies(filter) if filter.kind.is_none())
        );
        for kind in ANOMALIES {
            assert!(
                matches!(wanted(of_type(kind)), Wanted::Anomalies(filter) if filter.kind.as_deref() == Some(kind))
            );
        }
        for kind in RAW {
            assert!(matches!(wanted(of_type(kind)), Wanted::Raw(raw, _) if raw == kind));
        }
        for unknown in ["perf_sample", "spike", "crash,js_error"] {
            assert_eq!(wanted(of_type(unknown)), Wanted::Nothing);
        }
    }

    #[test]
    fn raw_events_have_the_severity_of_their_type() {
        let graded = |severity: &str, status: Option<&str>| EventsQuery {
            severity: Some(severity.to_owned()),
            status: status.map(str::to_owned),
            ..of_type("crash")
        };
        assert!(matches!(
            wanted(graded("critical", None)),
            Wanted::Raw("crash", _)
        ));
        assert!(matches!(
            wanted(graded("critical", Some("incident"))),
            Wanted::Raw(..)
        ));
        assert_eq!(wanted(graded("warning", None)), Wanted::Nothing);
        assert_eq!(wanted(graded("critical", Some("healthy"))), Wanted::Nothing);
    }

    #[test]
    fn numbers_are_clamped_and_deep_pages_refused() {
        let now = Utc::now();
        let filter = |days, limit, offset| {
            let whole = |number: i64| Some(Whole(number));
            let query = EventsQuery {
                days: whole(days),
                limit: whole(limit),
                offset: whole(offset),
                ..EventsQuery::default()
            };
            Filter::new(query, now)
        };
        let all = filter(900, 5_000, -3).expect("clamped");
        assert_eq!(
            (all.since, all.limit, all.offset),
            (now - TimeDelta::days(90), 1_000, 0)
        );
        let none = filter(0, -1, 100_000).expect("clamped");
        assert_eq!((none.since, none.limit), (now - TimeDelta::days(1), 0));
        let error = filter(1, 1, 100_001).expect_err("too deep");
        assert!(error.message().contains("offset"));
        let default = Filter::new(EventsQuery::default(), now).expect("a query");
        assert_eq!(
            (default.since, default.limit),
            (now - TimeDelta::days(14), 200)
        );
    }
}
