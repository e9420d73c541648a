//! The edge over real HTTP, with embedded logs and a real Postgres.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests, in modules of one program"
)]

mod directory;
mod hostile;
mod log;
mod matrix;
mod outage;
mod rest;
mod shutdown;
mod support;
