//! Flag evaluation: one pure function of a flag, a channel and a context
//! (flags.md §3 to §8).
//!
//! A [`Flag`] is what people configured; [`ChannelFlag`] is the flag in one
//! channel, compiled; [`ChannelFlag::evaluate`] answers for a [`Context`].
//! Everything that decides is a parameter, the time too.
//!
//! It does no I/O, and knows neither HTTP nor SQL.

pub mod bucket;
mod compiled;
mod condition;
mod context;
pub mod definitions;
mod flag;
mod number;
mod ota;
mod outcome;
mod rule;
mod value;
pub mod version;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use self::compiled::{ChannelFlag, Override};
pub use self::condition::{Attribute, Condition, Operator};
pub use self::context::{Context, Device};
pub use self::flag::{Environment, Flag, ReleaseLink, Rule, Segment, Variation};
pub use self::ota::{Comparison, OtaUpdate};
pub use self::outcome::{DISABLED_JSON, Outcome, Reason};
pub use self::rule::{Rollout, RuleConfig, Slice};
pub use self::value::{FlagType, equal, text};

/// What a person wrote cannot be taken. The text names the member.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Invalid {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
