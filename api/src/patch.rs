//! Fields of PATCH bodies: absent is unchanged, null clears what can be null
//! and is refused elsewhere (management.md §1.1).

use serde::{Deserialize, Deserializer};

/// For `Option<T>`: absent, or a value; null is refused.
///
/// Use with `#[serde(default, deserialize_with = "patch::value")]`.
pub(crate) fn value<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// For `Option<Option<T>>`: absent, null, or a value.
///
/// Use with `#[serde(default, deserialize_with = "patch::nullable")]`.
#[allow(clippy::option_option)] // three states are the point
pub(crate) fn nullable<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Probe {
        #[serde(default, deserialize_with = "value")]
        name: Option<String>,
        #[serde(default, deserialize_with = "nullable")]
        #[allow(clippy::option_option)]
        note: Option<Option<String>>,
    }

    #[test]
    fn absent_null_and_value_are_told_apart() {
        let parse = |text| serde_json::from_str::<Probe>(text);
        assert_eq!(
            parse("{}").unwrap(),
            Probe {
                name: None,
                note: None
            }
        );
        assert_eq!(parse(r#"{"note":null}"#).unwrap().note, Some(None));
        assert_eq!(
            parse(r#"{"note":"x"}"#).unwrap().note,
            Some(Some("x".to_owned()))
        );
        assert!(parse(r#"{"name":null}"#).is_err());
    }
}
