//! A flag as one channel sees it: everything decided that does not depend on
//! the device, and every possible answer rendered beforehand.
//!
//! What always holds: evaluating neither allocates an answer nor fails; two
//! compilations of equal flags are equal.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::bucket::{self, Bucketing, KeyedV1};
use super::condition::Condition;
use super::flag::{Flag, ReleaseLink, Rule, Segment};
use super::ota::OtaUpdate;
use super::outcome::{Outcome, Reason};
use super::rule::{Rollout, RuleConfig};
use super::{Context, Device, FlagType, value};

/// A flag in one channel.
#[derive(Debug, PartialEq)]
pub struct ChannelFlag {
    source: Arc<Flag>,
    channel: Option<String>,
    key_json: String,
    is_on: bool,
    asks_update_age: bool,
    default: Arc<Outcome>,
    rules: Vec<ChannelRule>,
    overrides: BTreeMap<Uuid, Override>,
}

/// What a release does to a flag on the devices that run one of its updates.
#[derive(Debug, PartialEq)]
pub struct Override {
    /// Group of the release's updates.
    pub group_id: String,
    /// What such a device gets.
    pub outcome: Arc<Outcome>,
}

#[derive(Debug, PartialEq)]
struct ChannelRule {
    id: i64,
    matcher: Matcher,
}

/// What a rule gives, and to whom.
#[derive(Debug, PartialEq)]
enum Matcher {
    Always(Arc<Outcome>),
    TargetingKeys(HashSet<String>, Arc<Outcome>),
    Buckets(Buckets, Vec<Share>),
    All(Vec<Condition>, Arc<Outcome>),
    Any(Vec<Condition>, Arc<Outcome>),
    Ota(OtaUpdate, Arc<Outcome>),
}

/// A slice of a rollout.
#[derive(Debug, PartialEq)]
struct Share {
    /// Sum of the weights up to and with this one, in percent.
    up_to: f64,
    outcome: Arc<Outcome>,
}

impl ChannelFlag {
    /// The flag in `channel`, where `segments` are those of its project by key.
    pub fn new(
        source: Arc<Flag>,
        channel: Option<&str>,
        segments: &BTreeMap<String, Segment>,
    ) -> Self {
        let compiler = Compiler {
            flag: &source,
            channel,
            segments,
        };
        let rules = compiler.rules();
        Self {
            channel: channel.map(str::to_owned),
            key_json: Value::from(source.key.as_str()).to_string(),
            is_on: source.is_on(channel),
            default: compiler.outcome(source.default_in(channel), Reason::Default),
            asks_update_age: rules.iter().any(|rule| rule.matcher.asks_update_age()),
            rules,
            overrides: compiler.overrides(),
            source,
        }
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.source.key
    }

    /// Its key as JSON.
    pub fn key_json(&self) -> &str {
        &self.key_json
    }

    /// The flag as configured.
    pub fn source(&self) -> &Flag {
        &self.source
    }

    /// The channel, if one was asked for.
    pub fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    /// Whether it is on in the channel.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether it may depend on when the device first had its update: then its
    /// answer changes with time alone.
    pub fn asks_update_age(&self) -> bool {
        self.asks_update_age
    }

    /// What a device gets where no rule matches.
    pub fn default(&self) -> &Outcome {
        &self.default
    }

    /// What a release does to it on a device that runs `update`.
    pub fn override_for(&self, update: Option<Uuid>) -> Option<&Override> {
        self.overrides.get(&update?)
    }

    /// The same for a device. Which update it runs is found out only if it matters.
    fn override_on(&self, device: &Device) -> Option<&Override> {
        if self.overrides.is_empty() {
            return None;
        }
        self.override_for(device.update_uuid())
    }

    /// The updates whose devices get an override.
    pub fn overridden_updates(&self) -> impl Iterator<Item = &Uuid> {
        self.overrides.keys()
    }

    /// What `context` gets; None where the flag is off for it (flags.md §8).
    pub fn evaluate(&self, context: &Context<'_>) -> Option<&Arc<Outcome>> {
        if let Some(by_release) = self.override_on(context.device) {
            return Some(&by_release.outcome);
        }
        if !self.is_on {
            return None;
        }
        let first = self
            .rules
            .iter()
            .find_map(|rule| rule.matcher.outcome(context));
        Some(first.unwrap_or(&self.default))
    }

    /// What the rule gives if it is not a rollout. For definitions, which name it.
    pub(super) fn rule_outcome(&self, rule_id: i64) -> Option<&Outcome> {
        let rule = self.rules.iter().find(|rule| rule.id == rule_id)?;
        rule.matcher.single_outcome()
    }
}

impl Matcher {
    fn outcome(&self, context: &Context<'_>) -> Option<&Arc<Outcome>> {
        match self {
            Self::Always(outcome) => Some(outcome),
            Self::TargetingKeys(keys, outcome) => {
                let key = context.device.targeting_key();
                keys.contains(key).then_some(outcome)
            }
            Self::Buckets(buckets, shares) => {
                let percent = buckets.percent(context.device.targeting_key());
                let share = shares.iter().find(|share| percent.is_below(share.up_to))?;
                Some(&share.outcome)
            }
            Self::All(conditions, outcome) => {
                let holds = conditions.iter().all(|condition| condition.holds(context));
                (holds && !conditions.is_empty()).then_some(outcome)
            }
            Self::Any(conditions, outcome) => {
                let holds = conditions.iter().any(|condition| condition.holds(context));
                holds.then_some(outcome)
            }
            Self::Ota(update, outcome) => update.holds(context).then_some(outcome),
        }
    }

    fn asks_update_age(&self) -> bool {
        match self {
            Self::All(conditions, _) | Self::Any(conditions, _) => conditions
                .iter()
                .any(|condition| Context::is_update_age(&condition.attribute)),
            Self::Ota(update, _) => update.asks_update_age(),
            Self::Always(_) | Self::TargetingKeys(..) | Self::Buckets(..) => false,
        }
    }

    fn single_outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Always(outcome)
            | Self::TargetingKeys(_, outcome)
            | Self::All(_, outcome)
            | Self::Any(_, outcome)
            | Self::Ota(_, outcome) => Some(outcome),
            Self::Buckets(..) => None,
        }
    }
}

/// A bucket on the scale of its scheme.
struct Percent {
    bucket: f64,
    buckets_per_percent: f64,
}

impl Percent {
    /// Whether it is in the first `percent` percent.
    fn is_below(&self, percent: f64) -> bool {
        self.bucket < percent * self.buckets_per_percent
    }
}

/// Where the targeting keys of one rollout fall.
#[derive(Debug, PartialEq)]
enum Buckets {
    V1(KeyedV1),
    V2 { salt: String },
}

impl Buckets {
    fn new(bucketing: &Bucketing, flag_key: &str) -> Self {
        match bucketing {
            Bucketing::V1 => Self::V1(KeyedV1::new(flag_key)),
            Bucketing::V2 { salt } => Self::V2 {
                salt: salt.as_deref().unwrap_or(flag_key).to_owned(),
            },
        }
    }

    fn percent(&self, targeting_key: &str) -> Percent {
        let (bucket, buckets_per_percent) = match self {
            Self::V1(keyed) => (keyed.bucket(targeting_key), 1.0),
            Self::V2 { salt } => (bucket::v2(salt, targeting_key), 100.0),
        };
        Percent {
            bucket: f64::from(bucket),
            buckets_per_percent,
        }
    }
}

struct Compiler<'a> {
    flag: &'a Flag,
    channel: Option<&'a str>,
    segments: &'a BTreeMap<String, Segment>,
}

impl Compiler<'_> {
    fn rules(&self) -> Vec<ChannelRule> {
        let rules = self.flag.rules_in(self.channel);
        rules
            .filter_map(|rule| {
                Some(ChannelRule {
                    id: rule.id,
                    matcher: self.matcher(rule)?,
                })
            })
            .collect()
    }

    /// None where the rule cannot match anything.
    fn matcher(&self, rule: &Rule) -> Option<Matcher> {
        let targeted = || self.outcome(&rule.variant_value, Reason::TargetingMatch);
        Some(match &rule.config {
            RuleConfig::Force => Matcher::Always(targeted()),
            RuleConfig::UserList(ids) => {
                Matcher::TargetingKeys(ids.iter().cloned().collect(), targeted())
            }
            RuleConfig::Rollout(rollout) => {
                let buckets = Buckets::new(&rollout.bucketing, &self.flag.key);
                Matcher::Buckets(buckets, self.shares(rollout))
            }
            RuleConfig::Attribute(conditions) => Matcher::All(conditions.clone(), targeted()),
            RuleConfig::Segment(key) => self.segment(self.segments.get(key)?, rule),
            RuleConfig::OtaUpdate(update) => Matcher::Ota(update.clone(), targeted()),
        })
    }

    fn segment(&self, segment: &Segment, rule: &Rule) -> Matcher {
        let outcome = self.outcome(&rule.variant_value, Reason::SegmentMatch);
        let conditions = segment.conditions.clone();
        if segment.match_all {
            Matcher::All(conditions, outcome)
        } else {
            Matcher::Any(conditions, outcome)
        }
    }

    /// A slice whose variation has vanished gives the default.
    fn shares(&self, rollout: &Rollout) -> Vec<Share> {
        let mut up_to = 0.0;
        let share = |slice: &super::rule::Slice| {
            up_to += slice.weight;
            let id = slice.variation_id;
            let variation = id.and_then(|id| self.flag.variation(id));
            let value = variation.map(|variation| &variation.value);
            let value = value.unwrap_or_else(|| self.flag.default_in(self.channel));
            Share {
                up_to,
                outcome: self.outcome(value, Reason::Split),
            }
        };
        rollout.slices.iter().map(share).collect()
    }

    /// The newest link wins.
    fn overrides(&self) -> BTreeMap<Uuid, Override> {
        let in_force =
            |link: &&ReleaseLink| !self.flag.killed_since(self.channel, link.created_at_us);
        let mut overrides = BTreeMap::new();
        for link in self.flag.links.iter().filter(in_force) {
            let outcome = self.outcome(&self.link_value(link), Reason::ReleaseOverride);
            for update in &link.updates {
                let by_release = Override {
                    group_id: link.group_id.clone(),
                    outcome: Arc::clone(&outcome),
                };
                overrides.insert(*update, by_release);
            }
        }
        overrides
    }

    fn link_value(&self, link: &ReleaseLink) -> Value {
        if self.flag.flag_type == FlagType::Boolean {
            return Value::Bool(link.enabled);
        }
        let chosen = link.variation_id.filter(|_| link.enabled);
        let chosen = chosen.and_then(|id| self.flag.variation(id));
        chosen.map_or_else(
            || self.flag.default_in(self.channel).clone(),
            |variation| variation.value.clone(),
        )
    }

    /// A value that no longer fits its flag is answered with the flag's default.
    fn outcome(&self, given: &Value, reason: Reason) -> Arc<Outcome> {
        let (given, reason) = if self.flag.flag_type.fits(given) {
            (given, reason)
        } else {
            (&self.flag.default_value, Reason::Error)
        };
        let variation = self.flag.variation_of(given);
        let stored = variation.map_or(given, |variation| &variation.value);
        debug_assert!(value::equal(stored, given));
        Arc::new(Outcome::new(stored.clone(), variation, reason))
    }
}
