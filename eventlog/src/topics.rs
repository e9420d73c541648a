//! Names of the topics.

/// Frames of health events.
pub const HEALTH: &str = "sluice.health.v1";
/// Frames of flag evaluations.
pub const EVALUATIONS: &str = "sluice.evaluations.v1";
/// What cannot become rows, with its reason.
pub const DEAD_LETTER: &str = "sluice.dead-letter.v1";
