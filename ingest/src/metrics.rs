//! Every metric of the edge. Each request, and each event of a request that was
//! decoded, ends in exactly one counted outcome.
//!
//! A [`Tally`] is opened when a request arrives and can only be closed by its
//! outcome; one that is dropped counts its request as abandoned. Counters are
//! looked up once, when the edge is built: so build it after the registry.

use std::time::Instant;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use sluice_schema::wire::{evaluations, health};

use crate::outcome::Outcome;
use crate::route::Route;

const REQUESTS: &str = "sluice_ingest_requests_total";
const EVENTS: &str = "sluice_ingest_events_total";
const DROPPED: &str = "sluice_ingest_events_dropped_total";
const BODY_BYTES: &str = "sluice_ingest_body_bytes_total";
const SECONDS: &str = "sluice_ingest_request_seconds";
const IN_FLIGHT: &str = "sluice_ingest_requests_in_flight";
const CONNECTIONS: &str = "sluice_ingest_connections";
const UNRESOLVED: &str = "sluice_ingest_unresolved_requests_total";
const DIRECTORY_READS: &str = "sluice_ingest_directory_reads_total";
const DIRECTORY_CURRENT: &str = "sluice_ingest_directory_current";

/// Where the events of a request ended.
const EVENT_OUTCOMES: [&str; 3] = ["accepted", "refused", "abandoned"];
const ACCEPTED: usize = 0;
const REFUSED: usize = 1;
const ABANDONED: usize = 2;

/// The counters of one route.
struct RouteMetrics {
    outcomes: [Counter; Outcome::LABELS.len()],
    events: [Counter; EVENT_OUTCOMES.len()],
    /// By reason, in the order of the route's own list of reasons.
    dropped: Vec<Counter>,
    body_bytes: Counter,
    seconds: Histogram,
    in_flight: Gauge,
    unresolved: Counter,
}

impl RouteMetrics {
    fn new(route: Route) -> Self {
        let name = route.label();
        let reasons: Vec<_> = match route {
            Route::Health => health::Drop::ALL.iter().map(|r| r.as_str()).collect(),
            Route::Evaluations => evaluations::Drop::ALL.iter().map(|r| r.as_str()).collect(),
        };
        Self {
            outcomes: Outcome::LABELS
                .map(|outcome| declared(counter!(REQUESTS, "route" => name, "outcome" => outcome))),
            events: EVENT_OUTCOMES
                .map(|outcome| declared(counter!(EVENTS, "route" => name, "outcome" => outcome))),
            dropped: reasons
                .into_iter()
                .map(|reason| declared(counter!(DROPPED, "route" => name, "reason" => reason)))
                .collect(),
            body_bytes: declared(counter!(BODY_BYTES, "route" => name)),
            seconds: histogram!(SECONDS, "route" => name),
            in_flight: gauge!(IN_FLIGHT, "route" => name),
            unresolved: declared(counter!(UNRESOLVED, "route" => name)),
        }
    }
}

/// A zero that is visible.
fn declared(counter: Counter) -> Counter {
    counter.increment(0);
    counter
}

/// The edge's counters.
pub(crate) struct Metrics {
    health: RouteMetrics,
    evaluations: RouteMetrics,
    connections: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe();
        let connections = gauge!(CONNECTIONS);
        connections.set(0.0);
        Self {
            health: RouteMetrics::new(Route::Health),
            evaluations: RouteMetrics::new(Route::Evaluations),
            connections,
        }
    }

    fn of(&self, route: Route) -> &RouteMetrics {
        match route {
            Route::Health => &self.health,
            Route::Evaluations => &self.evaluations,
        }
    }

    /// A request has arrived.
    pub(crate) fn begin(&self, route: Route) -> Tally<'_> {
        let metrics = self.of(route);
        metrics.in_flight.increment(1.0);
        Tally {
            metrics,
            started: Instant::now(),
            events: Events::default(),
            outcome: None,
        }
    }

    /// A connection is open until the guard is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.increment(1.0);
        OpenConnection(self.connections.clone())
    }
}

/// Counts an open connection.
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// What a decoded body holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) kept: u32,
    /// By reason, in the order of the route's list.
    pub(crate) dropped: [u32; MAX_REASONS],
}

const MAX_REASONS: usize = health::Drop::ALL.len();

impl Events {
    pub(crate) fn of_health(batch: &health::HealthBatch<'_>) -> Self {
        Self::new(batch.kept(), batch.drops().iter().map(|(_, n)| n))
    }

    pub(crate) fn of_evaluations(batch: &evaluations::EvaluationBatch<'_>) -> Self {
        Self::new(batch.kept(), batch.drops().iter().map(|(_, n)| n))
    }

    fn new(kept: u32, drops: impl Iterator<Item = u32>) -> Self {
        let mut dropped = [0; MAX_REASONS];
        for (slot, number) in dropped.iter_mut().zip(drops) {
            *slot = number;
        }
        Self { kept, dropped }
    }

    fn total(self) -> u64 {
        let dropped: u64 = self.dropped.iter().map(|n| u64::from(*n)).sum();
        u64::from(self.kept) + dropped
    }
}

/// An open request. See the module's description.
#[must_use]
pub(crate) struct Tally<'m> {
    metrics: &'m RouteMetrics,
    started: Instant,
    events: Events,
    outcome: Option<Outcome>,
}

impl Tally<'_> {
    /// The body was decoded: from now on its events are accounted for, too.
    pub(crate) fn decoded(&mut self, events: Events, body_bytes: usize) {
        self.events = events;
        self.metrics.body_bytes.increment(body_bytes as u64);
    }

    /// The project is left to be resolved downstream.
    pub(crate) fn unresolved(&self) {
        self.metrics.unresolved.increment(1);
    }

    /// The request has ended; gives its outcome back to be answered.
    pub(crate) fn finish(mut self, outcome: Outcome) -> Outcome {
        self.outcome = Some(outcome.clone());
        outcome
    }

    fn count_events(&self, outcome: &Outcome) {
        let Events { kept, dropped } = self.events;
        let events = &self.metrics.events;
        match outcome {
            Outcome::Accepted => {
                events[ACCEPTED].increment(u64::from(kept));
                for (counter, number) in self.metrics.dropped.iter().zip(dropped) {
                    if number > 0 {
                        counter.increment(u64::from(number));
                    }
                }
            }
            Outcome::Abandoned => events[ABANDONED].increment(self.events.total()),
            _ => events[REFUSED].increment(self.events.total()),
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or(Outcome::Abandoned);
        self.metrics.outcomes[outcome.index()].increment(1);
        self.count_events(&outcome);
        self.metrics.seconds.record(self.started.elapsed());
        self.metrics.in_flight.decrement(1.0);
    }
}

/// The directory was read from Postgres, or could not be.
pub(crate) fn directory_read(ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    counter!(DIRECTORY_READS, "outcome" => outcome).increment(1);
}

/// Whether the directory is known to be what Postgres holds.
pub(crate) fn directory_current(current: bool) {
    gauge!(DIRECTORY_CURRENT).set(f64::from(u8::from(current)));
}

fn describe() {
    describe_counter!(REQUESTS, "Requests by how they ended");
    describe_counter!(
        EVENTS,
        "Events of decoded requests by how their request ended"
    );
    describe_counter!(
        DROPPED,
        "Events that were dropped from accepted requests, by reason"
    );
    describe_counter!(BODY_BYTES, "Bytes of decoded bodies, inflated");
    describe_histogram!(SECONDS, "From the end of the head to the answer");
    describe_gauge!(IN_FLIGHT, "Requests without an answer");
    describe_gauge!(CONNECTIONS, "Open connections");
    describe_counter!(
        UNRESOLVED,
        "Requests whose project is resolved downstream, because Postgres was away"
    );
    describe_counter!(DIRECTORY_READS, "Reads of the directory from Postgres");
    describe_gauge!(
        DIRECTORY_CURRENT,
        "1 while the directory is known to be what Postgres holds"
    );
    for outcome in ["ok", "failed"] {
        counter!(DIRECTORY_READS, "outcome" => outcome).increment(0);
    }
    directory_current(false);
}
