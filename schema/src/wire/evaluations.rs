//! The body of `POST /flag-evaluations` (telemetry.md §3).

use std::borrow::Cow;

use simd_json::Tape;

use super::json::{MAX_DEPTH, Value, depth};
use super::tape::{Fields, clean_text, fields, required_text, value_at};
use super::{Refusal, Scratch};

/// Entries of one request that are looked at; the rest are dropped (as telemetry.md §2.6).
pub const MAX_EVALUATIONS: usize = 1_000;
/// Largest count of one entry (telemetry.md §3).
pub const MAX_COUNT: u32 = 1_000_000_000;

const MAX_NAME_BYTES: usize = 256;
const MAX_KIND_BYTES: usize = 64;
const MAX_KEY_BYTES: usize = 1024;
const MAX_ATTRIBUTES_BYTES: usize = 256 * 1024;

/// Why an entry of an accepted report is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// `count` is zero or negative.
    NonPositiveCount,
    /// Past [`MAX_EVALUATIONS`].
    OverLimit,
}

impl Drop {
    /// Every reason, for metrics that must show zeros.
    pub const ALL: [Self; 2] = [Self::NonPositiveCount, Self::OverLimit];

    /// As a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NonPositiveCount => "non_positive_count",
            Self::OverLimit => "over_limit",
        }
    }
}

/// How many entries were dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u32; Drop::ALL.len()]);

impl Drops {
    /// Entries dropped for `reason`.
    pub fn of(&self, reason: Drop) -> u32 {
        self.0[reason as usize]
    }

    /// Every reason with its number of entries.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u32)> + '_ {
        Drop::ALL
            .into_iter()
            .map(|reason| (reason, self.of(reason)))
    }

    /// Entries dropped for any reason.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }
}

/// A report that passed: what is kept of its entries, and its context.
pub struct EvaluationBatch<'s> {
    tape: Tape<'s>,
    kept: Vec<KeptEvaluation>,
    drops: Drops,
    context: Option<Fields<CONTEXT>>,
}

struct KeptEvaluation {
    count: u32,
    fields: Fields<EVALUATION>,
}

const EVALUATIONS_AT: usize = 0;
const CONTEXT_AT: usize = 1;
const ENVELOPE_NAMES: [&str; 2] = ["evaluations", "context"];

const EVALUATION: usize = 4;
const FLAG_KEY: usize = 0;
const VALUE: usize = 1;
const COUNT: usize = 2;
const CHANNEL: usize = 3;
const EVALUATION_NAMES: [&str; EVALUATION] = ["flagKey", "variationValue", "count", "channel"];

const CONTEXT: usize = 4;
const TARGETING_KEY: usize = 0;
const KIND: usize = 1;
const NAME: usize = 2;
const ATTRIBUTES: usize = 3;
const CONTEXT_NAMES: [&str; CONTEXT] = ["targetingKey", "kind", "name", "attributes"];

/// Decodes a body by the rules of telemetry.md §3, and of §2.5 where §3 is silent.
///
/// # Errors
/// The body is refused as a whole; what it says is safe to show to the client.
pub fn decode<'s>(body: &[u8], scratch: &'s mut Scratch) -> Result<EvaluationBatch<'s>, Refusal> {
    let tape = scratch.parse(body)?;
    let envelope = fields(&tape, 0, &ENVELOPE_NAMES).ok_or(Refusal::WrongType {
        field: "the body",
        expected: "an object",
    })?;
    let (kept, drops) = keep(&tape, envelope[EVALUATIONS_AT])?;
    let context = context(&tape, envelope[CONTEXT_AT])?;
    Ok(EvaluationBatch {
        tape,
        kept,
        drops,
        context,
    })
}

fn keep(tape: &Tape<'_>, at: u32) -> Result<(Vec<KeptEvaluation>, Drops), Refusal> {
    let value = value_at(tape, at).ok_or(Refusal::Missing("evaluations"))?;
    let all = value.as_array().ok_or(Refusal::WrongType {
        field: "evaluations",
        expected: "an array",
    })?;
    let mut kept = Vec::new();
    let mut drops = Drops::default();
    for (index, entry) in all.enumerate() {
        if index >= MAX_EVALUATIONS {
            drops.0[Drop::OverLimit as usize] += 1;
            continue;
        }
        match evaluation(tape, entry)? {
            Some(evaluation) => kept.push(evaluation),
            None => drops.0[Drop::NonPositiveCount as usize] += 1,
        }
    }
    Ok((kept, drops))
}

/// Validates one entry; `None` where there is nothing to count.
fn evaluation(tape: &Tape<'_>, entry: Value<'_>) -> Result<Option<KeptEvaluation>, Refusal> {
    let at = entry.position(tape.0.len());
    let fields = fields(tape, at, &EVALUATION_NAMES).ok_or(Refusal::WrongType {
        field: "evaluations[]",
        expected: "an object",
    })?;
    required_text(tape, fields[FLAG_KEY], "evaluations[].flagKey")?;
    let count = count(value_at(tape, fields[COUNT]))?;
    Ok(count.map(|count| KeptEvaluation { count, fields }))
}

fn count(value: Option<Value<'_>>) -> Result<Option<u32>, Refusal> {
    let Some(value) = value else {
        return Ok(Some(1));
    };
    let number = value.as_f64().ok_or(Refusal::WrongType {
        field: "evaluations[].count",
        expected: "a number",
    })?;
    let rounded = number.round();
    // Clamped to what a u32 holds.
    Ok((rounded >= 1.0).then(|| rounded.min(f64::from(MAX_COUNT)) as u32))
}

/// The context's fields; `None` where there is none, or its key is empty.
fn context(tape: &Tape<'_>, at: u32) -> Result<Option<Fields<CONTEXT>>, Refusal> {
    if at == 0 {
        return Ok(None);
    }
    let fields = fields(tape, at, &CONTEXT_NAMES).ok_or(Refusal::WrongType {
        field: "context",
        expected: "an object",
    })?;
    let key = required_text(tape, fields[TARGETING_KEY], "context.targetingKey")?;
    Ok((!key.is_empty()).then_some(fields))
}

impl EvaluationBatch<'_> {
    /// Number of entries that are kept: the indices that the report takes in its frame.
    pub fn kept(&self) -> u32 {
        self.kept.len() as u32
    }

    /// What was dropped, by reason.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// Whether nothing of the report would be stored.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.context.is_none()
    }

    /// The kept entries, in order.
    pub fn evaluations(&self) -> impl Iterator<Item = Evaluation<'_>> {
        self.kept.iter().map(|kept| Evaluation {
            tape: &self.tape,
            kept,
        })
    }

    /// The last context of the report's minute, if the app set one.
    pub fn context(&self) -> Option<Context<'_>> {
        self.context.map(|fields| Context {
            tape: &self.tape,
            fields,
        })
    }
}

/// A kept entry: a flag, the value that the app received, and how often.
#[derive(Clone, Copy)]
pub struct Evaluation<'t> {
    tape: &'t Tape<'t>,
    kept: &'t KeptEvaluation,
}

impl<'t> Evaluation<'t> {
    /// The flag's key; it may be unknown.
    pub fn flag_key(self) -> Cow<'t, str> {
        clean_text(
            value_at(self.tape, self.kept.fields[FLAG_KEY]),
            MAX_NAME_BYTES,
        )
    }

    /// From 1 to [`MAX_COUNT`].
    pub fn count(self) -> u32 {
        self.kept.count
    }

    /// The value that the app received, as compact JSON; `null` where absent.
    pub fn variation_json(self) -> String {
        value_at(self.tape, self.kept.fields[VALUE])
            .map_or_else(|| "null".to_owned(), Value::to_json)
    }

    /// Empty where the app set none.
    pub fn channel(self) -> Cow<'t, str> {
        clean_text(
            value_at(self.tape, self.kept.fields[CHANNEL]),
            MAX_NAME_BYTES,
        )
    }
}

/// Who the flags were evaluated for.
#[derive(Clone, Copy)]
pub struct Context<'t> {
    tape: &'t Tape<'t>,
    fields: Fields<CONTEXT>,
}

impl<'t> Context<'t> {
    fn text(self, at: usize, max_bytes: usize) -> Cow<'t, str> {
        clean_text(value_at(self.tape, self.fields[at]), max_bytes)
    }

    /// Never empty as sent.
    pub fn targeting_key(self) -> Cow<'t, str> {
        self.text(TARGETING_KEY, MAX_KEY_BYTES)
    }

    /// `user` where the app set none.
    pub fn kind(self) -> Cow<'t, str> {
        let kind = self.text(KIND, MAX_KIND_BYTES);
        if kind.is_empty() {
            Cow::Borrowed("user")
        } else {
            kind
        }
    }

    /// `None` where the app set none.
    pub fn name(self) -> Option<Cow<'t, str>> {
        value_at(self.tape, self.fields[NAME]).map(|name| clean_text(Some(name), MAX_NAME_BYTES))
    }

    /// A compact JSON object; `{}` where absent, no object, past 256 KiB, or nested too deeply.
    pub fn attributes_json(self) -> String {
        value_at(self.tape, self.fields[ATTRIBUTES])
            .filter(|value| value.as_object().is_some())
            .map(Value::to_json)
            .filter(|json| json.len() <= MAX_ATTRIBUTES_BYTES && depth(json) <= MAX_DEPTH)
            .unwrap_or_else(|| "{}".to_owned())
    }
}

#[cfg(test)]
mod tests;
