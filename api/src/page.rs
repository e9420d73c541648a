//! `limit` and `offset` of lists (management.md §1.3), and other whole numbers
//! in queries.

use std::fmt;
use std::num::IntErrorKind;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{ApiError, ApiResult};

/// The limit to use: the default if none is given, the maximum if more is.
pub(crate) fn limit(given: Option<Whole>, default: i64, max: i64) -> ApiResult<i64> {
    match given {
        Some(Whole(limit)) if limit < 1 => Err(ApiError::bad_request("limit must be at least 1")),
        Some(Whole(limit)) => Ok(limit.min(max)),
        None => Ok(default),
    }
}

/// The offset to use: 0 if none is given.
pub(crate) fn offset(given: Option<Whole>) -> ApiResult<i64> {
    match given {
        Some(Whole(offset)) if offset < 0 => {
            Err(ApiError::bad_request("offset must not be negative"))
        }
        given => Ok(given.map_or(0, |Whole(offset)| offset)),
    }
}

/// A whole number; beyond 64 bits it is the nearest that has them. So its
/// description has neither bounds nor the format `int64`, which is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole(pub(crate) i64);

impl Whole {
    /// A number of days, hours or entries: the default if none is given, else the nearest allowed.
    pub(crate) fn clamped(given: Option<Self>, default: i64, least: i64, most: i64) -> i64 {
        given.map_or(default, |Self(given)| given.clamp(least, most))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(WholeVisitor)
    }
}

struct WholeVisitor;

impl Visitor<'_> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Whole, E> {
        match text.parse() {
            Ok(number) => Ok(Whole(number)),
            Err(error) => match error.kind() {
                IntErrorKind::PosOverflow => Ok(Whole(i64::MAX)),
                IntErrorKind::NegOverflow => Ok(Whole(i64::MIN)),
                _ => Err(E::custom("expected a whole number")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_clamped_above_and_refused_below() {
        let limit = |given: i64| limit(Some(Whole(given)), 100, 500);
        assert_eq!(super::limit(None, 100, 500).unwrap(), 100);
        assert_eq!(limit(501).unwrap(), 500);
        assert!(limit(0).is_err() && limit(-1).is_err());
        assert_eq!(offset(None).unwrap(), 0);
        assert_eq!(offset(Some(Whole(7))).unwrap(), 7);
        assert!(offset(Some(Whole(-1))).is_err());
    }
}
