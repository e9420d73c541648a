//! Benchmarks beside their limits: each figure is measured in one run with the
//! least that could do the same job, so that a slow or busy machine slows both.

pub mod baseline;
pub mod closed_loop;
pub mod edge;
pub mod flags;
pub mod reads;
pub mod rounds;
pub mod streams;
pub mod writer;

use serde::Serialize;

/// A measured figure and the bar it is held to.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Of what, to what.
    pub what: &'static str,
    /// `value` over that of the limit's variant.
    pub ratio: f64,
    /// The bar for `ratio`.
    pub limit: f64,
    /// The figure itself.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}
