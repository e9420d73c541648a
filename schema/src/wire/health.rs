//! The body of `POST /health-metrics` (telemetry.md §2).

use std::borrow::Cow;

use simd_json::Tape;

use super::flags::FlagStates;
use super::json::Value;
use super::tape::{Fields, clean_text, fields, required_text, value_at};
use super::text::clean;
use super::{Refusal, Scratch, tags};

/// Events of one request that are looked at; the rest are dropped (telemetry.md §2.6).
pub const MAX_EVENTS: usize = 1_000;
/// Largest count of one event (telemetry.md §2.5).
pub const MAX_COUNT: u32 = 1_000_000;
/// Longest duration of a performance sample, in milliseconds: a day.
const MAX_DURATION_MS: f64 = 86_400_000.0;

const MAX_NAME_BYTES: usize = 256;
const MAX_MESSAGE_BYTES: usize = 8 * 1024;
const MAX_STACK_BYTES: usize = 32 * 1024;
const MAX_COMPONENT_STACK_BYTES: usize = 16 * 1024;
const MAX_TAGS: usize = 50;
const MAX_TAG_KEY_BYTES: usize = 128;

/// The five known types (telemetry.md §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// An activation, not a process start.
    AppLaunch,
    /// A non-fatal JavaScript error.
    JsError,
    /// A fatal JavaScript error.
    Crash,
    /// An event of the app's own.
    Custom,
    /// One duration.
    PerfSample,
}

impl EventType {
    /// As it stands on the wire and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AppLaunch => "app_launch",
            Self::JsError => "js_error",
            Self::Crash => "crash",
            Self::Custom => "custom",
            Self::PerfSample => "perf_sample",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "app_launch" => Some(Self::AppLaunch),
            "js_error" => Some(Self::JsError),
            "crash" => Some(Self::Crash),
            "custom" => Some(Self::Custom),
            "perf_sample" => Some(Self::PerfSample),
            _ => None,
        }
    }
}

/// Why an event of an accepted batch is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// A type that this release does not know.
    UnknownType,
    /// `count` is zero or negative.
    NonPositiveCount,
    /// Past [`MAX_EVENTS`].
    OverLimit,
    /// A sample without a usable metric name.
    SampleName,
    /// A sample without a usable duration.
    SampleDuration,
}

impl Drop {
    /// Every reason, for metrics that must show zeros.
    pub const ALL: [Self; 5] = [
        Self::UnknownType,
        Self::NonPositiveCount,
        Self::OverLimit,
        Self::SampleName,
        Self::SampleDuration,
    ];

    /// As a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownType => "unknown_type",
            Self::NonPositiveCount => "non_positive_count",
            Self::OverLimit => "over_limit",
            Self::SampleName => "sample_name",
            Self::SampleDuration => "sample_duration",
        }
    }
}

/// How many events were dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u32; Drop::ALL.len()]);

impl Drops {
    fn add(&mut self, reason: Drop) {
        self.0[reason as usize] += 1;
    }

    /// Events dropped for `reason`.
    pub fn of(&self, reason: Drop) -> u32 {
        self.0[reason as usize]
    }

    /// Every reason with its number of events.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u32)> + '_ {
        Drop::ALL
            .into_iter()
            .map(|reason| (reason, self.of(reason)))
    }

    /// Events dropped for any reason.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }
}

/// A batch that passed: its envelope, and what is kept of its events.
pub struct HealthBatch<'s> {
    tape: Tape<'s>,
    envelope: Fields<ENVELOPE>,
    events: Vec<KeptEvent>,
    drops: Drops,
}

struct KeptEvent {
    kind: EventType,
    count: u32,
    duration_ms: f64,
    fields: Fields<EVENT>,
}

const ENVELOPE: usize = 7;
const PROJECT: usize = 0;
const DEVICE: usize = 1;
const PLATFORM: usize = 2;
const RUNTIME: usize = 3;
const CHANNEL: usize = 4;
const UPDATE: usize = 5;
const EVENTS: usize = 6;
const ENVELOPE_NAMES: [&str; ENVELOPE] = [
    "projectSlug",
    "deviceId",
    "platform",
    "runtimeVersion",
    "channel",
    "updateUuid",
    "events",
];

const EVENT: usize = 10;
const TYPE: usize = 0;
const COUNT: usize = 1;
const NAME: usize = 2;
const MESSAGE: usize = 3;
const FLAG_STATES: usize = 4;
const STACK: usize = 5;
const ERROR_NAME: usize = 6;
const COMPONENT_STACK: usize = 7;
const IS_FATAL: usize = 8;
const TAGS: usize = 9;
const EVENT_NAMES: [&str; EVENT] = [
    "type",
    "count",
    "name",
    "message",
    "flagStates",
    "stackTrace",
    "errorName",
    "componentStack",
    "isFatal",
    "tags",
];

/// Decodes a body by the rules of telemetry.md §2.2 to §2.6.
///
/// # Errors
/// The body is refused as a whole; what it says is safe to show to the client.
pub fn decode<'s>(body: &[u8], scratch: &'s mut Scratch) -> Result<HealthBatch<'s>, Refusal> {
    let tape = scratch.parse(body)?;
    let envelope = fields(&tape, 0, &ENVELOPE_NAMES).ok_or(Refusal::WrongType {
        field: "the body",
        expected: "an object",
    })?;
    for (index, name) in ENVELOPE_NAMES.iter().enumerate().take(CHANNEL) {
        required_text(&tape, envelope[index], name)?;
    }
    let (events, drops) = keep_events(&tape, envelope[EVENTS])?;
    Ok(HealthBatch {
        tape,
        envelope,
        events,
        drops,
    })
}

fn keep_events(tape: &Tape<'_>, at: u32) -> Result<(Vec<KeptEvent>, Drops), Refusal> {
    let value = value_at(tape, at).ok_or(Refusal::Missing("events"))?;
    let all = value.as_array().ok_or(Refusal::WrongType {
        field: "events",
        expected: "an array",
    })?;
    let mut kept = Vec::with_capacity(4);
    let mut drops = Drops::default();
    let mut seen = 0;
    for event in all {
        if seen == MAX_EVENTS {
            drops.add(Drop::OverLimit);
            continue;
        }
        seen += 1;
        match keep_event(tape, event.position(tape.0.len()))? {
            Ok(event) => kept.push(event),
            Err(reason) => drops.add(reason),
        }
    }
    if seen > 0 && drops.of(Drop::UnknownType) as usize == seen {
        return Err(Refusal::NoKnownEvent);
    }
    Ok((kept, drops))
}

/// Validates one event; the inner result says whether it is kept.
fn keep_event(tape: &Tape<'_>, at: u32) -> Result<Result<KeptEvent, Drop>, Refusal> {
    let fields = fields(tape, at, &EVENT_NAMES).ok_or(Refusal::WrongType {
        field: "events[]",
        expected: "an object",
    })?;
    let type_name = required_text(tape, fields[TYPE], "events[].type")?;
    let count = count(value_at(tape, fields[COUNT]))?;
    is_fatal(value_at(tape, fields[IS_FATAL]))?;
    Ok(EventType::parse(type_name)
        .ok_or(Drop::UnknownType)
        .and_then(|kind| {
            count
                .ok_or(Drop::NonPositiveCount)
                .map(|count| (kind, count))
        })
        .and_then(|(kind, count)| {
            let duration_ms = match kind {
                EventType::PerfSample => sample(tape, &fields)?,
                _ => 0.0,
            };
            Ok(KeptEvent {
                kind,
                count,
                duration_ms,
                fields,
            })
        }))
}

/// Rounds and clamps; `None` where nothing is left to count (telemetry.md §2.5).
fn count(value: Option<Value<'_>>) -> Result<Option<u32>, Refusal> {
    let Some(value) = value else {
        return Ok(Some(1));
    };
    let number = value.as_f64().ok_or(Refusal::WrongType {
        field: "events[].count",
        expected: "a number",
    })?;
    let rounded = number.round();
    // Clamped to what a u32 holds.
    Ok((rounded >= 1.0).then(|| rounded.min(f64::from(MAX_COUNT)) as u32))
}

fn is_fatal(value: Option<Value<'_>>) -> Result<bool, Refusal> {
    let Some(value) = value else { return Ok(false) };
    value.as_bool().ok_or(Refusal::WrongType {
        field: "events[].isFatal",
        expected: "a boolean",
    })
}

/// The duration of a performance sample that can be kept, in milliseconds.
fn sample(tape: &Tape<'_>, fields: &Fields<EVENT>) -> Result<f64, Drop> {
    let name = clean_text(value_at(tape, fields[NAME]), MAX_NAME_BYTES);
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_.:-".contains(&c);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(Drop::SampleName);
    }
    let tags = value_at(tape, fields[TAGS]).and_then(Value::as_object);
    let durations = tags
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key == "duration_ms");
    let sent = durations.last().map(|(_, value)| value);
    let duration = sent.and_then(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok()));
    duration
        .filter(|ms| (0.0..=MAX_DURATION_MS).contains(ms))
        .map(f64::abs)
        .ok_or(Drop::SampleDuration)
}

impl HealthBatch<'_> {
    fn text(&self, at: usize, max_bytes: usize) -> Cow<'_, str> {
        clean_text(value_at(&self.tape, self.envelope[at]), max_bytes)
    }

    /// The project's slug or UUID, as sent.
    pub fn project(&self) -> &str {
        value_at(&self.tape, self.envelope[PROJECT])
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// May be empty: counted, but never a distinct device.
    pub fn device_id(&self) -> Cow<'_, str> {
        self.text(DEVICE, 256)
    }

    /// Any string.
    pub fn platform(&self) -> Cow<'_, str> {
        self.text(PLATFORM, 64)
    }

    /// Any string.
    pub fn runtime_version(&self) -> Cow<'_, str> {
        self.text(RUNTIME, 256)
    }

    /// `default` where the app set none.
    pub fn channel(&self) -> Cow<'_, str> {
        let channel = self.text(CHANNEL, 256);
        if channel.is_empty() {
            Cow::Borrowed("default")
        } else {
            channel
        }
    }

    /// As sent; empty where there is none.
    pub fn update_uuid(&self) -> Cow<'_, str> {
        self.text(UPDATE, 128)
    }

    /// Number of events that are kept: the indices that the batch takes in its frame.
    pub fn kept(&self) -> u32 {
        self.events.len() as u32
    }

    /// What was dropped, by reason.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// The kept events, in order.
    pub fn events(&self) -> impl Iterator<Item = HealthEvent<'_>> {
        self.events.iter().map(|event| HealthEvent {
            tape: &self.tape,
            event,
        })
    }
}

/// A kept event of a batch.
#[derive(Clone, Copy)]
pub struct HealthEvent<'t> {
    tape: &'t Tape<'t>,
    event: &'t KeptEvent,
}

impl<'t> HealthEvent<'t> {
    fn value(self, at: usize) -> Option<Value<'t>> {
        value_at(self.tape, self.event.fields[at])
    }

    fn text(self, at: usize, max_bytes: usize) -> Cow<'t, str> {
        clean_text(self.value(at), max_bytes)
    }

    /// Its type.
    pub fn kind(self) -> EventType {
        self.event.kind
    }

    /// 1 to [`MAX_COUNT`].
    pub fn count(self) -> u32 {
        self.event.count
    }

    /// Milliseconds; 0 for all but performance samples.
    pub fn duration_ms(self) -> f64 {
        self.event.duration_ms
    }

    /// Of a custom event or a metric; else empty.
    pub fn name(self) -> Cow<'t, str> {
        self.text(NAME, MAX_NAME_BYTES)
    }

    /// Of an error; else empty.
    pub fn message(self) -> Cow<'t, str> {
        self.text(MESSAGE, MAX_MESSAGE_BYTES)
    }

    /// Several lines; empty where there is none.
    pub fn stack_trace(self) -> Cow<'t, str> {
        self.text(STACK, MAX_STACK_BYTES)
    }

    /// `TypeError` and such; empty where there is none.
    pub fn error_name(self) -> Cow<'t, str> {
        self.text(ERROR_NAME, MAX_NAME_BYTES)
    }

    /// Several lines; empty where there is none.
    pub fn component_stack(self) -> Cow<'t, str> {
        self.text(COMPONENT_STACK, MAX_COMPONENT_STACK_BYTES)
    }

    /// False where absent.
    pub fn is_fatal(self) -> bool {
        self.value(IS_FATAL)
            .and_then(Value::as_bool)
            .unwrap_or_default()
    }

    /// At most 50, each key once (the last one sent), values as [`tags`] are stored.
    pub fn tags(self) -> Vec<(Cow<'t, str>, Cow<'t, str>)> {
        let mut kept: Vec<(Cow<'t, str>, Cow<'t, str>)> = Vec::new();
        for (key, value) in self
            .value(TAGS)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let key = clean(key, MAX_TAG_KEY_BYTES);
            let value = tags::stored(value);
            let known = kept.iter().position(|(known, _)| *known == key);
            match known {
                Some(at) => kept[at].1 = value,
                None if kept.len() < MAX_TAGS => kept.push((key, value)),
                None => {}
            }
        }
        kept
    }

    /// A digest of the flag states as sent, `None` where there are none: equal
    /// digests have equal [`flag_states`](Self::flag_states), which are dear to make.
    pub fn flag_digest(self) -> Option<u128> {
        self.value(FLAG_STATES).map(Value::digest)
    }

    /// The flags that the device held; empty where none were sent, and for samples.
    pub fn flag_states(self) -> FlagStates {
        self.value(FLAG_STATES)
            .map(FlagStates::read)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
