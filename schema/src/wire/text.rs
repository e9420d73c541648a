//! Rules for text: what is cut, what is repaired.

use std::borrow::Cow;

/// Removes NULs and cuts to `max_bytes` on a character boundary.
pub(super) fn clean(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.contains('\0') {
        let mut owned = text.replace('\0', "");
        owned.truncate(cut(&owned, max_bytes).len());
        return Cow::Owned(owned);
    }
    Cow::Borrowed(cut(text, max_bytes))
}

fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// Overwrites each `\uD8xx` escape that has no partner with `\uFFFD`, in place.
///
/// JavaScript emits those when an app cuts a string inside an emoji, and
/// parsers refuse them (telemetry.md §2.5).
pub fn repair_lone_surrogates(json: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        let escape = at + found;
        match surrogate(json, escape) {
            Some(Surrogate::High)
                if matches!(surrogate(json, escape + 6), Some(Surrogate::Low)) =>
            {
                at = escape + 12;
            }
            Some(_) => {
                json[escape + 2..escape + 6].copy_from_slice(b"FFFD");
                at = escape + 6;
            }
            None => at = escape + 2,
        }
    }
}

enum Surrogate {
    High,
    Low,
}

/// The kind of surrogate whose six-byte escape begins at `at`.
fn surrogate(json: &[u8], at: usize) -> Option<Surrogate> {
    let escape = json.get(at..at + 6)?;
    if &escape[..2] != br"\u" || !escape[2].eq_ignore_ascii_case(&b'd') {
        return None;
    }
    let hex = escape[3..].iter().all(u8::is_ascii_hexdigit);
    match escape[3].to_ascii_lowercase() {
        b'8'..=b'9' | b'a'..=b'b' if hex => Some(Surrogate::High),
        b'c'..=b'f' if hex => Some(Surrogate::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repaired(json: &str) -> String {
        let mut bytes = json.as_bytes().to_vec();
        repair_lone_surrogates(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lone_surrogates_are_replaced_and_pairs_kept() {
        assert_eq!(repaired(r#""a\ud83d""#), r#""a\uFFFD""#);
        assert_eq!(
            repaired(r#""\ud83d\ude00 \uDE00""#),
            r#""\ud83d\ude00 \uFFFD""#
        );
        assert_eq!(
            repaired(r#""\ud83d\ud83d\ude00""#),
            r#""\uFFFD\ud83d\ude00""#
        );
        assert_eq!(repaired(r#""\\ud83d \n\u0041""#), r#""\\ud83d \n\u0041""#);
        assert_eq!(repaired(r"\ud8"), r"\ud8");
        assert_eq!(repaired(r"\"), r"\");
    }

    proptest! {
        #[test]
        fn cleaning_cuts_between_characters(text in "[\0aé😀]{0,40}", max in 0_usize..60) {
            let cleaned = clean(&text, max);
            prop_assert!(cleaned.len() <= max && !cleaned.contains('\0'));
            let without_nul = text.replace('\0', "");
            prop_assert!(without_nul.starts_with(&*cleaned));
            prop_assert!(cleaned.len() + 4 > max.min(without_nul.len()));
        }

        #[test]
        fn valid_json_is_left_alone(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(repaired(&json), json);
        }
    }
}
