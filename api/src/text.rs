//! Checks of texts and numbers that many bodies share. Each refusal names its
//! field.

use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// Longest name, in characters.
pub const NAME_CHARS: usize = 200;
/// Longest key of a flag, segment or context.
pub const KEY_CHARS: usize = 128;
/// Longest note or description.
pub const NOTE_CHARS: usize = 2000;
/// Longest URL.
pub const URL_CHARS: usize = 2048;
/// Longest release message.
pub const MESSAGE_CHARS: usize = 10_000;
/// Largest JSON value, serialised.
pub const JSON_BYTES: usize = 256 * 1024;

/// Trimmed and not empty.
pub fn required(field: &str, text: &str, max_chars: usize) -> ApiResult<String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ApiError::bad_request(format!("{field} must not be empty")));
    }
    capped(field, text.to_owned(), max_chars)
}

/// As given, at most so long.
pub fn capped(field: &str, text: String, max_chars: usize) -> ApiResult<String> {
    if text.chars().count() > max_chars {
        let message = format!("{field} must have at most {max_chars} characters");
        return Err(ApiError::bad_request(message));
    }
    Ok(text)
}

/// Trimmed; a blank one is none.
pub fn optional(field: &str, text: Option<String>, max_chars: usize) -> ApiResult<Option<String>> {
    let text = text
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty());
    text.map(|text| capped(field, text, max_chars)).transpose()
}

/// A whole number from 0 to 100.
pub fn percentage(field: &str, value: i64) -> ApiResult<i32> {
    match i32::try_from(value) {
        Ok(value @ 0..=100) => Ok(value),
        _ => Err(ApiError::bad_request(format!(
            "{field} must lie between 0 and 100"
        ))),
    }
}

/// At most [`JSON_BYTES`] when serialised, also as Postgres does it.
pub fn small_json(field: &str, value: Value) -> ApiResult<Value> {
    if value.to_string().len() + exponents_bytes(&value) > JSON_BYTES {
        return Err(ApiError::bad_request(format!(
            "{field} must have at most 256 KiB"
        )));
    }
    Ok(value)
}

/// How much longer a value is without exponents, which Postgres does not write:
/// the five bytes of `1e300` become 301.
fn exponents_bytes(value: &Value) -> usize {
    match value {
        Value::Number(number) => {
            let written = number.as_f64().filter(|_| number.is_f64());
            let written_bytes = written.map_or(0, |written| written.to_string().len());
            written_bytes.saturating_sub(number.to_string().len())
        }
        Value::Array(values) => values.iter().map(exponents_bytes).sum(),
        Value::Object(fields) => fields.values().map(exponents_bytes).sum(),
        _ => 0,
    }
}

/// How addresses are stored and looked up.
pub fn normalise_email(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Something that looks like an e-mail address, normalised.
pub fn email(field: &str, text: &str) -> ApiResult<String> {
    let email = required(field, &normalise_email(text), NAME_CHARS)?;
    let looks_right = email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.contains('@')
    });
    if !looks_right || email.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ApiError::bad_request(format!(
            "{field} is not an e-mail address"
        )));
    }
    Ok(email)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn required_texts_are_trimmed_and_bounded() {
        assert_eq!(required("name", "  a b ", 3).unwrap(), "a b");
        assert!(required("name", " \t", 3).is_err() && required("name", "abcd", 3).is_err());
        assert_eq!(optional("note", Some(" ".to_owned()), 3).unwrap(), None);
    }

    #[test]
    fn a_value_is_small_as_sent_and_as_stored() {
        let small = |value| small_json("v", value).is_ok();
        let text = |bytes: usize| Value::String("x".repeat(bytes - 2));
        assert!(small(text(JSON_BYTES)) && !small(text(JSON_BYTES + 1)));
        // 301 digits each, and as many after a point.
        let numbers = |number: f64, count| json!({ "a": vec![number; count] });
        assert!(small(numbers(1e300, 800)) && !small(numbers(1e300, 900)));
        assert!(small(numbers(1e-300, 800)) && !small(numbers(1e-300, 900)));
        assert!(small(numbers(0.5, 50_000)));
    }

    #[test]
    fn addresses_look_like_addresses() {
        assert_eq!(
            email("email", " Kim@Example.TEST ").unwrap(),
            "kim@example.test"
        );
        for bad in ["", "kim", "@x", "kim@", "a b@x", "a@b@c"] {
            assert!(email("email", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn percentages_are_whole_and_in_range() {
        assert_eq!(percentage("p", 100).unwrap(), 100);
        assert!(percentage("p", -1).is_err() && percentage("p", 101).is_err());
        assert!(percentage("p", i64::MAX).is_err());
    }
}
