//! Parameters of observe, and the question that they come to.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::Deserialize;
use utoipa::IntoParams;

use super::paging::Position;
use crate::error::{ApiError, ApiResult};
use crate::insights::channels::{Channels, DefaultChannel};
use crate::insights::window::{end_of_day, start_of_day};
use crate::page::Whole;

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 200;
const MAX_OFFSET: i64 = 100_000;
/// What is older is never served (telemetry.md §9).
const VISIBLE: TimeDelta = TimeDelta::days(30);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct ObserveQuery {
    /// `js_error`, `crash`, `custom`, `app_launch`, or several with commas. All but launches
    /// by default. Also `event_type`.
    pub(super) r#type: Option<String>,
    /// Part of the message or the name, in any case.
    pub(super) search: Option<String>,
    /// Exactly this channel.
    pub(super) channel: Option<String>,
    /// Exactly this platform.
    pub(super) platform: Option<String>,
    /// Exactly this device. Also `deviceId`.
    pub(super) device_id: Option<String>,
    /// This update, in any case. Also `updateUuid`.
    pub(super) update_uuid: Option<String>,
    /// Exactly this runtime version. Also `runtimeVersion`.
    pub(super) runtime_version: Option<String>,
    /// Exactly this error name. Also `errorName`.
    pub(super) error_name: Option<String>,
    /// Only events of devices that held this flag. Also `flagKey`.
    pub(super) flag_key: Option<String>,
    /// From this instant (RFC 3339) or date on.
    pub(super) from: Option<String>,
    /// Up to and with this instant (RFC 3339) or date.
    pub(super) to: Option<String>,
    /// `message` or `name`: groups instead of events. Anything else is `message`. Also `groupBy`.
    pub(super) group_by: Option<String>,
    /// How many at most; nearest of 0 to 200. 0 is for totals.
    #[param(value_type = Option<i64>, format = "whole-number", default = 50)]
    pub(super) limit: Option<Whole>,
    /// How many to skip; at most 100,000.
    #[param(value_type = Option<i64>, format = "whole-number", default = 0)]
    pub(super) offset: Option<Whole>,
    /// Which page of `limit` entries, from 1 on; where there is no `offset`.
    #[param(value_type = Option<i64>, format = "whole-number")]
    pub(super) page: Option<Whole>,
    /// `nextCursor` of the page before; instead of `offset`, and steady while events arrive.
    pub(super) cursor: Option<String>,
}

/// Types that can be listed, of which the first three are by default.
const TYPES: [&str; 4] = ["js_error", "crash", "custom", "app_launch"];

/// What is asked of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Question {
    pub(super) filter: Filter,
    pub(super) group_by: Option<GroupBy>,
    pub(super) page: Page,
    /// As which channel events of `default` are shown.
    pub(super) default_channel: DefaultChannel,
}

/// Which events match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Filter {
    /// None matches nothing.
    pub(in crate::insights) types: Vec<&'static str>,
    pub(in crate::insights) channels: Channels,
    pub(in crate::insights) platform: Option<String>,
    pub(in crate::insights) runtime_version: Option<String>,
    /// In lower case.
    pub(in crate::insights) update_uuid: Option<String>,
    pub(in crate::insights) detail: Detail,
    pub(in crate::insights) from: Option<DateTime<Utc>>,
    /// Inclusive.
    pub(in crate::insights) to: Option<DateTime<Utc>>,
}

/// What only raw events have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Detail {
    pub(in crate::insights) search: Option<String>,
    pub(in crate::insights) device_id: Option<String>,
    pub(in crate::insights) error_name: Option<String>,
    pub(in crate::insights) flag_key: Option<String>,
}

/// What groups have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum GroupBy {
    Message,
    Name,
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "message",
            Self::Name => "name",
        })
    }
}

/// Which of the matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Page {
    pub(super) limit: u64,
    pub(super) offset: u64,
    /// Only what comes after it.
    pub(super) after: Option<Position>,
}

impl Question {
    pub(super) fn new(query: ObserveQuery, default_channel: DefaultChannel) -> ApiResult<Self> {
        let page = Page::of(&query)?;
        let group_by = query.group_by.as_deref().map(|by| match by {
            "name" => GroupBy::Name,
            _ => GroupBy::Message,
        });
        Ok(Self {
            filter: Filter::new(query, &default_channel)?,
            group_by,
            page,
            default_channel,
        })
    }
}

impl Page {
    /// So many, after so many others.
    pub(in crate::insights) fn new(limit: i64, offset: i64) -> Self {
        Self {
            limit: limit.unsigned_abs(),
            offset: offset.unsigned_abs(),
            after: None,
        }
    }

    fn of(query: &ObserveQuery) -> ApiResult<Self> {
        let limit = Whole::clamped(query.limit, DEFAULT_LIMIT, 0, MAX_LIMIT);
        let skipped = Whole::clamped(query.page, 1, 1, i64::MAX) - 1;
        let offset = Whole::clamped(query.offset, skipped.saturating_mul(limit), 0, i64::MAX);
        if offset > MAX_OFFSET {
            let message = format!("offset must not exceed {MAX_OFFSET}: narrow the list by to");
            return Err(ApiError::bad_request(message));
        }
        let after = query.cursor.as_deref().map(Position::from_str).transpose();
        let after = after.map_err(|()| ApiError::bad_request("cursor is not a nextCursor"))?;
        Ok(Self {
            limit: limit.unsigned_abs(),
            offset: if after.is_some() {
                0
            } else {
                offset.unsigned_abs()
            },
            after,
        })
    }
}

impl Filter {
    fn new(query: ObserveQuery, default_channel: &DefaultChannel) -> ApiResult<Self> {
        Ok(Self {
            types: types(query.r#type.as_deref()),
            from: instant("from", query.from.as_deref(), start_of_day)?,
            to: instant("to", query.to.as_deref(), end_of_day)?,
            channels: default_channel.filter(query.channel),
            platform: query.platform,
            runtime_version: query.runtime_version,
            update_uuid: query.update_uuid.map(|uuid| uuid.to_lowercase()),
            detail: Detail {
                search: query.search,
                device_id: query.device_id,
                error_name: query.error_name,
                flag_key: query.flag_key,
            },
        })
    }

    /// From when on events may be listed.
    pub(super) fn since(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let oldest = now - VISIBLE;
        self.from.map_or(oldest, |from| from.max(oldest))
    }

    /// Whether nothing can match.
    pub(super) fn is_void(&self, now: DateTime<Utc>) -> bool {
        self.types.is_empty() || self.to.is_some_and(|to| to < self.since(now))
    }
}

/// Known types of a list with commas.
fn types(given: Option<&str>) -> Vec<&'static str> {
    let Some(given) = given else {
        return TYPES[..3].to_vec();
    };
    let wanted: Vec<&str> = given.split(',').map(str::trim).collect();
    let known = TYPES.into_iter();
    known.filter(|known| wanted.contains(known)).collect()
}

/// RFC 3339, or a date that stands for an instant of it.
fn instant(
    name: &str,
    given: Option<&str>,
    of_date: impl Fn(NaiveDate) -> DateTime<Utc>,
) -> ApiResult<Option<DateTime<Utc>>> {
    let Some(given) = given else {
        return Ok(None);
    };
    if let Ok(date) = NaiveDate::from_str(given) {
        return Ok(Some(of_date(date)));
    }
    // A plus that was not escaped in the query arrives as a space.
    let parsed = DateTime::parse_from_rfc3339(&given.replace(' ', "+"));
    let instant = parsed.map(|at| Some(at.to_utc()));
    instant.map_err(|_| ApiError::bad_request(format!("{name} must be RFC 3339 or YYYY-MM-DD")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(query: ObserveQuery) -> Question {
        Question::new(query, DefaultChannel::default()).expect("a good query")
    }

    #[test]
    fn launches_are_listed_on_request_and_samples_never() {
        assert_eq!(types(None), ["js_error", "crash", "custom"]);
        assert_eq!(types(Some("app_launch")), ["app_launch"]);
        assert_eq!(
            types(Some("crash, js_error,perf_sample")),
            ["js_error", "crash"]
        );
        let samples = ObserveQuery {
            r#type: Some("perf_sample".to_owned()),
            ..ObserveQuery::default()
        };
        assert!(question(samples).filter.is_void(Utc::now()));
    }

    #[test]
    fn pages_are_clamped_and_deep_ones_refused() {
        let page = |limit, offset, page| {
            let whole = |number: i64| (number != -1).then_some(Whole(number));
            Page::of(&ObserveQuery {
                limit: whole(limit),
                offset: whole(offset),
                page: whole(page),
                ..ObserveQuery::default()
            })
        };
        let of = |limit, offset| Page {
            limit,
            offset,
            after: None,
        };
        assert_eq!(page(-1, -1, -1).expect("default"), of(50, 0));
        assert_eq!(page(-5, -7, -9).expect("clamped"), of(0, 0));
        assert_eq!(page(900, 100_000, -1).expect("deepest"), of(200, 100_000));
        assert_eq!(page(20, -1, 3).expect("a page"), of(20, 40));
        assert_eq!(page(20, 5, 3).expect("an offset"), of(20, 5));
        assert!(page(20, 100_001, -1).is_err() && page(20, -1, i64::MAX).is_err());
    }

    #[test]
    fn times_are_instants_or_dates() {
        let at = |text: &str| instant("to", Some(text), end_of_day).expect("a time");
        assert_eq!(at("2026-03-01"), at("2026-03-01T23:59:59.999999Z"));
        assert_eq!(at("2026-03-01T02:00:00 02:00"), at("2026-03-01T00:00:00Z"));
        let error = instant("to", Some("yesterday"), end_of_day).expect_err("no time");
        assert!(error.message().contains("to"));
    }

    #[test]
    fn nothing_older_than_thirty_days_is_visible() {
        let now = Utc::now();
        let from = |days| Filter {
            from: Some(now - TimeDelta::days(days)),
            ..question(ObserveQuery::default()).filter
        };
        assert_eq!(from(40).since(now), now - VISIBLE);
        assert_eq!(from(3).since(now), now - TimeDelta::days(3));
        let past = Filter {
            to: Some(now - TimeDelta::days(31)),
            ..from(40)
        };
        assert!(past.is_void(now) && !from(40).is_void(now));
    }
}
