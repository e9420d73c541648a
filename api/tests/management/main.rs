//! The management routes against their contract, through the whole router,
//! over a real Postgres.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod receiver;
mod webhook_deliveries;
mod webhook_routes;
mod world;
