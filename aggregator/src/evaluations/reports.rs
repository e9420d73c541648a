//! What reports say of contexts, and what several of them come to (telemetry.md §3).
//!
//! What always holds: folding reports and storing the sum is the same as storing
//! one after the other, wherever a batch is cut: counts add up, and of names,
//! attributes and values the last one in the order of the log stays.

use std::collections::BTreeMap;

use sluice_eventlog::Offset;
use sluice_schema::wire::evaluations::EvaluationBatch;
use sluice_schema::wire::flags::shown_value;

use crate::places::Origin;

/// Counts are whole numbers that JavaScript can hold.
pub const MAX_COUNT: i64 = (1 << 53) - 1;
/// The last instant that every store can hold: the end of the year 9999.
const MAX_AT_US: i64 = 253_402_300_799_000_000;

/// A report that has a context.
#[derive(Clone, Debug)]
pub struct Report {
    /// Offset of the frame that it came in.
    pub offset: Offset,
    /// Whom the evaluations were for.
    pub subject: Subject,
    /// None: the app set none.
    pub name: Option<String>,
    /// A JSON object.
    pub attributes: String,
    /// When it was received, in microseconds since 1970.
    pub at_us: i64,
    /// The kept entries, in the order sent.
    pub entries: Vec<Entry>,
}

/// What names a context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Whose it is.
    pub project: i64,
    /// `user`, `device` and such.
    pub kind: String,
    /// Never empty.
    pub targeting_key: String,
}

/// A flag, the value that the app got, and how often.
#[derive(Clone, Debug)]
pub struct Entry {
    /// It may be unknown.
    pub flag_key: String,
    /// Empty where there is none.
    pub channel: String,
    /// JSON.
    pub value: String,
    /// At least 1.
    pub count: u32,
}

impl Report {
    /// What a batch says of its context, if it has one that can be stored.
    pub fn of(origin: &Origin, batch: &EvaluationBatch<'_>) -> Option<Self> {
        let context = batch.context()?;
        let subject = Subject {
            project: origin.project.0,
            kind: context.kind().into_owned(),
            targeting_key: context.targeting_key().into_owned(),
        };
        // Nothing but NULs, which were removed.
        if subject.targeting_key.is_empty() {
            return None;
        }
        let entries = batch.evaluations().map(|entry| Entry {
            flag_key: entry.flag_key().into_owned(),
            channel: entry.channel().into_owned(),
            value: shown_value(entry.variation_json()),
            count: entry.count(),
        });
        Some(Self {
            offset: origin.offset,
            subject,
            name: context.name().map(Into::into),
            attributes: context.attributes_json(),
            at_us: origin.received_at_us.clamp(0, MAX_AT_US),
            entries: entries.collect(),
        })
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        let entries = self.entries.iter();
        let texts = entries.map(|e| e.flag_key.len() + e.channel.len() + e.value.len());
        texts.sum::<usize>()
            + size_of::<Self>()
            + size_of::<Entry>() * self.entries.len()
            + self.attributes.len()
    }
}

/// What several reports come to.
#[derive(Debug, Default)]
pub struct Changes<'r>(pub BTreeMap<&'r Subject, ContextChange<'r>>);

/// What becomes of one context.
#[derive(Debug)]
pub struct ContextChange<'r> {
    /// None: it stays.
    pub name: Option<&'r str>,
    /// A JSON object, which replaces what was.
    pub attributes: &'r str,
    /// Earliest receipt, in microseconds since 1970.
    pub first_us: i64,
    /// Latest receipt, in microseconds since 1970.
    pub last_us: i64,
    /// By flag and channel.
    pub flags: BTreeMap<(&'r str, &'r str), FlagChange<'r>>,
}

/// What becomes of one flag of a context in one channel.
#[derive(Debug)]
pub struct FlagChange<'r> {
    /// JSON.
    pub value: &'r str,
    /// To be added.
    pub count: i64,
    /// Latest receipt, in microseconds since 1970.
    pub last_us: i64,
}

impl<'r> Changes<'r> {
    /// Of reports in the order of the log.
    pub fn of(reports: impl IntoIterator<Item = &'r Report>) -> Self {
        let mut changes = Self::default();
        for report in reports {
            changes.add(report);
        }
        changes
    }

    fn add(&mut self, report: &'r Report) {
        let change = self.0.entry(&report.subject).or_insert(ContextChange {
            name: None,
            attributes: "",
            first_us: report.at_us,
            last_us: report.at_us,
            flags: BTreeMap::new(),
        });
        change.name = report.name.as_deref().or(change.name);
        change.attributes = &report.attributes;
        change.first_us = change.first_us.min(report.at_us);
        change.last_us = change.last_us.max(report.at_us);
        for entry in &report.entries {
            let slot = (entry.flag_key.as_str(), entry.channel.as_str());
            let flag = change.flags.entry(slot).or_insert(FlagChange {
                value: "",
                count: 0,
                last_us: report.at_us,
            });
            flag.value = &entry.value;
            flag.count = (flag.count + i64::from(entry.count)).min(MAX_COUNT);
            flag.last_us = flag.last_us.max(report.at_us);
        }
    }
}
