//! The edge: takes what devices send and answers when it is durable.
//!
//! # The path of a request
//!
//! 1. [`sluice_service::serve`] accepts the connection; its IO keeps the time-outs.
//! 2. `route` picks the edge's two paths; any other goes to a
//!    [`Handler`](sluice_service::serve::Handler).
//! 3. `media` refuses by the head alone, `body` gathers the body into one
//!    buffer, `inflate` undoes its `Content-Encoding`.
//! 4. [`sluice_schema::wire`] decodes it, for validation and for counting: what
//!    goes on is what the device sent, byte for byte.
//! 5. [`directory`] says whose it is, from memory; `rates` whether it is its turn.
//! 6. The committer of the route's log takes it and answers when it is durable.
//! 7. `outcome` is how it ended: the one source of its status, its body, its
//!    headers (`respond`) and its counter (`metrics`).
//!
//! # What always holds
//!
//! 204 means durable. There is no I/O on the path but the hand-off to the log;
//! the two exceptions ask Postgres within bounds: a project that is not known
//! yet, and a credential that is not a known key. Each request ends in exactly
//! one counted outcome. SDKs never retry, so every refusal is data lost: what
//! can be accepted is.

mod body;
pub mod config;
pub mod directory;
mod edge;
mod inflate;
mod media;
mod metrics;
mod outcome;
mod rates;
mod respond;
mod route;
mod serve;
#[cfg(feature = "kafka")]
pub mod service;

pub use edge::{Edge, Limits, Parts};
pub use rates::ProjectRate;
pub use serve::{NotFound, serve};
