//! Updates: what devices get (management.md §6).

mod model;
pub(super) mod republish;
pub(super) mod routes;
pub(super) mod store;
