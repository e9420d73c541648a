//! Flags as people configured them, and which of their variations a value is
//! that a device held (telemetry.md §3).

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};
use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use crate::flags::eval::{equal, text};

/// Longer values are stored as their digest, in bytes of JSON (telemetry.md §2.6).
const MAX_VALUE_BYTES: usize = 1024;

/// A flag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Flag {
    pub(in crate::insights) id: i64,
    pub(in crate::insights) key: String,
    pub(in crate::insights) name: String,
    /// By sort order.
    pub(in crate::insights) variations: Vec<Variation>,
}

/// One of a flag's values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Variation {
    pub(in crate::insights) name: Option<String>,
    pub(in crate::insights) value: Value,
}

/// What a value counts as: a variation by its place, or else its text. In the
/// order of rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::insights) enum Slot {
    Variation(usize),
    Other(String),
}

impl Flag {
    /// What a value, given as JSON, counts as: the first variation that is
    /// equal, else the first with the same text.
    pub(in crate::insights) fn slot(&self, json: &str) -> Slot {
        let value = parse(json);
        let shown = shown(&value);
        let exact = self.position(|variation| equal(&variation.value, &value));
        let found = exact.or_else(|| self.position(|variation| variation.has_text(&shown)));
        found.map_or(Slot::Other(shown), Slot::Variation)
    }

    fn position(&self, is_it: impl Fn(&Variation) -> bool) -> Option<usize> {
        self.variations.iter().position(is_it)
    }

    /// How a row of this slot is called.
    pub(in crate::insights) fn variation_name(&self, slot: &Slot) -> String {
        match slot {
            Slot::Variation(place) => self.variations.get(*place).map(Variation::label),
            Slot::Other(text) => Some(text.clone()),
        }
        .unwrap_or_default()
    }

    /// Values of one slot that are not spelt as its first one, with that one.
    pub(in crate::insights) fn other_spellings(&self, values: &[String]) -> Vec<(String, String)> {
        let mut first: BTreeMap<Slot, &String> = BTreeMap::new();
        let mut others = Vec::new();
        for value in values {
            match first.entry(self.slot(value)) {
                std::collections::btree_map::Entry::Vacant(slot) => drop(slot.insert(value)),
                std::collections::btree_map::Entry::Occupied(slot) => {
                    others.push((value.clone(), (*slot.get()).clone()));
                }
            }
        }
        others
    }
}

impl Variation {
    fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| shown(&self.value))
    }

    fn has_text(&self, text: &str) -> bool {
        let own = shown(&self.value);
        own == text || (text.starts_with("sha256:") && digest(&self.value) == text)
    }
}

fn digest(value: &Value) -> String {
    let json = value.to_string();
    match json.len() {
        0..=MAX_VALUE_BYTES => String::new(),
        _ => format!("sha256:{}", hex::encode(Sha256::digest(json))),
    }
}

/// The stored JSON of a value. What is no JSON is a text.
fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::from(json))
}

/// The text of a value: of a string itself, `default` of null, else compact JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "default".to_owned(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
        scalar => text(scalar).unwrap_or_default().into_owned(),
    }
}

/// Which flags are looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::insights) struct Selection<'a> {
    pub(in crate::insights) id: Option<i64>,
    pub(in crate::insights) key: Option<&'a str>,
    pub(in crate::insights) include_disabled: bool,
}

/// Id, key and name of a flag; value and name of one of its variations.
type FlagRow = (i64, String, String, Option<Value>, Option<String>);

/// Flags of a project with their variations, by key.
pub(in crate::insights) async fn flags(
    pool: &PgPool,
    project: ProjectId,
    selection: Selection<'_>,
) -> Result<Vec<Flag>, sqlx::Error> {
    let rows: Vec<FlagRow> = sqlx::query_as(
        "select f.id, f.key, f.name, v.value, v.name
         from flags f
         left join flag_variations v on v.flag_id = f.id and v.project_id = $1
         where f.project_id = $1 and ($2::bigint is null or f.id = $2)
           and ($3::text is null or f.key = $3) and (f.enabled or $4)
         order by f.key collate \"C\", f.id, v.sort_order, v.id",
    )
    .bind(project.0)
    .bind(selection.id)
    .bind(selection.key)
    .bind(selection.include_disabled)
    .fetch_all(pool)
    .await?;
    let mut flags: Vec<Flag> = Vec::new();
    for (id, key, name, value, variation_name) in rows {
        if flags.last().is_none_or(|flag| flag.id != id) {
            flags.push(Flag {
                id,
                key,
                name,
                variations: Vec::new(),
            });
        }
        if let (Some(value), Some(flag)) = (value, flags.last_mut()) {
            let name = variation_name;
            flag.variations.push(Variation { name, value });
        }
    }
    Ok(flags)
}

/// Whether the project has the flag, be it enabled or not.
pub(in crate::insights) async fn exists(
    pool: &PgPool,
    project: ProjectId,
    id: i64,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select exists (select from flags where project_id = $1 and id = $2)")
        .bind(project.0)
        .bind(id)
        .fetch_one(pool)
        .await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn flag(values: &[Value]) -> Flag {
        let variation = |value: &Value| Variation {
            name: None,
            value: value.clone(),
        };
        Flag {
            id: 1,
            key: "flag".to_owned(),
            name: "Flag".to_owned(),
            variations: values.iter().map(variation).collect(),
        }
    }

    #[test]
    fn an_exact_value_comes_before_a_text_and_ties_go_to_the_first() {
        let flag = flag(&[json!("true"), json!(true), json!(5), json!("5"), json!(5)]);
        assert_eq!(flag.slot("true"), Slot::Variation(1));
        assert_eq!(flag.slot("\"true\""), Slot::Variation(0));
        assert_eq!(flag.slot("5.0"), Slot::Variation(2));
        assert_eq!(flag.slot("\"5\""), Slot::Variation(3));
    }

    #[test]
    fn a_value_of_another_type_matches_by_its_text() {
        let flag = flag(&[json!("true"), json!(5), json!({"b": [1], "a": "x"})]);
        assert_eq!(flag.slot("true"), Slot::Variation(0));
        assert_eq!(flag.slot("\"5\""), Slot::Variation(1));
        assert_eq!(flag.slot("{\"a\":\"x\",\"b\":[1.0]}"), Slot::Variation(2));
        assert_eq!(flag.slot("false"), Slot::Other("false".to_owned()));
        assert_eq!(flag.slot("null"), Slot::Other("default".to_owned()));
        assert_eq!(flag.slot("\"red\""), Slot::Other("red".to_owned()));
        assert_eq!(flag.slot("[1, 2]"), Slot::Other("[1,2]".to_owned()));
    }

    #[test]
    fn a_long_value_matches_by_its_digest() {
        let long = json!({"text": "x".repeat(2_000)});
        let stored = format!(
            "\"sha256:{}\"",
            hex::encode(Sha256::digest(long.to_string()))
        );
        assert_eq!(flag(&[json!(1), long]).slot(&stored), Slot::Variation(1));
    }

    #[test]
    fn spellings_of_one_variation_are_one() {
        let flag = flag(&[json!(true)]);
        let values = ["true", "\"true\"", "7", "\"7\"", "8"].map(str::to_owned);
        let expected = [("\"true\"", "true"), ("\"7\"", "7")];
        let expected = expected.map(|(other, first)| (other.to_owned(), first.to_owned()));
        assert_eq!(flag.other_spellings(&values), expected);
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::from),
            (-9_i64..9).prop_map(Value::from),
            "[a-c0-9]{0,2}|true|false".prop_map(Value::from),
        ]
    }

    proptest! {
        #[test]
        fn each_variation_matches_itself_or_an_equal_one_before(values in proptest::collection::vec(scalar(), 1..6)) {
            let flag = flag(&values);
            for (place, value) in values.iter().enumerate() {
                let Slot::Variation(found) = flag.slot(&value.to_string()) else {
                    return Err(TestCaseError::fail("no match"));
                };
                prop_assert!(found <= place && equal(&values[found], value));
            }
        }

        #[test]
        fn values_share_a_slot_only_with_the_same_text(values in proptest::collection::vec(scalar(), 0..6), a in scalar(), b in scalar()) {
            let flag = flag(&values);
            if flag.slot(&a.to_string()) == flag.slot(&b.to_string()) {
                prop_assert_eq!(shown(&a), shown(&b));
            }
        }

        #[test]
        fn no_stored_text_panics(json in ".*") {
            let _ = flag(&[json!(1)]).slot(&json);
        }
    }
}
