//! The reads of what devices reported, through the whole router, over real
//! stores that the real writer fills; the acceptance probes of telemetry.md §12
//! (`probes`) by their numbers.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]
// `json!` makes values, and calls read better without a reference to each.
#![allow(clippy::needless_pass_by_value)]

mod access;
mod activity;
mod adoption;
mod anomalies;
mod default_channel;
mod downloads;
mod edge;
mod flags;
mod observe;
mod odd;
mod outage;
mod performance;
mod probes;
mod proxy;
mod purge;
mod retention;
mod timeseries;
mod web;
mod world;
