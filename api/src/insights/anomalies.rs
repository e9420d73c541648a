//! Anomalies (telemetry.md §6), and `GET /telemetry/events` (§5.8), which lists
//! them.
//!
//! # A round of the watch
//!
//! 1. [`store`] takes the turn: one row of Postgres, locked until the round is
//!    written, so that of all replicas one works at a time.
//! 2. [`measure`] asks ClickHouse about the trailing hour of all projects at
//!    once: who had errors at all, what is usual there, and only where those are
//!    too many, what share of sessions failed.
//! 3. [`rules`] says what is an anomaly, and what becomes of the rows that are
//!    there: pure, with the clock as a value.
//! 4. [`evidence`] looks closer at what is, and finds what to blame.
//! 5. [`adoption`] looks for updates that devices do not take: in each round, or
//!    less often where that is dear.
//!
//! What always holds: of a project, type and channel one row at most is open,
//! and one at most begins in a UTC hour, by unique indexes; a severity never
//! falls; nothing is resolved by data that has not come yet.

mod adoption;
mod evidence;
mod lift;
mod measure;
mod model;
mod raw;
pub(super) mod routes;
mod rules;
mod store;
mod watch;

pub(super) use self::adoption::Cost as AdoptionCost;
pub(crate) use self::store::purge;
pub(crate) use self::watch::keep_watching;
pub use self::watch::watch_once;
