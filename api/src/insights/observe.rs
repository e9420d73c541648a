//! Single events, and groups of them (telemetry.md §5.10), from the raw table.

pub(super) mod model;
mod paging;
mod question;
pub(super) mod routes;
mod store;

pub(super) use self::model::{EventRow, instant};
pub(super) use self::question::{Detail, Filter, Page};
pub(super) use self::store::page;
