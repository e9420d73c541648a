//! Health by day or hour (telemetry.md §5.6).

pub(super) mod model;
pub(super) mod routes;
mod store;
