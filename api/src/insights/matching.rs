//! Which variation a reported value is (telemetry.md §3): the one that equals
//! it, else the one of the same text, else none; of several the first by sort
//! order.

use std::borrow::Cow;

use serde_json::Value;
use sluice_schema::wire::flags::stored_value;

use crate::flags::eval::{equal, text};

/// The values of a flag's variations, by sort order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Values(Vec<Forms>);

/// A variation's value in each form in which it may be reported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Forms {
    value: Value,
    text: Option<String>,
    /// What is stored for a value that is too long or too deep to be kept.
    digest: Option<String>,
}

impl Values {
    /// Of variations in sort order.
    pub(super) fn new(values: impl IntoIterator<Item = Value>) -> Self {
        Self(values.into_iter().map(Forms::of).collect())
    }

    /// Adds the next one.
    pub(super) fn push(&mut self, value: Value) {
        self.0.push(Forms::of(value));
    }

    /// The value of the variation at an index.
    pub(super) fn get(&self, index: usize) -> Option<&Value> {
        self.0.get(index).map(|forms| &forms.value)
    }

    /// The index of the variation that a stored value is.
    pub(super) fn index_of(&self, stored: &str) -> Option<usize> {
        let reported = parse(stored);
        let first = |is_it: &dyn Fn(&Forms) -> bool| self.0.iter().position(is_it);
        let reported_text = text_form(&reported);
        first(&|forms| equal(&forms.value, &reported))
            .or_else(|| {
                let wanted = reported_text.as_deref()?;
                first(&|forms| forms.text.as_deref() == Some(wanted))
            })
            .or_else(|| first(&|forms| forms.digest.as_deref() == Some(stored)))
    }
}

impl Forms {
    fn of(value: Value) -> Self {
        let json = value.to_string();
        let stored = stored_value(json.clone());
        Self {
            text: text_form(&value).map(Cow::into_owned),
            digest: (stored != json).then_some(stored),
            value,
        }
    }
}

/// A value as it is stored: JSON. What is none is a text.
pub(super) fn parse(stored: &str) -> Value {
    serde_json::from_str(stored).unwrap_or_else(|_| Value::from(stored))
}

/// `true` and `"true"` have the same, `5`, `5.0` and `"5"` too; null has none.
fn text_form(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Array(_) | Value::Object(_) => Some(Cow::Owned(value.to_string())),
        scalar => text(scalar),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The contract's table: variations, what is reported, which of them it is.
    #[test]
    fn values_are_matched_by_the_table() {
        let long = json!({"text": "x".repeat(2_000)});
        let other = json!({"text": "y".repeat(2_000)});
        let cases = [
            (json!([true, false]), json!(true), Some(0)),
            (json!([true, false]), json!("false"), Some(1)),
            (json!(["true", "false"]), json!(true), Some(0)),
            (json!([5]), json!("5"), Some(0)),
            (json!([5]), json!(5.0), Some(0)),
            (json!(["5"]), json!(5), Some(0)),
            (json!(["5"]), json!(5.0), Some(0)),
            (json!([5]), json!("5.0"), None),
            // Exact before text, whatever the order.
            (json!(["5", 5]), json!(5), Some(1)),
            (json!([5, "5"]), json!("5"), Some(1)),
            // Ties: the first by sort order.
            (json!(["a", "a"]), json!("a"), Some(0)),
            (json!([5, 5.0]), json!(5.0), Some(0)),
            (
                json!([{"a": 1, "b": [2]}]),
                json!({"b": [2.0], "a": 1}),
                Some(0),
            ),
            (json!([{"a": 1}]), json!("{\"a\":1}"), Some(0)),
            (json!([["a", "b"]]), json!("a,b"), None),
            (json!([true, false]), json!(null), None),
            (json!(["null", ""]), json!(null), None),
            (json!([true]), json!("TRUE"), None),
            (json!([]), json!(1), None),
            (json!([other, long]), long.clone(), Some(1)),
            (json!([other]), long, None),
        ];
        for (variations, reported, expected) in cases {
            let values = Values::new(variations.as_array().unwrap().clone());
            let stored = stored_value(reported.to_string());
            assert_eq!(
                values.index_of(&stored),
                expected,
                "{variations} {reported}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_value_is_its_own_variation(numbers in proptest::collection::hash_set(any::<i32>(), 1..9)) {
            let all: Vec<Value> = numbers.into_iter().map(Value::from).collect();
            let values = Values::new(all.clone());
            for (index, value) in all.iter().enumerate() {
                prop_assert_eq!(values.index_of(&value.to_string()), Some(index));
                let text = Value::from(value.to_string()).to_string();
                prop_assert_eq!(values.index_of(&text), Some(index));
            }
        }

        #[test]
        fn what_is_stored_never_panics(stored in ".*") {
            let _ = Values::new([json!(1)]).index_of(&stored);
        }
    }
}
