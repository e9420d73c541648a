//! The rule sets of one project, compiled and immutable: replaced as a whole
//! when anything that decides an evaluation changes.
//!
//! What always holds: a channel that nobody configured has the rule set of "no
//! channel", so that a project holds no more rule sets than it configured; a
//! flag that a change did not touch keeps its address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::eval::definitions::{self, Variant};
use super::eval::{ChannelFlag, Device, Flag, Segment};

/// What is stored about one project.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct StoredRules {
    /// In any order.
    pub(crate) flags: Vec<Arc<Flag>>,
    /// By key.
    pub(crate) segments: BTreeMap<String, Segment>,
    /// Branch of each update that has one.
    pub(crate) branches: HashMap<Uuid, Arc<str>>,
}

/// Everything that device-facing routes need to know of a project.
#[derive(Debug)]
pub(crate) struct ProjectRules {
    /// Grows by one with each change.
    pub(crate) generation: u64,
    stored: StoredRules,
    channels: BTreeMap<String, Arc<ChannelRules>>,
    /// Of no channel, and of channels that nobody configured.
    otherwise: Arc<ChannelRules>,
}

/// The flags of one channel, on or off, by key.
#[derive(Debug)]
pub(crate) struct ChannelRules {
    flags: Vec<Arc<ChannelFlag>>,
    asks_update_age: bool,
    segments: BTreeMap<String, Segment>,
    /// At most two for each update that a release link names, and two more.
    definitions: Mutex<HashMap<Variant, Arc<Definitions>>>,
}

/// A rendered definitions payload.
#[derive(Debug)]
pub(crate) struct Definitions {
    /// JSON.
    pub(crate) body: Bytes,
    /// Strong entity tag of the body.
    pub(crate) etag: HeaderValue,
}

impl ProjectRules {
    /// Compiles what is stored, keeping what did not change since `previous`.
    pub(crate) fn compile(stored: StoredRules, previous: Option<&Self>) -> Self {
        let old = |channel: Option<&str>| previous.map(|rules| rules.channel(channel));
        let compile = |channel: Option<&str>| {
            Arc::new(ChannelRules::compile(
                &stored,
                channel,
                old(channel).map(Arc::as_ref),
            ))
        };
        let channels = configured_channels(&stored.flags)
            .into_iter()
            .map(|channel| (channel.to_owned(), compile(Some(channel))))
            .collect();
        Self {
            generation: previous.map_or(1, |rules| rules.generation + 1),
            channels,
            otherwise: compile(None),
            stored,
        }
    }

    /// Whether `stored` is what this was compiled from.
    pub(crate) fn is_of(&self, stored: &StoredRules) -> bool {
        self.stored == *stored
    }

    /// The rule set of a channel, or of none.
    pub(crate) fn channel(&self, channel: Option<&str>) -> &Arc<ChannelRules> {
        channel
            .and_then(|channel| self.channels.get(channel))
            .unwrap_or(&self.otherwise)
    }

    /// The branch of the update that a device runs, if it is one of this project.
    pub(crate) fn branch_of(&self, device: &Device) -> Option<&Arc<str>> {
        self.stored.branches.get(&device.update_uuid()?)
    }
}

/// The channels that some flag treats differently.
fn configured_channels(flags: &[Arc<Flag>]) -> BTreeSet<&str> {
    let environments = flags.iter().flat_map(|flag| &flag.environments);
    let rules = flags.iter().flat_map(|flag| &flag.rules);
    environments
        .map(|environment| environment.channel.as_str())
        .chain(rules.filter_map(|rule| rule.channel.as_deref()))
        .collect()
}

impl ChannelRules {
    fn compile(stored: &StoredRules, channel: Option<&str>, previous: Option<&Self>) -> Self {
        let mut flags: Vec<_> = stored
            .flags
            .iter()
            .map(|flag| {
                let compiled = ChannelFlag::new(Arc::clone(flag), channel, &stored.segments);
                let old = previous.and_then(|rules| rules.flag(compiled.key()));
                match old {
                    Some(old) if **old == compiled => Arc::clone(old),
                    _ => Arc::new(compiled),
                }
            })
            .collect();
        flags.sort_by(|a, b| a.key().cmp(b.key()));
        Self {
            asks_update_age: flags.iter().any(|flag| flag.asks_update_age()),
            flags,
            segments: stored.segments.clone(),
            definitions: Mutex::default(),
        }
    }

    /// All flags, on or off, by key.
    pub(crate) fn flags(&self) -> &[Arc<ChannelFlag>] {
        &self.flags
    }

    /// Whether one of them may depend on when a device first had its update.
    pub(crate) fn asks_update_age(&self) -> bool {
        self.asks_update_age
    }

    /// Where the flag of that key is.
    pub(crate) fn index(&self, key: &str) -> Option<usize> {
        self.flags.binary_search_by(|flag| flag.key().cmp(key)).ok()
    }

    /// The flag of that key.
    pub(crate) fn flag(&self, key: &str) -> Option<&Arc<ChannelFlag>> {
        self.index(key).map(|index| &self.flags[index])
    }

    /// The payload for on-device evaluation, rendered once.
    pub(crate) fn definitions(&self, variant: Variant) -> Arc<Definitions> {
        let is_overridden = |update: &Uuid| {
            self.flags
                .iter()
                .any(|flag| flag.override_for(Some(*update)).is_some())
        };
        // Other updates see what a device without one sees.
        let variant = Variant {
            update: variant.update.filter(is_overridden),
            ..variant
        };
        let mut rendered = self
            .definitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let entry = rendered.entry(variant);
        Arc::clone(entry.or_insert_with(|| {
            Arc::new(Definitions::new(definitions::render(
                &self.flags,
                &self.segments,
                variant,
            )))
        }))
    }
}

impl Definitions {
    fn new(body: String) -> Self {
        Self {
            etag: entity_tag(body.as_bytes()),
            body: body.into(),
        }
    }
}

/// A strong entity tag: equal only for equal bytes.
pub(crate) fn entity_tag(body: &[u8]) -> HeaderValue {
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(body)[..16]));
    HeaderValue::try_from(tag).expect("hexadecimal in quotes is a header value")
}
