//! Open-loop load: requests start when the clock says so, whatever the answers do.
//!
//! Latency is measured from the moment at which a request was due, not from
//! the moment at which the generator got round to it, so a stalled server is
//! charged for everything that had to wait (no coordinated omission).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use hyper::StatusCode;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::bodies::{Bodies, Run};
use crate::http::Client;
use crate::ledger::Ledger;
use crate::{Error, report};

const PATH: &str = "/v1/ota/health-metrics";
/// Requests without an answer at a time; a generator that reaches it says so.
const MAX_IN_FLIGHT: usize = 20_000;
const LONGEST_US: u64 = 60_000_000;

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to, such as `http://127.0.0.1:8080`.
    pub base_url: String,
    /// The run whose requests these are.
    pub run: Run,
    /// Requests per second.
    pub rate: f64,
    /// How many; `u64::MAX` to go on until told to stop.
    pub requests: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Requests that were due and sent.
    pub sent: u64,
    /// Answered 204.
    pub acknowledged: u64,
    /// Answered something else, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Not answered: the connection was refused, was lost, or timed out.
    pub unanswered: u64,
    /// From when a request was due to its 204, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Due requests found the generator's own limit reached: its figures are worthless.
    pub saturated: bool,
    /// How long the load took.
    pub took: Duration,
}

impl Outcome {
    fn new() -> Self {
        // Bounds that the constructor accepts: 1 us to a minute, three digits.
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds");
        Self {
            sent: 0,
            acknowledged: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            latency_us,
            saturated: false,
            took: Duration::ZERO,
        }
    }

    fn count(&mut self, answer: Option<StatusCode>, waited: Duration) {
        match answer {
            Some(StatusCode::NO_CONTENT) => {
                self.acknowledged += 1;
                self.latency_us.saturating_record(waited.as_micros() as u64);
            }
            Some(other) => *self.refused.entry(other.as_u16()).or_default() += 1,
            None => self.unanswered += 1,
        }
    }

    /// A line for people.
    pub fn summary(&self) -> String {
        let rate = self.sent as f64 / self.took.as_secs_f64().max(1e-9);
        let at = |quantile| report::millis(self.latency_us.value_at_quantile(quantile));
        let mut text = format!(
            "sent {} ({rate:.0}/s), 204: {}, refused: {:?}, unanswered: {}; \
             ms to the 204: p50 {} p90 {} p99 {} p99.9 {} max {}",
            self.sent,
            self.acknowledged,
            self.refused,
            self.unanswered,
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            report::millis(self.latency_us.max()),
        );
        if self.saturated {
            text.push_str(
                "\nthe generator could not keep up: lower the rate, or use more machines",
            );
        }
        text
    }
}

struct Shared {
    url: String,
    run: Run,
    client: Client,
    bodies: Bodies,
    ledger: Ledger,
    outcome: Mutex<Outcome>,
}

impl Shared {
    async fn request(&self, number: u64, due: Instant) {
        let body = self.bodies.request(self.run, number);
        let answer = self.client.post_json(&self.url, body).await.ok();
        let waited = due.elapsed();
        if answer == Some(StatusCode::NO_CONTENT)
            && let Err(error) = self.ledger.acknowledge(number)
        {
            eprintln!("the ledger cannot be written: {error}");
            std::process::exit(1);
        }
        self.lock().count(answer, waited);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the plan's requests, or as many as are due until `stop` is set, and
/// waits for the answers.
pub async fn run(
    plan: &Plan,
    bodies: Bodies,
    ledger: Ledger,
    stop: &AtomicBool,
) -> Result<Outcome, Error> {
    let shared = Arc::new(Shared {
        url: format!("{}{PATH}", plan.base_url),
        run: plan.run,
        client: Client::default(),
        bodies,
        ledger,
        outcome: Mutex::new(Outcome::new()),
    });
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let started = Instant::now();
    for number in 0..plan.requests {
        let due = started + Duration::from_secs_f64(number as f64 / plan.rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        shared.lock().saturated |= in_flight.available_permits() == 0;
        let permit = Arc::clone(&in_flight).acquire_owned().await?;
        shared.lock().sent += 1;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            shared.request(number, due).await;
            drop(permit);
        });
    }
    let took = started.elapsed();
    // All permits back: all answers are in.
    let _all = in_flight.acquire_many(MAX_IN_FLIGHT as u32).await?;
    let mut outcome = std::mem::replace(&mut *shared.lock(), Outcome::new());
    outcome.took = took;
    Ok(outcome)
}
