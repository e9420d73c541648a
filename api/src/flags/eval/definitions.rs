//! The payload by which a device evaluates flags itself (flags.md §9).
//!
//! What always holds: published clients compute from it what the server
//! computes, or skip a rule because of its type. So a rollout in even buckets,
//! which they would take for one in theirs, is left out
//! (docs/decisions/0204).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::bucket::Bucketing;
use super::compiled::ChannelFlag;
use super::flag::{Rule, Segment};
use super::rule::{RuleConfig, condition_json};

/// What may differ between two requests for the same channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The update that the device runs.
    pub update: Option<Uuid>,
    /// Rewrite segment rules as attribute rules, for clients that know no segments.
    pub expand_segments: bool,
}

/// The body for `flags` (by key), which are those of one channel, on or off.
pub fn render(
    flags: &[Arc<ChannelFlag>],
    segments: &BTreeMap<String, Segment>,
    variant: Variant,
) -> String {
    let renderer = Renderer { segments, variant };
    let emitted: Vec<_> = flags
        .iter()
        .filter_map(|flag| renderer.flag(flag))
        .collect();
    let referenced = referenced_segments(&emitted);
    let segments: Vec<_> = segments
        .values()
        .filter(|segment| referenced.contains(segment.key.as_str()))
        .map(segment_json)
        .collect();
    json!({"flags": emitted, "segments": segments}).to_string()
}

struct Renderer<'a> {
    segments: &'a BTreeMap<String, Segment>,
    variant: Variant,
}

impl Renderer<'_> {
    fn flag(&self, flag: &ChannelFlag) -> Option<Value> {
        if let Some(by_release) = flag.override_for(self.variant.update) {
            let mut body = flag_json(flag, &by_release.outcome.value, &[]);
            body["override"] = json!({
                "reason": by_release.outcome.reason.name(),
                "updateGroupId": by_release.group_id,
            });
            return Some(body);
        }
        let rules = || flag.source().rules_in(flag.channel());
        flag.is_on().then(|| {
            let rules: Vec<_> = rules().flat_map(|rule| self.rule(flag, rule)).collect();
            flag_json(flag, &flag.default().value, &rules)
        })
    }

    /// One rule; as many as its segment has conditions; none if devices cannot
    /// compute it.
    fn rule(&self, flag: &ChannelFlag, rule: &Rule) -> Vec<Value> {
        let body = |rule_type: &str, config: Value| {
            let value = flag.rule_outcome(rule.id).map(|outcome| &outcome.value);
            json!({
                "id": rule.id,
                "priority": rule.priority,
                "ruleType": rule_type,
                "variantValue": value.unwrap_or(&rule.variant_value),
                "channelName": rule.channel,
                "ruleConfig": config,
            })
        };
        match &rule.config {
            RuleConfig::Segment(key) if self.variant.expand_segments => self
                .expanded(key)
                .into_iter()
                .map(|conditions| body("attribute", json!({"conditions": conditions})))
                .collect(),
            RuleConfig::Rollout(rollout) if rollout.bucketing != Bucketing::V1 => Vec::new(),
            config => vec![body(config.rule_type(), config.definition())],
        }
    }

    /// The lists of conditions each of which, alone, puts a device in the segment.
    fn expanded(&self, key: &str) -> Vec<Vec<Value>> {
        let Some(segment) = self.segments.get(key) else {
            return Vec::new();
        };
        let conditions: Vec<_> = segment.conditions.iter().map(condition_json).collect();
        if conditions.is_empty() {
            Vec::new()
        } else if segment.match_all {
            vec![conditions]
        } else {
            conditions.into_iter().map(|one| vec![one]).collect()
        }
    }
}

fn flag_json(flag: &ChannelFlag, default_value: &Value, rules: &[Value]) -> Value {
    let source = flag.source();
    let variation = |variation: &super::Variation| json!({"id": variation.id, "value": variation.value, "name": variation.name});
    let variations: Vec<_> = source.variations.iter().map(variation).collect();
    json!({
        "key": source.key,
        "flagType": source.flag_type.name(),
        "defaultValue": default_value,
        "enabled": true,
        "rules": rules,
        "variations": variations,
    })
}

fn referenced_segments(flags: &[Value]) -> BTreeSet<&str> {
    let rules = flags.iter().filter_map(|flag| flag["rules"].as_array());
    rules
        .flatten()
        .filter_map(|rule| rule["ruleConfig"]["segmentKey"].as_str())
        .collect()
}

fn segment_json(segment: &Segment) -> Value {
    let conditions: Vec<_> = segment.conditions.iter().map(condition_json).collect();
    json!({
        "key": segment.key,
        "matchType": if segment.match_all { "all" } else { "any" },
        "conditions": conditions,
    })
}
