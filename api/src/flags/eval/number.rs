//! Decimals as JavaScript reads and writes them, within the limits of flags.md §6.

use serde_json::Number;

/// The finite decimal that the whole text is: digits, point and exponent, with
/// no blanks, and neither hexadecimal nor `inf` nor `nan`.
pub(super) fn decimal(text: &str) -> Option<f64> {
    // `parse` also knows names; no name begins with these.
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse().ok().filter(|x: &f64| x.is_finite())
}

/// Shortest text that reads back as the same double, in JavaScript's notation.
pub(super) fn text(number: &Number) -> String {
    let double = number.as_f64().unwrap_or_default();
    ryu_js::Buffer::new().format(double).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_finite_decimals() {
        for (text, expected) in [
            ("18", 18.0),
            ("-1.5", -1.5),
            ("+2", 2.0),
            ("1e2", 100.0),
            (".5", 0.5),
            ("5.", 5.0),
        ] {
            assert_eq!(decimal(text), Some(expected), "{text}");
        }
        for text in [
            "", "0x10", "inf", "-inf", "nan", "infinity", "1e999", "1 ", "1,5", ".", "e5",
        ] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
