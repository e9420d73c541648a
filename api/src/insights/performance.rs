//! Percentiles of performance samples by the hour (telemetry.md §5.9).

pub(super) mod model;
pub(super) mod routes;
mod store;
