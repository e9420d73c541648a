//! The answer to one evaluation, rendered once and shared by every device.

use serde_json::{Value, json};

use super::flag::Variation;

/// Why a device got a value (flags.md §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A release that the device runs.
    ReleaseOverride,
    /// A rule.
    TargetingMatch,
    /// A rule about a segment.
    SegmentMatch,
    /// A percentage rollout.
    Split,
    /// No rule matched.
    Default,
    /// The stored value no longer fits the flag's type.
    Error,
}

impl Reason {
    /// The wire name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReleaseOverride => "RELEASE_OVERRIDE",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::SegmentMatch => "SEGMENT_MATCH",
            Self::Split => "SPLIT",
            Self::Default => "DEFAULT",
            Self::Error => "ERROR",
        }
    }
}

/// What a flag that is off looks like to a caller who asks for such flags, too.
pub const DISABLED_JSON: &str = r#"{"value":null,"variant":null,"reason":"DISABLED"}"#;

/// A value with its provenance.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// What the device gets.
    pub value: Value,
    /// Name of the variation of that value, where it has one.
    pub variant: Option<String>,
    /// The variation of that value, where there is one.
    pub variation_id: Option<i64>,
    /// Why.
    pub reason: Reason,
    json: String,
}

impl Outcome {
    pub(super) fn new(value: Value, variation: Option<&Variation>, reason: Reason) -> Self {
        let variant = variation.and_then(|variation| variation.name.clone());
        let mut body = json!({"value": value, "variant": variant, "reason": reason.name()});
        if reason == Reason::Error {
            body["errorCode"] = json!("TYPE_MISMATCH");
        }
        Self {
            value,
            variant,
            variation_id: variation.map(|variation| variation.id),
            reason,
            json: body.to_string(),
        }
    }

    /// What a rule gave, without a rule.
    #[cfg(test)]
    pub(crate) fn for_tests(value: Value, variation: Option<&Variation>) -> Self {
        Self::new(value, variation, Reason::TargetingMatch)
    }

    /// `{"value":…,"variant":…,"reason":…}`
    pub fn json(&self) -> &str {
        &self.json
    }
}
