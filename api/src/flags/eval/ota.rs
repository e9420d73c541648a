//! Rules about the update that a device runs. The dashboard and the original
//! server spell them differently; both are read, and both are written (flags.md §4).

use std::cmp::Ordering;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::condition::Attribute;
use super::{Context, Invalid, version};

/// What an `ota_update` rule matches by. Missing data never matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtaUpdate {
    /// The branch of the update that the device runs.
    Branch(String),
    /// The device's runtime version, compared as versions.
    RuntimeVersion {
        /// How.
        comparison: Comparison,
        /// With what.
        version: String,
    },
    /// The device first had its update within so many days.
    WithinDays(u32),
    /// The device first had its update at this time or later.
    Since(DateTime<Utc>),
}

/// The four comparisons of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
}

impl Comparison {
    fn parse(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("semver_").unwrap_or(name) {
            "gt" => Self::Gt,
            "gte" => Self::Gte,
            "lt" => Self::Lt,
            "lte" => Self::Lte,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::Lt => "lt",
            Self::Lte => "lte",
        }
    }

    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Gt => order.is_gt(),
            Self::Gte => order.is_ge(),
            Self::Lt => order.is_lt(),
            Self::Lte => order.is_le(),
        }
    }
}

impl OtaUpdate {
    pub(super) fn parse(config: &Value) -> Result<Self, Invalid> {
        match config["matchBy"].as_str() {
            Some("branch") => Ok(Self::Branch(text(config, "branch")?)),
            Some("runtime_version") => Ok(Self::RuntimeVersion {
                comparison: comparison(config)?,
                version: text(config, "version")?,
            }),
            Some("updated_since") => window(config),
            _ => Err(Invalid::new(
                "matchBy must be one of branch, runtime_version, updated_since",
            )),
        }
    }

    pub(super) fn canonical(&self) -> Value {
        match self {
            Self::Branch(branch) => json!({"matchBy": "branch", "branch": branch, "value": branch}),
            Self::RuntimeVersion {
                comparison,
                version,
            } => json!({
                "matchBy": "runtime_version",
                "version": version,
                "operator": format!("semver_{}", comparison.name()),
                "value": version,
                "comparison": comparison.name(),
            }),
            Self::WithinDays(days) => json!({
                "matchBy": "updated_since", "withinDays": days, "value": days.to_string(),
            }),
            Self::Since(at) => json!({
                "matchBy": "updated_since",
                "value": at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            }),
        }
    }

    /// Whether it asks when the device first had its update.
    pub(super) fn asks_update_age(&self) -> bool {
        matches!(self, Self::WithinDays(_) | Self::Since(_))
    }

    /// Whether the device's update is such a one.
    pub(super) fn holds(&self, context: &Context<'_>) -> bool {
        match self {
            Self::Branch(branch) => context.branch == Some(branch),
            Self::RuntimeVersion {
                comparison,
                version,
            } => match context.attribute("runtime_version") {
                Attribute::Text(given) => {
                    version::compare(&given, version).is_some_and(|order| comparison.accepts(order))
                }
                Attribute::Absent | Attribute::Opaque => false,
            },
            Self::WithinDays(days) => context.updated_within(*days),
            Self::Since(at) => context.updated_after(at.timestamp_micros()),
        }
    }
}

/// The dashboard's member `name`, else the original server's `value`.
fn text(config: &Value, name: &str) -> Result<String, Invalid> {
    let given = [name, "value"]
        .iter()
        .find_map(|name| config[name].as_str());
    let given = given.map(str::trim).filter(|text| !text.is_empty());
    Ok(given
        .ok_or_else(|| Invalid::new(format!("{name} must not be blank")))?
        .to_owned())
}

fn comparison(config: &Value) -> Result<Comparison, Invalid> {
    let given = ["operator", "comparison"]
        .iter()
        .find_map(|name| config.get(name).filter(|value| !value.is_null()));
    match given {
        None => Ok(Comparison::Gte),
        Some(name) => name.as_str().and_then(Comparison::parse).ok_or_else(|| {
            Invalid::new("operator must be one of semver_gte, semver_gt, semver_lte, semver_lt")
        }),
    }
}

fn window(config: &Value) -> Result<OtaUpdate, Invalid> {
    let days = |days: u64| match u32::try_from(days) {
        Ok(days) if days >= 1 => Ok(OtaUpdate::WithinDays(days)),
        _ => Err(Invalid::new("withinDays must be at least 1")),
    };
    match (&config["withinDays"], &config["value"]) {
        (Value::Number(within), _) | (Value::Null, Value::Number(within)) => {
            days(within.as_u64().unwrap_or(0))
        }
        (Value::Null, Value::String(text)) => match text.trim().parse() {
            Ok(within) => days(within),
            Err(_) => DateTime::parse_from_rfc3339(text.trim())
                .map(|at| OtaUpdate::Since(at.to_utc()))
                .map_err(|_| Invalid::new("value must be a number of days or an ISO 8601 time")),
        },
        _ => Err(Invalid::new("withinDays must be at least 1")),
    }
}
