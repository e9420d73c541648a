//! Names of the topics.

/// Frames of health events.
pub const HEALTH: &str = "sluice.health.v1";
/// Frames of flag evaluations.
pub const EVALUATIONS: &str = "sluice.evaluations.v1";
/// Frames of requests of the manifest endpoint.
pub const MANIFESTS: &str = "sluice.manifests.v1";
/// What cannot become rows, with its reason.
pub const DEAD_LETTER: &str = "sluice.dead-letter.v1";
