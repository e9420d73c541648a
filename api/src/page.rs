//! `limit` and `offset` of lists (management.md §1.3).

use crate::error::{ApiError, ApiResult};

/// The limit to use: the default if none is given, the maximum if more is.
pub fn limit(given: Option<i64>, default: i64, max: i64) -> ApiResult<i64> {
    match given {
        Some(limit) if limit < 1 => Err(ApiError::bad_request("limit must be at least 1")),
        Some(limit) => Ok(limit.min(max)),
        None => Ok(default),
    }
}

/// The offset to use: 0 if none is given.
pub fn offset(given: Option<i64>) -> ApiResult<i64> {
    match given {
        Some(offset) if offset < 0 => Err(ApiError::bad_request("offset must not be negative")),
        given => Ok(given.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_clamped_above_and_refused_below() {
        assert_eq!(limit(None, 100, 500).unwrap(), 100);
        assert_eq!(limit(Some(501), 100, 500).unwrap(), 500);
        assert!(limit(Some(0), 100, 500).is_err() && limit(Some(-1), 100, 500).is_err());
        assert_eq!(offset(None).unwrap(), 0);
        assert!(offset(Some(-1)).is_err());
    }
}
