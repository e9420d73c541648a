//! Flags as people configured them, and which of their variations a value is
//! that a device held (telemetry.md §3).

use serde_json::Value;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;

use crate::flags::eval::text;
use crate::insights::matching::{self, Values};

/// A flag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::insights) struct Flag {
    pub(in crate::insights) id: i64,
    pub(in crate::insights) key: String,
    pub(in crate::insights) name: String,
    /// Of its variations, by sort order.
    values: Values,
    /// Of its variations, by sort order.
    names: Vec<Option<String>>,
}

/// What a value counts as: a variation by its place, or else its text. In the
/// order of rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::insights) enum Slot {
    Variation(usize),
    Other(String),
}

impl Flag {
    fn new(id: i64, key: String, name: String) -> Self {
        Self {
            id,
            key,
            name,
            values: Values::new([]),
            names: Vec::new(),
        }
    }

    /// With variations that have no names.
    #[cfg(test)]
    pub(super) fn of_values(key: &str, values: impl IntoIterator<Item = Value>) -> Self {
        let mut flag = Self::new(1, key.to_owned(), key.to_owned());
        for value in values {
            flag.add_variation(None, value);
        }
        flag
    }

    fn add_variation(&mut self, name: Option<String>, value: Value) {
        self.names.push(name);
        self.values.push(value);
    }

    /// What a value, given as JSON, counts as.
    pub(in crate::insights) fn slot(&self, json: &str) -> Slot {
        let found = self.values.index_of(json);
        found.map_or_else(
            || Slot::Other(shown(&matching::parse(json))),
            Slot::Variation,
        )
    }

    /// How a row of this slot is called.
    pub(in crate::insights) fn variation_name(&self, slot: &Slot) -> String {
        let place = match slot {
            Slot::Variation(place) => *place,
            Slot::Other(text) => return text.clone(),
        };
        let name = self.names.get(place).cloned().flatten();
        name.or_else(|| self.values.get(place).map(shown))
            .unwrap_or_default()
    }
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
            flags.push(Flag::new(id, key, name));
        }
        if let (Some(value), Some(flag)) = (value, flags.last_mut()) {
            flag.add_variation(variation_name, value);
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
    use crate::flags::eval::equal;

    fn flag(values: &[Value]) -> Flag {
        Flag::of_values("flag", values.iter().cloned())
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
