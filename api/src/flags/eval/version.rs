//! Version numbers as flags.md §6 compares them: SemVer 2 precedence, with any
//! number of core parts.

use std::cmp::Ordering;

/// The order of two versions, or None where either is not one.
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (Version::parse(a)?, Version::parse(b)?);
    Some(core_order(&a.core, &b.core).then_with(|| a.pre_release_order(&b)))
}

struct Version<'a> {
    core: Vec<&'a str>,
    pre_release: Option<&'a str>,
}

impl<'a> Version<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (text, _build) = text.split_once('+').unwrap_or((text, ""));
        let (core, pre_release) = match text.split_once('-') {
            Some((core, pre_release)) => (core, Some(pre_release)),
            None => (text, None),
        };
        let core: Vec<_> = core.split('.').collect();
        core.iter()
            .all(|part| is_decimal(part))
            .then_some(Self { core, pre_release })
    }

    fn pre_release_order(&self, other: &Self) -> Ordering {
        match (self.pre_release, other.pre_release) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => identifiers_order(a, b),
        }
    }
}

/// Missing parts are 0.
fn core_order(a: &[&str], b: &[&str]) -> Ordering {
    (0..a.len().max(b.len()))
        .map(|i| decimal_order(a.get(i).unwrap_or(&"0"), b.get(i).unwrap_or(&"0")))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// A longer list of identifiers is above its own beginning.
fn identifiers_order(a: &str, b: &str) -> Ordering {
    let mut b = b.split('.');
    for a in a.split('.') {
        let Some(b) = b.next() else {
            return Ordering::Greater;
        };
        let order = identifier_order(a, b);
        if order.is_ne() {
            return order;
        }
    }
    if b.next().is_some() {
        Ordering::Less
    } else {
        Ordering::Equal
    }
}

/// Numeric identifiers are below alphanumeric ones.
fn identifier_order(a: &str, b: &str) -> Ordering {
    match (is_decimal(a), is_decimal(b)) {
        (true, true) => decimal_order(a, b),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// By value, however many digits.
fn decimal_order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}
