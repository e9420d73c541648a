//! What one device was told, and what it has to be told next.
//!
//! What always holds: applying the events in order gives the device exactly the
//! evaluation of its flags under the newest rules it was told of.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::flags::ages::Age;
use crate::flags::eval::{ChannelFlag, Context, Device, Outcome};
use crate::flags::rules::{ChannelRules, ProjectRules};

/// A reader that has missed more generations gets everything anew.
const MAX_MISSED_GENERATIONS: u64 = 8;
/// More changes at once are cheaper as one `put`.
const MAX_PATCHES: usize = 32;

/// One device's flags as it last heard of them.
pub(super) struct View {
    device: Arc<Device>,
    generation: u64,
    channel: Arc<ChannelRules>,
    branch: Option<Arc<str>>,
    age: Option<Age>,
    /// What the device holds, flag by flag of `channel`.
    sent: Vec<Option<Arc<Outcome>>>,
}

/// What is known of when the device first had its update, if it runs one.
pub(super) type AgeOf<'a> = &'a dyn Fn() -> Option<Age>;

/// A flag that is different now; None: it is gone.
type Change<'a> = (&'a ChannelFlag, Option<&'a Arc<Outcome>>);

impl View {
    /// What `device` gets under `rules`.
    pub(super) fn open(
        device: Arc<Device>,
        rules: &ProjectRules,
        age: AgeOf<'_>,
        now_us: i64,
    ) -> Self {
        let channel = Arc::clone(rules.channel(device.channel.as_deref()));
        let branch = rules.branch_of(&device).cloned();
        let age = channel.asks_update_age().then(age).flatten();
        let context = context(&device, branch.as_deref(), age, now_us);
        let evaluate = |flag: &Arc<ChannelFlag>| flag.evaluate(&context).cloned();
        let sent = channel.flags().iter().map(evaluate).collect();
        Self {
            device,
            generation: rules.generation,
            channel,
            branch,
            age,
            sent,
        }
    }

    /// Whether its flags may change with time alone.
    pub(super) fn ages(&self) -> bool {
        self.channel.asks_update_age()
    }

    /// Whether it waits to know when the device first had its update.
    pub(super) fn awaits_age(&self) -> bool {
        self.age == Some(Age::Asked)
    }

    /// The event that replaces all that the device holds.
    pub(super) fn put(&self) -> String {
        let mut event = String::from("event: put\ndata: {\"flags\":{");
        let held = self.channel.flags().iter().zip(&self.sent);
        let held = held.filter_map(|(flag, outcome)| Some((flag, outcome.as_ref()?)));
        for (index, (flag, outcome)) in held.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(event, "{comma}{}:{}", flag.key_json(), outcome.json());
        }
        event.push_str("}}\n\n");
        event
    }

    /// Takes over `rules`. The events that tell the device, if it is concerned.
    pub(super) fn advance(
        &mut self,
        rules: &ProjectRules,
        age: AgeOf<'_>,
        now_us: i64,
    ) -> Option<String> {
        let missed = rules.generation.saturating_sub(self.generation + 1);
        let previous = std::mem::replace(self, self.renewed(rules, age, now_us));
        let changes = self.changes_since(&previous);
        if changes.is_empty() {
            None
        } else if missed > MAX_MISSED_GENERATIONS || changes.len() > MAX_PATCHES {
            Some(self.put())
        } else {
            Some(changes.into_iter().map(event).collect())
        }
    }

    /// The view of the same device under `rules`. Flags that the change did not
    /// touch are not evaluated again.
    fn renewed(&self, rules: &ProjectRules, age: AgeOf<'_>, now_us: i64) -> Self {
        let device = Arc::clone(&self.device);
        let channel = Arc::clone(rules.channel(device.channel.as_deref()));
        let branch = rules.branch_of(&device).cloned();
        let same_branch = branch == self.branch;
        let age = channel.asks_update_age().then(age).flatten();
        let context = context(&device, branch.as_deref(), age, now_us);
        let is_same = |old: &Arc<ChannelFlag>, flag: &Arc<ChannelFlag>| {
            same_branch && Arc::ptr_eq(old, flag) && !flag.asks_update_age()
        };
        let sent = channel
            .flags()
            .iter()
            .map(|flag| match self.held(flag) {
                Some((old, outcome)) if is_same(old, flag) => outcome.clone(),
                _ => flag.evaluate(&context).cloned(),
            })
            .collect();
        Self {
            device,
            generation: rules.generation,
            channel,
            branch,
            age,
            sent,
        }
    }

    /// The flag of the same key, and what the device holds of it.
    fn held(&self, flag: &ChannelFlag) -> Option<(&Arc<ChannelFlag>, &Option<Arc<Outcome>>)> {
        let index = self.channel.index(flag.key())?;
        Some((&self.channel.flags()[index], &self.sent[index]))
    }

    fn changes_since<'a>(&'a self, previous: &'a Self) -> Vec<Change<'a>> {
        let now = self.channel.flags().iter().zip(&self.sent);
        let changed = now.filter_map(|(flag, outcome)| {
            let held = previous.held(flag).and_then(|(_, held)| held.as_ref());
            let is_same = held.map(json) == outcome.as_ref().map(json);
            (!is_same).then_some((flag.as_ref(), outcome.as_ref()))
        });
        let before = previous.channel.flags().iter().zip(&previous.sent);
        let removed = before
            .filter(|(flag, held)| held.is_some() && self.channel.index(flag.key()).is_none());
        changed
            .chain(removed.map(|(flag, _)| (flag.as_ref(), None)))
            .collect()
    }
}

/// All that a device hears of an outcome.
fn json(outcome: &Arc<Outcome>) -> &str {
    outcome.json()
}

fn context<'a>(
    device: &'a Device,
    branch: Option<&'a str>,
    age: Option<Age>,
    now_us: i64,
) -> Context<'a> {
    Context {
        device,
        branch,
        update_since_us: age.and_then(Age::since_us),
        now_us,
    }
}

fn event((flag, outcome): Change<'_>) -> String {
    let key = flag.key_json();
    match outcome {
        Some(outcome) => format!(
            "event: patch\ndata: {{\"type\":\"patch\",\"key\":{key},\"flag\":{}}}\n\n",
            outcome.json()
        ),
        None => format!("event: delete\ndata: {{\"type\":\"delete\",\"key\":{key}}}\n\n"),
    }
}
