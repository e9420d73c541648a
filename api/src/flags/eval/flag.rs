//! Flags as people configured them, for all channels (flags.md §2 and §5).

use serde_json::Value;
use uuid::Uuid;

use super::condition::Condition;
use super::rule::RuleConfig;
use super::{FlagType, value};

/// A flag with all that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    /// Database id.
    pub id: i64,
    /// Unique in its project.
    pub key: String,
    /// Type of all its values.
    pub flag_type: FlagType,
    /// Value where nothing else decides.
    pub default_value: Value,
    /// The global switch.
    pub enabled: bool,
    /// When the switch was last written, in microseconds since 1970.
    pub enabled_changed_at_us: i64,
    /// By sort order.
    pub variations: Vec<Variation>,
    /// What channels say differently.
    pub environments: Vec<Environment>,
    /// By (priority, id).
    pub rules: Vec<Rule>,
    /// Releases that it is attached to, the newest last.
    pub links: Vec<ReleaseLink>,
}

/// One of the values of a flag.
#[derive(Clone, Debug, PartialEq)]
pub struct Variation {
    /// Database id.
    pub id: i64,
    /// Canonical value.
    pub value: Value,
    /// Its name, where it has one.
    pub name: Option<String>,
}

/// What one channel says differently. A part never written follows the flag.
#[derive(Clone, Debug, PartialEq)]
pub struct Environment {
    /// The channel.
    pub channel: String,
    /// The switch of this channel.
    pub enabled: Option<bool>,
    /// When that was last written, in microseconds since 1970.
    pub enabled_changed_at_us: i64,
    /// The default of this channel.
    pub default_value: Option<Value>,
}

/// A targeting rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Database id.
    pub id: i64,
    /// Lower runs first.
    pub priority: i32,
    /// None: every channel.
    pub channel: Option<String>,
    /// What it asks.
    pub config: RuleConfig,
    /// What it gives. Null for rollouts, whose slices give values.
    pub variant_value: Value,
}

/// The effect of a release on the flag, while it is in force: active, of type
/// `kill_switch` (rollouts.md §7).
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseLink {
    /// Devices that run one of these updates: those of the release that are
    /// enabled, and rollback copies of them.
    pub updates: Vec<Uuid>,
    /// Group of the release's updates.
    pub group_id: String,
    /// The value of a boolean flag; false gives any other flag its default.
    pub enabled: bool,
    /// The variation that a flag of another type takes.
    pub variation_id: Option<i64>,
    /// In microseconds since 1970.
    pub created_at_us: i64,
}

/// An audience.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Unique in its project.
    pub key: String,
    /// All of the conditions, or any of them.
    pub match_all: bool,
    /// No conditions match nobody.
    pub conditions: Vec<Condition>,
}

impl Flag {
    /// What `channel` says differently, if anything.
    pub(super) fn environment(&self, channel: Option<&str>) -> Option<&Environment> {
        let channel = channel?;
        let same = |environment: &&Environment| environment.channel == channel;
        self.environments.iter().find(same)
    }

    /// Whether it is on in a channel (flags.md §5). The global switch, once off,
    /// is overruled only by what a channel says later.
    pub fn is_on(&self, channel: Option<&str>) -> bool {
        let environment = self.environment(channel);
        let said = environment.and_then(|env| Some((env.enabled?, env.enabled_changed_at_us)));
        match said {
            None => self.enabled,
            Some((on, _)) if self.enabled => on,
            Some((on, at_us)) => on && at_us > self.enabled_changed_at_us,
        }
    }

    /// The value that a channel gives where no rule matches.
    pub fn default_in(&self, channel: Option<&str>) -> &Value {
        self.environment(channel)
            .and_then(|environment| environment.default_value.as_ref())
            .unwrap_or(&self.default_value)
    }

    /// The rules of a channel, in the order in which they run. Without a channel
    /// only those for every channel.
    pub fn rules_in(&self, channel: Option<&str>) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.channel.is_none() || rule.channel.as_deref() == channel)
    }

    /// The first variation of this value.
    pub fn variation_of(&self, wanted: &Value) -> Option<&Variation> {
        let same = |variation: &&Variation| value::equal(&variation.value, wanted);
        self.variations.iter().find(same)
    }

    /// The variation of this id, if it still exists.
    pub fn variation(&self, id: i64) -> Option<&Variation> {
        self.variations.iter().find(|variation| variation.id == id)
    }

    /// Whether a person switched it off after `since_us`: that always wins over a release.
    pub(super) fn killed_since(&self, channel: Option<&str>, since_us: i64) -> bool {
        let globally = !self.enabled && self.enabled_changed_at_us > since_us;
        let here = self.environment(channel).is_some_and(|environment| {
            environment.enabled == Some(false) && environment.enabled_changed_at_us > since_us
        });
        globally || here
    }
}
