//! Typed values: coercion on write, equality, and the text that conditions
//! compare (flags.md §3 and §6).

use std::borrow::Cow;

use serde_json::{Number, Value};

use super::{Invalid, number};

/// The one JSON type that every value of a flag has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagType {
    /// `true` or `false`.
    Boolean,
    /// A JSON string.
    String,
    /// A JSON number.
    Number,
    /// Anything but null.
    Json,
}

impl FlagType {
    /// The type of this wire name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "boolean" => Self::Boolean,
            "string" => Self::String,
            "number" => Self::Number,
            "json" => Self::Json,
            _ => return None,
        })
    }

    /// The wire name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Number => "number",
            Self::Json => "json",
        }
    }

    /// The default value of a flag that is created without one.
    pub fn zero(self) -> Value {
        match self {
            Self::Boolean => Value::Bool(false),
            Self::String => Value::String(String::new()),
            Self::Number => Value::from(0),
            Self::Json => Value::Object(serde_json::Map::new()),
        }
    }

    /// Whether a stored value is of this type.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Self::Boolean => value.is_boolean(),
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Json => !value.is_null(),
        }
    }

    /// The canonical form of a value that enters the system (flags.md §3).
    pub fn coerce(self, value: Value) -> Result<Value, Invalid> {
        let coerced = match self {
            Self::Boolean => boolean(&value),
            Self::String => string(value),
            Self::Number => decimal(&value),
            Self::Json => json(value),
        };
        coerced.ok_or_else(|| Invalid::new(format!("value must be a {}", self.name())))
    }
}

fn boolean(value: &Value) -> Option<Value> {
    match value {
        Value::Bool(_) => Some(value.clone()),
        Value::String(text) => text.parse().ok().map(Value::Bool),
        _ => None,
    }
}

fn string(value: Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value),
        Value::Bool(_) | Value::Number(_) => text(&value).map(|text| Value::from(text.as_ref())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn decimal(value: &Value) -> Option<Value> {
    match value {
        Value::Number(given) => Some(Value::Number(canonical_number(given))),
        Value::String(text) => Some(number(number::decimal(text)?)),
        _ => None,
    }
}

/// A finite double as canonical JSON.
pub(super) fn number(x: f64) -> Value {
    Number::from_f64(x).map_or(Value::Null, |given| Value::Number(canonical_number(&given)))
}

/// `1.0` becomes `1`: one number, one text.
fn canonical_number(given: &Number) -> Number {
    /// Beyond it, not every whole number is a double.
    const MAX_SAFE: f64 = 9_007_199_254_740_991.0;
    match given.as_f64() {
        Some(x) if given.is_f64() && x.fract() == 0.0 && x.abs() <= MAX_SAFE => {
            Number::from(x as i64)
        }
        _ => given.clone(),
    }
}

fn json(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(parsed @ (Value::Object(_) | Value::Array(_))) => Some(parsed),
            _ => Some(Value::String(text)),
        },
        other => Some(other),
    }
}

/// Structural equality: `1` equals `1.0`, the order of members does not matter.
pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

/// The text that conditions compare, as a JavaScript client computes it. None
/// for null and for objects, which have none.
pub fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::Bool(true) => Some(Cow::Borrowed("true")),
        Value::Bool(false) => Some(Cow::Borrowed("false")),
        Value::Number(given) => Some(Cow::Owned(number::text(given))),
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Array(elements) => {
            let texts: Vec<_> = elements.iter().map(element_text).collect();
            Some(Cow::Owned(texts.join(",")))
        }
    }
}

fn element_text(element: &Value) -> Cow<'_, str> {
    match element {
        Value::Object(_) => Cow::Borrowed("[object Object]"),
        other => text(other).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn coerces_by_the_table() {
        use FlagType::{Boolean, Json, Number, String};
        for (flag_type, given, stored) in [
            (Boolean, json!(true), json!(true)),
            (Boolean, json!("false"), json!(false)),
            (Number, json!("-1.5"), json!(-1.5)),
            (Number, json!("1e3"), json!(1000)),
            (Number, json!(1.0), json!(1)),
            (Number, json!(2.25), json!(2.25)),
            (String, json!("a"), json!("a")),
            (String, json!(true), json!("true")),
            (String, json!(1.0), json!("1")),
            (Json, json!("{\"a\":[1]}"), json!({"a": [1]})),
            (Json, json!("plain"), json!("plain")),
            (Json, json!("7"), json!("7")),
            (Json, json!([1]), json!([1])),
        ] {
            let coerced = flag_type.coerce(given.clone()).unwrap();
            assert_eq!(coerced.to_string(), stored.to_string(), "{given}");
        }
    }

    #[test]
    fn refuses_what_is_not_convertible() {
        use FlagType::{Boolean, Json, Number, String};
        for (flag_type, given) in [
            (Boolean, json!("yes")),
            (Boolean, json!(1)),
            (Number, json!("12px")),
            (Number, json!("")),
            (Number, json!(" 1")),
            (Number, json!("0x10")),
            (Number, json!("1e999")),
            (Number, json!(true)),
            (String, json!([])),
            (String, json!({})),
            (String, json!(null)),
            (Json, json!(null)),
        ] {
            assert!(flag_type.coerce(given.clone()).is_err(), "{given}");
        }
    }

    #[test]
    fn equality_is_structural() {
        assert!(equal(&json!(1), &json!(1.0)));
        assert!(equal(
            &json!({"a": 1, "b": [2.0]}),
            &json!({"b": [2], "a": 1.0})
        ));
        assert!(!equal(&json!("1"), &json!(1)));
        assert!(!equal(&json!([1]), &json!([1, 1])));
        assert!(!equal(&json!({"a": 1}), &json!({"b": 1})));
    }

    #[test]
    fn text_is_what_a_javascript_client_computes() {
        for (value, expected) in [
            (json!(1.0), "1"),
            (json!(1e21), "1e+21"),
            (json!(0.1), "0.1"),
            (json!(1e-7), "1e-7"),
            (json!(-0.0), "0"),
            (
                json!(12_345_678_901_234_567_890_u64),
                "12345678901234567000",
            ),
            (json!(true), "true"),
            (json!(["beta", null, 2]), "beta,,2"),
            (json!([["a", "b"], {}]), "a,b,[object Object]"),
        ] {
            assert_eq!(text(&value).as_deref(), Some(expected));
        }
        assert_eq!(text(&json!({"a": 1})), None);
        assert_eq!(text(&json!(null)), None);
    }
}
