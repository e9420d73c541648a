//! Metrics of the aggregator. Each accepted event ends in exactly one outcome.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::dead_letter::Reason;

const EVENTS: &str = "sluice_aggregator_events_total";
const INSERTS: &str = "sluice_aggregator_inserts_total";
const INSERT_ROWS: &str = "sluice_aggregator_insert_rows";
const INSERT_SECONDS: &str = "sluice_aggregator_insert_seconds";
const FRESHNESS: &str = "sluice_aggregator_freshness_seconds";
const RETRIES: &str = "sluice_aggregator_retries_total";
const RECOVERIES: &str = "sluice_aggregator_recoveries_total";
const GAP_RECORDS: &str = "sluice_aggregator_gap_records_total";
const LATE_HOURS: &str = "sluice_aggregator_late_hours_total";
const OVER_CAP: &str = "sluice_aggregator_over_cap_total";
const PAST_RATES: &str = "sluice_aggregator_rows_past_rates_total";
const LETTERS_LOST: &str = "sluice_aggregator_letters_lost_total";
const CONTEXTS_DROPPED: &str = "sluice_aggregator_contexts_dropped_total";
const FOLD_SECONDS: &str = "sluice_aggregator_fold_seconds";
const FOLDED_BEHIND: &str = "sluice_aggregator_folded_behind_seconds";
const UNKNOWN_MAPS: &str = "sluice_aggregator_unknown_flag_maps";
const LAG: &str = "sluice_aggregator_lag_records";

/// What became of events, counted once their batch is acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Rows in the store.
    pub stored: u64,
    /// Part of a frame that was there already.
    pub replayed: u64,
    /// In the dead letters, by reason.
    pub dead: [u64; Reason::ALL.len()],
}

impl Outcomes {
    /// Counts events that went to the dead letters.
    pub fn add_dead(&mut self, reason: Reason, events: u64) {
        self.dead[reason as usize] += events;
    }

    /// All events.
    pub fn total(&self) -> u64 {
        self.by_label().map(|(_, events)| events).sum()
    }

    fn by_label(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let dead = Reason::ALL.iter().zip(self.dead);
        [("stored", self.stored), ("replayed", self.replayed)]
            .into_iter()
            .chain(dead.map(|(reason, events)| (reason.as_str(), events)))
    }
}

/// Declares every metric, with zeros where labels are known.
pub fn describe() {
    describe_counter!(
        EVENTS,
        "Accepted events and evaluations by what became of them"
    );
    describe_counter!(INSERTS, "Batches that the store acknowledged");
    describe_histogram!(INSERT_ROWS, "Rows of a batch");
    describe_histogram!(
        INSERT_SECONDS,
        Unit::Seconds,
        "From sending a batch to its acknowledgement"
    );
    describe_histogram!(
        FRESHNESS,
        Unit::Seconds,
        "From the receipt of a batch's oldest event to its being queryable"
    );
    describe_counter!(RETRIES, "Failed attempts, by what was attempted");
    describe_counter!(RECOVERIES, "Batches rebuilt at a take-over");
    describe_counter!(
        GAP_RECORDS,
        "Records that the log no longer had when they were to be read: lost"
    );
    describe_counter!(LATE_HOURS, "Hours that got rows after their end");
    describe_counter!(
        OVER_CAP,
        "Distinct names and flag maps over the cap of their hour"
    );
    describe_counter!(
        PAST_RATES,
        "Rows that came too late for device-hours: in raw alone"
    );
    describe_counter!(
        LETTERS_LOST,
        "Dead letters that their full log did not take"
    );
    describe_counter!(
        CONTEXTS_DROPPED,
        "Contexts that Postgres can never store: a defect"
    );
    describe_gauge!(LAG, "Records not read yet, by log and partition");
    for log in ["health", "evaluations"] {
        count_outcomes(log, &Outcomes::default());
    }
    describe_histogram!(FOLD_SECONDS, Unit::Seconds, "Duration of folds, by kind");
    describe_histogram!(
        FOLDED_BEHIND,
        Unit::Seconds,
        "From receipt to being in the tables that reads use, at each advance"
    );
    describe_gauge!(
        UNKNOWN_MAPS,
        "Flag maps of the last day's folds that the dictionary does not have"
    );
    gap(0);
}

pub(crate) fn count_outcomes(log: &'static str, outcomes: &Outcomes) {
    for (outcome, events) in outcomes.by_label() {
        counter!(EVENTS, "log" => log, "outcome" => outcome).increment(events);
    }
}

pub(crate) fn inserted(log: &'static str, rows: usize, took: Duration) {
    counter!(INSERTS, "log" => log).increment(1);
    histogram!(INSERT_ROWS, "log" => log).record(rows as f64);
    histogram!(INSERT_SECONDS, "log" => log).record(took.as_secs_f64());
}

pub(crate) fn fresh(log: &'static str, oldest: Duration) {
    histogram!(FRESHNESS, "log" => log).record(oldest.as_secs_f64());
}

pub(crate) fn retried(what: &'static str) {
    counter!(RETRIES, "what" => what).increment(1);
}

pub(crate) fn recovered() {
    counter!(RECOVERIES).increment(1);
}

pub(crate) fn gap(records: u64) {
    counter!(GAP_RECORDS).increment(records);
}

pub(crate) fn late_hours(hours: usize) {
    counter!(LATE_HOURS).increment(hours as u64);
}

pub(crate) fn over_cap(values: usize) {
    counter!(OVER_CAP).increment(values as u64);
}

pub(crate) fn past_rates(rows: usize) {
    counter!(PAST_RATES).increment(rows as u64);
}

pub(crate) fn letter_lost() {
    counter!(LETTERS_LOST).increment(1);
}

pub(crate) fn contexts_dropped(contexts: usize) {
    counter!(CONTEXTS_DROPPED).increment(contexts as u64);
}

pub(crate) fn lag(log: &'static str, partition: u32, records: u64) {
    gauge!(LAG, "log" => log, "partition" => partition.to_string()).set(records as f64);
}

/// What was folded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FoldKind {
    Open,
    Hour,
    Day,
}

pub(crate) fn folded(kind: FoldKind, took: Duration) {
    let kind = match kind {
        FoldKind::Open => "open",
        FoldKind::Hour => "hour",
        FoldKind::Day => "day",
    };
    histogram!(FOLD_SECONDS, "kind" => kind).record(took.as_secs_f64());
}

pub(crate) fn folded_behind(behind: Duration) {
    histogram!(FOLDED_BEHIND).record(behind.as_secs_f64());
}

pub(crate) fn unknown_maps(maps: u64) {
    gauge!(UNKNOWN_MAPS).set(maps as f64);
}
