//! Values of tags, which are shown as they were sent (telemetry.md §2.3) and
//! stored as text: a text as it is, and of anything else its JSON behind a NUL,
//! which no text holds.

use std::borrow::Cow;

use super::json::Value;
use super::text::clean;

/// Longest value, in bytes (telemetry.md §2.6).
const MAX_VALUE_BYTES: usize = 1024;
const MARK: char = '\0';

/// The form in which a value is stored. What is too long is cut, and a text.
pub(super) fn stored(value: Value<'_>) -> Cow<'_, str> {
    if let Some(text) = value.as_str() {
        return clean(text, MAX_VALUE_BYTES);
    }
    let json = value.to_json();
    Cow::Owned(if json.len() <= MAX_VALUE_BYTES {
        format!("{MARK}{json}")
    } else {
        clean(&json, MAX_VALUE_BYTES).into_owned()
    })
}

/// The value that is stored so; one that is nested too deeply to be read is its text.
pub fn shown(stored: &str) -> serde_json::Value {
    let json = stored.strip_prefix(MARK);
    let value = json.and_then(|json| serde_json::from_str(json).ok());
    value.unwrap_or_else(|| json.unwrap_or(stored).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stored_text(value: &serde_json::Value) -> String {
        let mut bytes = value.to_string().into_bytes();
        let tape = simd_json::to_tape(&mut bytes).unwrap();
        stored(Value::new(&tape.0)).into_owned()
    }

    #[test]
    fn a_value_is_shown_as_it_was_sent() {
        let values =
            json!(["cart", "5", "true", "null", "", 5, 1.5, true, null, [1, "x"], {"a": {}}]);
        for value in values.as_array().unwrap() {
            assert_eq!(shown(&stored_text(value)), *value);
        }
        assert_eq!(shown(&stored_text(&json!("a\0b"))), json!("ab"));
        assert_eq!(
            shown(&stored_text(&json!("\0[1]"))),
            json!("[1]"),
            "a text stays one"
        );
        assert_eq!(stored_text(&json!("cart")), "cart");
    }

    #[test]
    fn what_is_too_long_is_cut_and_what_is_too_deep_is_text() {
        let long = json!(["é".repeat(600)]);
        let text = shown(&stored_text(&long));
        let text = text.as_str().unwrap();
        assert!(text.len() <= 1024 && text.len() > 1020 && long.to_string().starts_with(text));
        let deep = "[".repeat(400) + &"]".repeat(400);
        assert_eq!(shown(&format!("\0{deep}")), json!(deep));
    }
}
