//! The flag routes for devices, through the whole router, over a real Postgres.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod ages;
mod bulk;
mod definitions;
mod evaluations;
mod ofrep;
mod stream;
mod world;
