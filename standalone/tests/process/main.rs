//! The program as its users meet it.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod crashes;
mod flag_clients;
mod outage;
mod sluice;
mod spine;
mod uploads;
mod webhooks;
