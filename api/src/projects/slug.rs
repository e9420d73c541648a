//! Slugs: how people and devices name a project.

use std::fmt;

use crate::error::{ApiError, ApiResult};

/// The longest, as in a DNS label.
const MAX_CHARS: usize = 63;

/// Lower-case letters, digits and inner hyphens; at most 63.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slug(String);

impl Slug {
    /// As stored.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// This slug, then `-2`, `-3`, …, shortened to fit.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = Self> {
        let base = self.clone();
        let numbered = (2_u32..).map(move |n| base.with_suffix(&format!("-{n}")));
        std::iter::once(self.clone()).chain(numbered)
    }

    fn with_suffix(&self, suffix: &str) -> Self {
        let kept = self.0.len().min(MAX_CHARS - suffix.len());
        Self(format!("{}{suffix}", self.0[..kept].trim_end_matches('-')))
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A slug given in full: trimmed, lower-cased, otherwise correct.
pub(crate) fn parse(text: &str) -> ApiResult<Slug> {
    let slug = text.trim().to_lowercase();
    let is_correct = (1..=MAX_CHARS).contains(&slug.len())
        && slug.chars().all(is_slug_char)
        && !slug.starts_with('-')
        && !slug.ends_with('-');
    if !is_correct {
        let message = "slug must have 1 to 63 letters, digits and inner hyphens";
        return Err(ApiError::bad_request(message));
    }
    Ok(Slug(slug))
}

/// A slug wished for at registration: what does not fit becomes a hyphen.
pub(crate) fn of_wish(text: &str) -> ApiResult<Slug> {
    let slug = hyphenate(text);
    if slug.is_empty() || slug.len() > MAX_CHARS {
        let message = "projectSlug must have 1 to 63 letters, digits and inner hyphens";
        return Err(ApiError::bad_request(message));
    }
    Ok(Slug(slug))
}

/// The slug that follows from a name, if anything is left of it.
pub(crate) fn of_name(name: &str) -> Option<Slug> {
    let mut slug = hyphenate(name);
    slug.truncate(MAX_CHARS);
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| Slug(slug.to_owned()))
}

/// The slug for an account whose name leaves none.
pub(crate) fn of_user(user: i64) -> Slug {
    Slug(format!("project-{user}"))
}

fn is_slug_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

fn hyphenate(text: &str) -> String {
    let lower = text.to_lowercase();
    let fitting: String = lower
        .chars()
        .map(|c| if is_slug_char(c) { c } else { '-' })
        .collect();
    fitting.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slugs_are_checked_or_derived() {
        assert_eq!(parse(" My-App ").unwrap().as_str(), "my-app");
        for bad in ["", "-a", "a-", "a b", "ä", &"a".repeat(64)] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(of_name("Kim's App!").unwrap().as_str(), "kim-s-app");
        assert_eq!(of_name("東京"), None);
        assert_eq!(of_wish("My App").unwrap().as_str(), "my-app");
    }

    proptest! {
        #[test]
        fn whatever_is_derived_is_correct(name in ".{0,90}") {
            for slug in of_name(&name).iter().flat_map(|slug| slug.candidates().take(12)) {
                prop_assert_eq!(parse(slug.as_str()).unwrap(), slug);
            }
        }
    }
}
