//! The rules of telemetry.md §2 once more, told plainly over a document tree
//! that serde_json reads, and the comparison of the decoder with them.
//!
//! It shares no code with the decoder. The differential test and the fuzz
//! target both include this file. Not judged are documents deeper than
//! serde_json's 128 levels, and numbers that no float holds or whose exponents
//! have ten digits and more: a document for some readers and none for others.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a part of tests, of which some use a part"
)]

pub mod evaluations;
mod tree;

use sluice_schema::wire::health::{self, Drop, HealthBatch};
use sluice_schema::wire::{Refusal, Scratch};

pub use self::tree::Tree;

const MAX_EVENTS: usize = 1_000;
const KINDS: [&str; 5] = ["app_launch", "js_error", "crash", "custom", "perf_sample"];

/// What a reader makes of a body.
#[derive(Debug, PartialEq)]
pub enum Reading {
    /// It is no document.
    NotJson,
    /// It is refused as a whole.
    Refused,
    /// It is taken.
    Taken(Batch),
}

/// A batch with all its texts.
#[derive(Debug, PartialEq)]
pub struct Batch {
    /// Project, device, platform, runtime version, channel, update.
    pub envelope: [String; 6],
    /// What is kept.
    pub events: Vec<Event>,
    /// Events dropped by reason, in the order of [`Drop::ALL`].
    pub drops: [u32; 5],
}

/// A kept event with all its texts.
#[derive(Debug, PartialEq)]
pub struct Event {
    kind: String,
    count: u32,
    duration_ms: f64,
    is_fatal: bool,
    /// Name, message, stack, error name, component stack.
    texts: [String; 5],
    tags: Vec<(String, String)>,
    flags: Vec<(String, String)>,
}

/// Asserts that the decoder makes of `body` what the rules say, and keeps the limits.
pub fn check(body: &[u8]) {
    let ours = decoded(body);
    if let Reading::Taken(batch) = &ours {
        assert_within_limits(batch);
    }
    if let Some(theirs) = read(body) {
        assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(body));
    }
}

fn decoded(body: &[u8]) -> Reading {
    match health::decode(body, &mut Scratch::default()) {
        Err(Refusal::NotJson) => Reading::NotJson,
        Err(_) => Reading::Refused,
        Ok(batch) => Reading::Taken(copy(&batch)),
    }
}

fn copy(batch: &HealthBatch<'_>) -> Batch {
    let events = batch.events().map(|event| Event {
        kind: event.kind().as_str().to_owned(),
        count: event.count(),
        duration_ms: event.duration_ms(),
        is_fatal: event.is_fatal(),
        texts: [
            event.name(),
            event.message(),
            event.stack_trace(),
            event.error_name(),
            event.component_stack(),
        ]
        .map(|text| text.into_owned()),
        tags: event
            .tags()
            .into_iter()
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect(),
        flags: event.flag_states().pairs().to_vec(),
    });
    Batch {
        envelope: [
            batch.project().to_owned(),
            batch.device_id().into_owned(),
            batch.platform().into_owned(),
            batch.runtime_version().into_owned(),
            batch.channel().into_owned(),
            batch.update_uuid().into_owned(),
        ],
        events: events.collect(),
        drops: Drop::ALL.map(|reason| batch.drops().of(reason)),
    }
}

/// What holds of any batch (telemetry.md §2.5, §2.6).
fn assert_within_limits(batch: &Batch) {
    assert!(batch.events.len() <= MAX_EVENTS);
    let [_, device, platform, runtime, channel, update] = batch.envelope.each_ref();
    assert!(device.len() <= 256 && platform.len() <= 64 && runtime.len() <= 256);
    assert!((1..=256).contains(&channel.len()) && update.len() <= 128);
    for event in &batch.events {
        assert!((1..=1_000_000).contains(&event.count));
        assert!((0.0..=86_400_000.0).contains(&event.duration_ms));
        let lengths = event.texts.each_ref().map(String::len);
        let limits = [256, 8 * 1024, 32 * 1024, 256, 16 * 1024];
        assert!(lengths.iter().zip(limits).all(|(len, limit)| *len <= limit));
        let short = |(key, value): &(String, String)| {
            key.len() <= 128 && value.strip_prefix('\0').unwrap_or(value).len() <= 1024
        };
        assert!(event.tags.len() <= 50 && event.tags.iter().all(short));
        let bytes: usize = event.flags.iter().map(|(k, v)| k.len() + v.len()).sum();
        assert!(event.flags.len() <= 200 && bytes <= 32 * 1024);
        let is_json = |(_, value): &(String, String)| tree::is_json(value);
        assert!(event.flags.iter().all(is_json), "{:?}", event.flags);
    }
}

/// The rules; `None` where this reader cannot judge.
fn read(body: &[u8]) -> Option<Reading> {
    Some(match judge(body)? {
        Ok(tree) => batch(&tree).map_or(Reading::Refused, Reading::Taken),
        Err(_) => Reading::NotJson,
    })
}

/// The document that a body is, if it is one; `None` where this reader cannot tell.
fn judge(body: &[u8]) -> Option<serde_json::Result<Tree>> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    if tree::has_long_exponent(body) {
        return None;
    }
    let document = Tree::read(&tree::repaired(body));
    let out_of_range =
        |error: &serde_json::Error| error.to_string().starts_with("number out of range");
    let cannot_tell = tree::is_too_deep(&document) || document.as_ref().is_err_and(out_of_range);
    (!cannot_tell).then_some(document)
}

fn batch(body: &Tree) -> Option<Batch> {
    let required = |name| body.member(name)?.as_text();
    let project = required("projectSlug")?.to_owned();
    let device = clean(required("deviceId")?, 256);
    let platform = clean(required("platform")?, 64);
    let runtime = clean(required("runtimeVersion")?, 256);
    let optional = |name, limit| {
        body.member(name)
            .map_or_else(String::new, |v| clean(&v.text(), limit))
    };
    let mut channel = optional("channel", 256);
    if channel.is_empty() {
        "default".clone_into(&mut channel);
    }
    let all = body.member("events")?.as_list()?;
    let mut drops = [0; 5];
    drops[2] = all.len().saturating_sub(MAX_EVENTS) as u32;
    let mut events = Vec::new();
    for sent in all.iter().take(MAX_EVENTS) {
        match event(sent)? {
            Ok(event) => events.push(event),
            Err(reason) => drops[reason] += 1,
        }
    }
    let seen = all.len().min(MAX_EVENTS);
    if seen > 0 && drops[0] as usize == seen {
        return None;
    }
    Some(Batch {
        envelope: [
            project,
            device,
            platform,
            runtime,
            channel,
            optional("updateUuid", 128),
        ],
        events,
        drops,
    })
}

/// `None` refuses the body, an inner error is the index of a reason to drop the event.
fn event(sent: &Tree) -> Option<Result<Event, usize>> {
    let Tree::Object(_) = sent else { return None };
    let kind = sent.member("type")?.as_text()?;
    let count = match sent.member("count") {
        None => 1.0,
        Some(value) => value.as_number()?.round(),
    };
    let is_fatal = match sent.member("isFatal") {
        None => false,
        Some(Tree::Bool(fatal)) => *fatal,
        Some(_) => return None,
    };
    if !KINDS.contains(&kind) {
        return Some(Err(0));
    }
    if count < 1.0 {
        return Some(Err(1));
    }
    let text = |name, limit| {
        sent.member(name)
            .map_or_else(String::new, |v| clean(&v.text(), limit))
    };
    let name = text("name", usize::MAX);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    let is_sample = kind == "perf_sample";
    if is_sample && !((1..=64).contains(&name.len()) && name.chars().all(plain)) {
        return Some(Err(3));
    }
    let duration = if is_sample {
        duration_ms(sent)
    } else {
        Some(0.0)
    };
    let Some(duration_ms) = duration else {
        return Some(Err(4));
    };
    Some(Ok(Event {
        kind: kind.to_owned(),
        count: count.min(1e6) as u32,
        duration_ms,
        is_fatal,
        texts: [
            clean(&name, 256),
            text("message", 8 * 1024),
            text("stackTrace", 32 * 1024),
            text("errorName", 256),
            text("componentStack", 16 * 1024),
        ],
        tags: tags(sent),
        flags: flags(sent),
    }))
}

fn duration_ms(sent: &Tree) -> Option<f64> {
    let value = sent.member("tags")?.member("duration_ms")?;
    let number = value
        .as_number()
        .or_else(|| value.as_text()?.parse().ok())?;
    (0.0..=86_400_000.0)
        .contains(&number)
        .then_some(number.abs())
}

fn tags(sent: &Tree) -> Vec<(String, String)> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for (key, value) in sent.member("tags").map_or(&[][..], Tree::members) {
        let (key, value) = (clean(key, 128), tag_value(value));
        match tags.iter().position(|(known, _)| *known == key) {
            Some(at) => tags[at].1 = value,
            None if tags.len() < 50 => tags.push((key, value)),
            None => {}
        }
    }
    tags
}

/// Text as it is, other JSON marked by a NUL, and what is too long cut.
fn tag_value(sent: &Tree) -> String {
    let json = sent.json();
    if sent.as_text().is_some() || json.len() > 1024 {
        clean(&sent.text(), 1024)
    } else {
        format!("\0{json}")
    }
}

fn flags(sent: &Tree) -> Vec<(String, String)> {
    let members = sent.member("flagStates").map_or(&[][..], Tree::members);
    let all: std::collections::BTreeMap<String, &Tree> = members
        .iter()
        .map(|(key, value)| (clean(key, 32 * 1024), value))
        .collect();
    let mut bytes = 0;
    let texts = all.into_iter().take(200).map(|(key, value)| {
        let json = value.json();
        let long = json.len() > 1024;
        (key, if long { tree::digest(&json) } else { json })
    });
    texts
        .take_while(|(key, value)| {
            bytes += key.len() + value.len();
            bytes <= 32 * 1024
        })
        .collect()
}

/// Without NULs, and only as many whole characters as fit.
fn clean(text: &str, limit: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().filter(|c| *c != '\0') {
        if kept.len() + c.len_utf8() > limit {
            break;
        }
        kept.push(c);
    }
    kept
}
