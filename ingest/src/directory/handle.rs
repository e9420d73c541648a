//! What a project may be called: its slug, or its UUID in any case.

use uuid::Uuid;

/// Longest slug, in bytes: a constraint of the table `projects`.
const MAX_SLUG_BYTES: usize = 63;

/// Whether any project could be called so.
pub(crate) fn is_possible(handle: &str) -> bool {
    is_slug(handle.as_bytes()) || uuid(handle).is_some()
}

/// The UUID, if it is one in the usual form.
pub(super) fn uuid(handle: &str) -> Option<Uuid> {
    (handle.len() == uuid::fmt::Hyphenated::LENGTH)
        .then(|| Uuid::try_parse(handle).ok())
        .flatten()
}

fn is_slug(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = |byte: &u8| plain(byte) || *byte == b'-';
    text.len() <= MAX_SLUG_BYTES
        && text.first().is_some_and(plain)
        && text.last().is_some_and(plain)
        && text.iter().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_what_the_table_allows() {
        for slug in ["a", "acme-shop", "7", &"a".repeat(63)] {
            assert!(is_possible(slug), "{slug}");
        }
        for other in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a_b",
            "é",
            "a\0",
            &"a".repeat(64),
        ] {
            assert!(!is_possible(other), "{other}");
        }
    }

    #[test]
    fn uuids_have_their_hyphens() {
        let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert!(is_possible(&text.to_uppercase()));
        assert_eq!(uuid(text).map(|u| u.to_string()).as_deref(), Some(text));
        assert_eq!(uuid(&text.replace('-', "")), None);
    }
}
