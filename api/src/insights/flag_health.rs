//! Health of flags (telemetry.md §5.2 and §5.7): of one, by variation and
//! channel, and of all, by runtime version too.

pub(super) mod catalogue;
mod combine;
mod health;
mod impacts;
pub(super) mod model;
pub(super) mod routes;
mod store;
