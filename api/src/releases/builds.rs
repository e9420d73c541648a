//! Builds: what was compiled, uploaded and may be published (management.md §7).

mod model;
pub(super) mod routes;
mod store;
