use std::cmp::Reverse;
use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::store::FlagCounts;
use crate::insights::matching::Values;
use crate::page::Whole;

const DEFAULT_DAYS: i64 = 7;
const MAX_DAYS: i64 = 90;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EvaluationsQuery {
    /// So many UTC dates, the last of which is today; nearest of 1 to 90. Also `period=14d`.
    #[param(value_type = Option<i64>, format = "whole-number", default = 7)]
    days: Option<Whole>,
    /// Exactly this channel.
    pub(super) channel: Option<String>,
}

impl EvaluationsQuery {
    /// The dates asked for, ascending.
    pub(super) fn dates(&self, now: DateTime<Utc>) -> Vec<NaiveDate> {
        let days = Whole::clamped(self.days, DEFAULT_DAYS, 1, MAX_DAYS);
        let today = now.date_naive();
        let ago = (0..days).rev();
        ago.map(|days| today - TimeDelta::days(days)).collect()
    }
}

/// How often a flag was evaluated.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlagEvaluations {
    total: u64,
    /// Each date of the window, ascending; none where there was no evaluation.
    daily: Vec<DailyTotal>,
    /// The most frequent first; variations that nobody got, too.
    by_variation: Vec<VariationTotal>,
    /// Receipt of the latest report, whatever its age.
    last_evaluated_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DailyTotal {
    date: NaiveDate,
    total: u64,
}

/// Null and null: values of no variation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct VariationTotal {
    variation_id: Option<i64>,
    variation_name: Option<String>,
    total: u64,
}

/// A variation, as far as counts concern it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Variation {
    pub(super) id: i64,
    pub(super) name: Option<String>,
    pub(super) value: Value,
}

impl FlagEvaluations {
    /// The counts of a flag with these variations, by sort order.
    pub(super) fn new(dates: &[NaiveDate], variations: &[Variation], counts: &FlagCounts) -> Self {
        let total = counts.by_date.values().sum();
        Self {
            total,
            daily: daily(dates, total, &counts.by_date),
            by_variation: by_variation(variations, total, &counts.by_value),
            last_evaluated_at: counts.last_at,
        }
    }
}

/// Without gaps; empty where nothing is counted, as the dashboard's "no data" needs it.
fn daily(dates: &[NaiveDate], total: u64, by_date: &HashMap<NaiveDate, u64>) -> Vec<DailyTotal> {
    if total == 0 {
        return Vec::new();
    }
    let day = |date: &NaiveDate| DailyTotal {
        date: *date,
        total: by_date.get(date).copied().unwrap_or_default(),
    };
    dates.iter().map(day).collect()
}

fn by_variation(
    variations: &[Variation],
    total: u64,
    by_value: &[(String, u64)],
) -> Vec<VariationTotal> {
    let values = Values::new(variations.iter().map(|variation| variation.value.clone()));
    let mut totals = vec![0; variations.len()];
    for (value, count) in by_value {
        if let Some(index) = values.index_of(value) {
            totals[index] += count;
        }
    }
    let matched: u64 = totals.iter().sum();
    let known = variations.iter().zip(totals);
    let mut rows: Vec<_> = known
        .map(|(variation, total)| VariationTotal {
            variation_id: Some(variation.id),
            variation_name: variation.name.clone(),
            total,
        })
        .collect();
    let unmatched = total.saturating_sub(matched);
    if unmatched > 0 {
        rows.push(VariationTotal {
            variation_id: None,
            variation_name: None,
            total: unmatched,
        });
    }
    // Stable: equal totals stay in sort order.
    rows.sort_by_key(|row| Reverse(row.total));
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variation(id: i64, name: Option<&str>, value: Value) -> Variation {
        let name = name.map(str::to_owned);
        Variation { id, name, value }
    }

    fn query(days: Option<i64>) -> EvaluationsQuery {
        EvaluationsQuery {
            days: days.map(Whole),
            channel: None,
        }
    }

    fn now() -> DateTime<Utc> {
        "2026-03-01T23:59:59Z".parse().unwrap()
    }

    #[test]
    fn the_window_is_so_many_utc_dates() {
        for (asked, days) in [(None, 7), (Some(1), 1), (Some(0), 1), (Some(91), 90)] {
            let dates = query(asked).dates(now());
            assert_eq!(dates.len(), days);
            assert_eq!(dates.last().copied(), Some(now().date_naive()));
            let gaps = dates
                .windows(2)
                .filter(|pair| pair[0].succ_opt() != Some(pair[1]));
            assert_eq!(gaps.count(), 0);
        }
    }

    #[test]
    fn gaps_are_filled_and_variations_without_counts_shown() {
        let dates = query(Some(3)).dates(now());
        let variations = [
            variation(1, Some("Off"), json!(false)),
            variation(2, None, json!(true)),
            variation(3, Some("Never"), json!("x")),
        ];
        let counts = FlagCounts {
            by_date: HashMap::from([(dates[0], 5), (dates[2], 6)]),
            by_value: vec![
                ("true".into(), 5),
                ("\"true\"".into(), 2),
                ("false".into(), 1),
                ("\"gone\"".into(), 3),
            ],
            last_at: Some(now()),
        };
        let evaluations = serde_json::to_value(FlagEvaluations::new(&dates, &variations, &counts));
        assert_eq!(
            evaluations.unwrap(),
            json!({
                "total": 11,
                "daily": [
                    {"date": "2026-02-27", "total": 5},
                    {"date": "2026-02-28", "total": 0},
                    {"date": "2026-03-01", "total": 6},
                ],
                "byVariation": [
                    {"variationId": 2, "variationName": null, "total": 7},
                    {"variationId": null, "variationName": null, "total": 3},
                    {"variationId": 1, "variationName": "Off", "total": 1},
                    {"variationId": 3, "variationName": "Never", "total": 0},
                ],
                "lastEvaluatedAt": "2026-03-01T23:59:59Z",
            })
        );
    }

    #[test]
    fn without_counts_there_are_no_days_and_no_unmatched_row() {
        let dates = query(None).dates(now());
        let variations = [variation(1, Some("On"), json!(true))];
        let empty = FlagEvaluations::new(&dates, &variations, &FlagCounts::default());
        assert_eq!(
            serde_json::to_value(empty).unwrap(),
            json!({
                "total": 0,
                "daily": [],
                "byVariation": [{"variationId": 1, "variationName": "On", "total": 0}],
                "lastEvaluatedAt": null,
            })
        );
    }
}
