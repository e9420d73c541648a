//! The management routes against their contract, through the whole router,
//! over a real Postgres.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod accounts;
mod audiences;
mod audited;
mod bounds;
mod connections;
mod dead_network;
mod editors;
mod every_route;
mod flag_rules;
mod flags;
mod projects;
mod receiver;
mod releases_config;
mod table;
mod together;
mod unchanged;
mod webhook_deliveries;
mod webhook_routes;
mod webhook_workers;
mod world;
