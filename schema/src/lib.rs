//! What travels and what is stored.
//!
//! This crate is the one place that two other rooms may both know: the log
//! [`frame`] that the edge writes and the aggregator reads, the wire types of
//! the device endpoints, the ClickHouse tables with the SQL that defines every
//! metric, and the Postgres migrations. It does no I/O.

pub mod clickhouse;
pub mod frame;
pub mod id;
pub mod postgres;
pub mod wire;
