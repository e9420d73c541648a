//! Updates, builds, files, rollbacks and clean-up through the whole router,
//! over a real Postgres and files on disk.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod assets;
mod builds;
mod clean_up;
mod conventions;
mod copies;
mod devices;
mod limits;
mod publishing;
mod rollback;
mod updates;
mod uploads;
mod world;
