//! How often flags were evaluated (telemetry.md §3, §5.1, §5.11).
//!
//! Counts are stored by the flag's key and the value that the app got. Here
//! they meet what people configured: keys that no flag has, and what was
//! counted before a flag of that key was made, are nobody's; values become
//! variations.

pub(crate) mod bulk;
mod model;
pub(super) mod routes;
pub(crate) mod store;
