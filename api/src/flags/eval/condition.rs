//! One comparison of an attribute (flags.md §6).

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::{Context, Invalid, number, value, version};

/// The 17 operators of flags.md §6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Text equals the first value.
    Eq,
    /// Text differs from the first value.
    Neq,
    /// Text is one of the values.
    In,
    /// Text is none of the values.
    NotIn,
    /// The first value is a substring.
    Contains,
    /// The first value is a prefix.
    StartsWith,
    /// The first value is a suffix.
    EndsWith,
    /// Greater, as decimals.
    Gt,
    /// Greater or equal, as decimals.
    Gte,
    /// Less, as decimals.
    Lt,
    /// Less or equal, as decimals.
    Lte,
    /// Present and not null.
    Exists,
    /// Absent or null.
    NotExists,
    /// Greater, as versions.
    SemverGt,
    /// Greater or equal, as versions.
    SemverGte,
    /// Less, as versions.
    SemverLt,
    /// Less or equal, as versions.
    SemverLte,
}

/// Every operator and its wire name.
const NAMES: [(Operator, &str); 17] = [
    (Operator::Eq, "eq"),
    (Operator::Neq, "neq"),
    (Operator::In, "in"),
    (Operator::NotIn, "not_in"),
    (Operator::Contains, "contains"),
    (Operator::StartsWith, "starts_with"),
    (Operator::EndsWith, "ends_with"),
    (Operator::Gt, "gt"),
    (Operator::Gte, "gte"),
    (Operator::Lt, "lt"),
    (Operator::Lte, "lte"),
    (Operator::Exists, "exists"),
    (Operator::NotExists, "not_exists"),
    (Operator::SemverGt, "semver_gt"),
    (Operator::SemverGte, "semver_gte"),
    (Operator::SemverLt, "semver_lt"),
    (Operator::SemverLte, "semver_lte"),
];

impl Operator {
    /// The operator of this wire name.
    pub fn parse(name: &str) -> Option<Self> {
        let known = NAMES.iter().find(|(_, known)| *known == name)?;
        Some(known.0)
    }

    /// The wire name.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(operator, _)| *operator == self)
            .map_or("", |(_, name)| name)
    }

    fn takes_values(self) -> bool {
        !matches!(self, Self::Exists | Self::NotExists)
    }

    /// Whether `text` stands in this relation to `values`.
    fn compares(self, text: &str, values: &[String]) -> bool {
        let Some(first) = values.first() else {
            return false;
        };
        let decimals =
            |wanted: fn(Ordering) -> bool| order_of_decimals(text, first).is_some_and(wanted);
        let versions =
            |wanted: fn(Ordering) -> bool| version::compare(text, first).is_some_and(wanted);
        match self {
            Self::Eq => text == first,
            Self::Neq => text != first,
            Self::In => values.iter().any(|value| value == text),
            Self::NotIn => values.iter().all(|value| value != text),
            Self::Contains => text.contains(first.as_str()),
            Self::StartsWith => text.starts_with(first.as_str()),
            Self::EndsWith => text.ends_with(first.as_str()),
            Self::Gt => decimals(Ordering::is_gt),
            Self::Gte => decimals(Ordering::is_ge),
            Self::Lt => decimals(Ordering::is_lt),
            Self::Lte => decimals(Ordering::is_le),
            Self::SemverGt => versions(Ordering::is_gt),
            Self::SemverGte => versions(Ordering::is_ge),
            Self::SemverLt => versions(Ordering::is_lt),
            Self::SemverLte => versions(Ordering::is_le),
            Self::Exists => true,
            Self::NotExists => false,
        }
    }
}

fn order_of_decimals(a: &str, b: &str) -> Option<Ordering> {
    number::decimal(a.trim())?.partial_cmp(&number::decimal(b.trim())?)
}

/// What an attribute is to a condition.
#[derive(Debug, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// Missing or null.
    Absent,
    /// An object: present, but nothing compares with it.
    Opaque,
    /// Anything else, as text.
    Text(Cow<'a, str>),
}

impl<'a> Attribute<'a> {
    /// The attribute of this JSON value.
    pub(super) fn of(given: &'a Value) -> Self {
        match given {
            Value::Null => Self::Absent,
            other => value::text(other).map_or(Self::Opaque, Self::Text),
        }
    }
}

/// One comparison: `attribute operator values`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Name of the attribute, flat: a dot is part of it.
    pub attribute: String,
    /// How it is compared.
    pub operator: Operator,
    /// What it is compared with. Empty only for `exists` and `not_exists`.
    pub values: Vec<String>,
}

impl Condition {
    /// Reads `{attribute, operator, values}` as clients write it: `valuesJson`
    /// and a scalar `value` are aliases, scalars become their text.
    pub fn parse(given: &Value) -> Result<Self, Invalid> {
        let text_of = |name| given.get(name).and_then(Value::as_str);
        let attribute = text_of("attribute").filter(|name| !name.trim().is_empty());
        let attribute = attribute.ok_or_else(|| Invalid::new("attribute must not be blank"))?;
        let operator = text_of("operator").and_then(Operator::parse);
        let operator = operator.ok_or_else(|| Invalid::new("operator is not a known one"))?;
        let values = condition_values(given)?;
        if values.is_empty() && operator.takes_values() {
            return Err(Invalid::new(format!(
                "values must not be empty for operator {}",
                operator.name()
            )));
        }
        Ok(Self {
            attribute: attribute.to_owned(),
            operator,
            values,
        })
    }

    /// Whether it is true of `context`. A missing attribute makes every operator
    /// false but `not_exists`.
    pub fn holds(&self, context: &Context<'_>) -> bool {
        match context.attribute(&self.attribute) {
            Attribute::Absent => self.operator == Operator::NotExists,
            Attribute::Opaque => self.operator == Operator::Exists,
            Attribute::Text(_) if self.operator == Operator::Exists => true,
            Attribute::Text(text) => self.operator.compares(&text, &self.values),
        }
    }
}

fn condition_values(given: &Value) -> Result<Vec<String>, Invalid> {
    let refused = || Invalid::new("values must be an array of strings");
    let list = ["values", "valuesJson"]
        .iter()
        .find_map(|name| given.get(name).filter(|list| !list.is_null()));
    match list {
        None => match given.get("value") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(scalar) => Ok(vec![scalar_text(scalar).ok_or_else(refused)?]),
        },
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| scalar_text(value).ok_or_else(refused))
            .collect(),
        Some(_) => Err(refused()),
    }
}

fn scalar_text(given: &Value) -> Option<String> {
    match given {
        Value::Array(_) => None,
        other => value::text(other).map(Cow::into_owned),
    }
}
