//! Conditional and partial requests for a file that never changes (RFC 9110).
//! Pure.

use std::ops::Range;

use axum::http::HeaderMap;
use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What a request asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Wanted {
    All,
    /// Not empty, within the file.
    Part(Range<u64>),
    /// A range that lies outside of the file.
    Unsatisfiable,
    /// The client has it.
    Nothing,
}

impl Wanted {
    /// Of a file of this size with this entity tag.
    pub(super) fn of(headers: &HeaderMap, etag: &str, size_bytes: u64) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if text(IF_NONE_MATCH).is_some_and(|tags| matches(tags, etag)) {
            return Self::Nothing;
        }
        let is_same = text(IF_RANGE).is_none_or(|tag| tag.trim() == etag);
        match text(RANGE).filter(|_| is_same) {
            Some(range) => Self::of_range(range, size_bytes),
            None => Self::All,
        }
    }

    /// Several ranges, and what is not understood, get the whole file.
    fn of_range(range: &str, size_bytes: u64) -> Self {
        let spec = range
            .trim()
            .strip_prefix("bytes=")
            .and_then(|spec| spec.split_once('-'));
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let range = match spec.map(|(first, last)| (first.trim(), last.trim())) {
            Some(("", suffix)) => number(suffix).map(|n| size_bytes.saturating_sub(n)..size_bytes),
            Some((first, "")) => number(first).map(|first| first..size_bytes),
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => {
                    Some(first..size_bytes.min(last.saturating_add(1)))
                }
                _ => None,
            },
            None => None,
        };
        match range {
            None => Self::All,
            Some(range) if range.start < range.end => Self::Part(range),
            Some(_) => Self::Unsatisfiable,
        }
    }
}

/// If-None-Match compares weakly.
fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    const TAG: &str = "\"abc\"";

    fn wanted(headers: &[(HeaderName, &str)]) -> Wanted {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()));
        Wanted::of(&headers.collect(), TAG, 10)
    }

    #[test]
    fn single_ranges_are_parts() {
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-", 2..10),
            ("bytes=-3", 7..10),
            ("bytes=5-99", 5..10),
            ("bytes=-99", 0..10),
        ] {
            assert_eq!(wanted(&[(RANGE, range)]), Wanted::Part(part), "{range}");
        }
        for range in ["bytes=10-", "bytes=99-100", "bytes=-0"] {
            assert_eq!(wanted(&[(RANGE, range)]), Wanted::Unsatisfiable, "{range}");
        }
        for range in [
            "bytes=0-1,3-4",
            "bytes=5-2",
            "rows=1-2",
            "bytes=a-b",
            "bytes=-",
        ] {
            assert_eq!(wanted(&[(RANGE, range)]), Wanted::All, "{range}");
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent() {
        for tags in [TAG, "*", "W/\"abc\"", "\"x\", \"abc\""] {
            assert_eq!(wanted(&[(IF_NONE_MATCH, tags)]), Wanted::Nothing, "{tags}");
        }
        assert_eq!(wanted(&[(IF_NONE_MATCH, "\"x\"")]), Wanted::All);
    }

    #[test]
    fn a_part_of_another_version_is_not_a_part_of_this_one() {
        let part = |tag| wanted(&[(RANGE, "bytes=2-"), (IF_RANGE, tag)]);
        assert_eq!(part(TAG), Wanted::Part(2..10));
        assert_eq!(part("\"old\""), Wanted::All);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(text in "(bytes=)?[0-9]{0,20}-[0-9]{0,20}", size in 0_u64..100) {
            if let Wanted::Part(part) = Wanted::of_range(&text, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
