//! Load generator, ledger verifier, fault drill and benchmarks of Sluice.
//!
//! Everything it starts is on loopback and gone when it ends.

pub mod bench;
pub mod bodies;
pub mod cli;
pub mod drill;
pub mod flag_api;
pub mod http;
pub mod ledger;
pub mod load;
pub mod process;
pub mod replay;
pub mod report;
pub mod serve;
pub mod service;
pub mod standalone;
pub mod verify;
pub mod workspace;

/// What ends a command early; it is printed and the exit code is 1.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The project of the recorded bodies, which standalone creates.
pub const PROJECT: &str = "my-app";
