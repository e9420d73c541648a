//! What dashboards wait for, over the facts of a hundred million events and of
//! ten, beside the least that could answer.
//!
//! A real standalone process on engines of its own. Its store is filled in
//! place ([`facts`]): device-hours and all else that inserts would have left
//! behind, which the process's own folder then folds. Days before those are
//! copies of folded days under other dates. Then events keep arriving through
//! the edge while four clients ask, each its next question as soon as the last
//! is answered. Before that every question is asked by itself when nothing that
//! was answered before can be used.

mod facts;
mod questions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use self::facts::Store;
use self::questions::{Asked, Asker, QUESTIONS};
use crate::bodies::{Bodies, Run};
use crate::ledger::Ledger;
use crate::load::{self, Plan};
use crate::process::{Server, children_with, cpu_time};
use crate::report::table;
use crate::serve::fixed;
use crate::standalone::Standalone;
use crate::{Error, PROJECT, workspace};

/// What four clients may wait at the 95th percentile, in milliseconds.
const LIMIT_MS: f64 = 50.0;
/// How many times the wait of a tenth of the events it may be.
const GROWTH_LIMIT: f64 = 2.0;
/// Below this a wait is that of the machine, not of the store.
const NOTHING_MS: f64 = 1.0;
const CLIENTS: usize = 4;
/// Longer than any answer is used again.
const FORGOTTEN: Duration = Duration::from_secs(32);
/// Longer than a new fold is overlooked.
const NOTICED: Duration = Duration::from_millis(1_200);

/// How to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many raw events the facts are worth; twice to compare.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000_000, 100_000_000])]
    pub events: Vec<u64>,
    /// How long the clients ask, in seconds.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// How often each question is asked alone.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Requests per second that arrive at the edge meanwhile.
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
}

/// The outcome, as it is printed with `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every bar is met.
    pub passed: bool,
    limit_ms: f64,
    growth_limit: f64,
    /// By size, the smallest first.
    sizes: Vec<Size>,
}

/// One store.
#[derive(Debug, Serialize)]
struct Size {
    events: u64,
    device_hours: u64,
    device_updates: u64,
    /// Folds of the open hour while the clients asked, and their length on average.
    open_folds: u64,
    open_fold_seconds: f64,
    /// The four clients' 95th percentile with a fixed answer of the largest size that is held to a bar.
    fixed_answer_p95_ms: f64,
    /// `SELECT 1` in ClickHouse, one reader.
    select_1_ms: f64,
    questions: Vec<Measured>,
}

/// One question.
#[derive(Debug, Serialize)]
struct Measured {
    name: &'static str,
    /// Whether the bars are for it.
    held: bool,
    answer_bytes: usize,
    asked: usize,
    /// How often the store was asked for an answer of its kind, be it while
    /// somebody waited or not.
    from_store: u64,
    p50_ms: f64,
    p95_ms: f64,
    max_ms: f64,
    /// Alone, when there is a new fold: the middle one, and the mean of the CPU
    /// time of ClickHouse, which is read in steps of 10 ms.
    folded_ms: f64,
    folded_cpu_ms: f64,
    /// The same when nothing at all is remembered.
    forgotten_ms: f64,
    forgotten_max_ms: f64,
    forgotten_cpu_ms: f64,
}

/// Measures, and returns the report; `say` gets a line for people now and then.
pub async fn run(options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let mut sizes = Vec::new();
    let mut events = options.events.clone();
    events.sort_unstable();
    for events in events {
        let dir = workspace::directory()?;
        let standalone = Standalone::start(&dir.path().join("sluice")).await?;
        let measured = measure(&standalone, events, &options, dir.path(), &say).await;
        standalone.stop()?;
        workspace::remove(dir)?;
        sizes.push(measured?);
    }
    Ok(conclude(sizes))
}

async fn measure(
    standalone: &Standalone,
    events: u64,
    options: &Options,
    dir: &std::path::Path,
    say: &impl Fn(&str),
) -> Result<Size, Error> {
    let credentials = standalone.credentials()?;
    let store = Store::new(&credentials.clickhouse);
    say(&format!("making the facts of {events} events"));
    facts::make(&store, &credentials.postgres.url, events, say).await?;
    let load = Load::start(standalone.base_url(), options.rate, dir)?;
    say("waiting until they are folded");
    store.wait_until_folded().await?;
    load.stop().await?;
    store.copy_days().await?;
    store.wait_until_merged().await?;
    let asker = Asker::new(&credentials).await?;
    let alone = alone(&store, &asker, standalone.pid(), options.rounds, say).await?;
    let held = QUESTIONS
        .iter()
        .zip(&alone)
        .filter(|(question, _)| question.held);
    let answer_bytes = held.map(|(_, of)| of.bytes).max().unwrap_or_default();
    fixed::prepare(dir, &vec![b' '; answer_bytes], "\"fixed\"")?;
    let fixed = Server::start(&["fixed", "--dir", &dir.display().to_string()])?;
    let fixed_answer_p95_ms = questions::fixed(&fixed.base_url, CLIENTS).await?;
    say("four clients ask while events arrive");
    let load = Load::start(standalone.base_url(), options.rate, dir)?;
    // Somebody looked a moment ago, and events have begun to arrive.
    questions::ask_together(&asker, CLIENTS, Duration::from_secs(5)).await?;
    let before = asker.asked_of_store().await?;
    let asked =
        questions::ask_together(&asker, CLIENTS, Duration::from_secs(options.seconds)).await?;
    let open_folds = store.open_folds(options.seconds).await?;
    let after = asker.asked_of_store().await?;
    load.stop().await?;
    let questions = QUESTIONS
        .iter()
        .enumerate()
        .map(|(place, question)| Measured {
            name: question.name,
            held: question.held,
            answer_bytes: alone[place].bytes,
            asked: asked[place].len(),
            from_store: after[place] - before[place],
            p50_ms: percentile(&asked[place], 0.5),
            p95_ms: percentile(&asked[place], 0.95),
            max_ms: percentile(&asked[place], 1.0),
            folded_ms: percentile(&alone[place].folded.ms, 0.5),
            folded_cpu_ms: mean(&alone[place].folded.cpu_ms),
            forgotten_ms: percentile(&alone[place].forgotten.ms, 0.5),
            forgotten_max_ms: percentile(&alone[place].forgotten.ms, 1.0),
            forgotten_cpu_ms: mean(&alone[place].forgotten.cpu_ms),
        });
    Ok(Size {
        events,
        device_hours: store.count("device_hours").await?,
        device_updates: store.count("device_updates").await?,
        open_folds: open_folds.count,
        open_fold_seconds: open_folds.seconds,
        fixed_answer_p95_ms,
        select_1_ms: store.select_1_ms().await?,
        questions: questions.collect(),
    })
}

/// A question asked by nobody else.
#[derive(Default)]
struct Alone {
    /// When nothing is remembered.
    forgotten: Cost,
    /// When there is a new fold, and nothing else has changed.
    folded: Cost,
    bytes: usize,
}

/// What answers cost.
#[derive(Default)]
struct Cost {
    ms: Vec<f64>,
    cpu_ms: Vec<f64>,
}

/// Asks everything again and again: each time of a store that has a new version
/// and when the last answers are forgotten, and once more after another fold.
async fn alone(
    store: &Store,
    asker: &Asker,
    standalone: u32,
    rounds: usize,
    say: &impl Fn(&str),
) -> Result<Vec<Alone>, Error> {
    let [engine, ..] = children_with(standalone, "ClickHouse")[..] else {
        return Err("sluice runs no ClickHouse of its own".into());
    };
    let mut alone: Vec<Alone> = QUESTIONS.iter().map(|_| Alone::default()).collect();
    for round in 0..=rounds {
        say(&format!("each question alone, round {round} of {rounds}"));
        for pause in [FORGOTTEN, NOTICED] {
            store.outdate_answers().await?;
            tokio::time::sleep(pause).await;
            // Knows of the new version, and is none of the questions.
            asker.look().await?;
            for (place, of) in alone.iter_mut().enumerate() {
                let before = cpu_time(engine)?;
                let Asked { ms, bytes } = asker.ask(place).await?;
                let cpu = cpu_time(engine)?.saturating_sub(before);
                of.bytes = bytes;
                let cost = if pause == NOTICED {
                    &mut of.folded
                } else {
                    &mut of.forgotten
                };
                // The first round warms up.
                if round > 0 {
                    cost.ms.push(ms);
                    cost.cpu_ms.push(cpu.as_secs_f64() * 1_000.0);
                }
            }
        }
    }
    Ok(alone)
}

/// Events that arrive at the edge.
struct Load {
    stop: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<Result<load::Outcome, Error>>,
}

impl Load {
    fn start(base_url: &str, rate: f64, dir: &std::path::Path) -> Result<Self, Error> {
        let run = Run(rand::random());
        let plan = Plan {
            base_url: base_url.to_owned(),
            run,
            rate,
            requests: u64::MAX,
        };
        let ledger = Ledger::begin(&dir.join("ledger"), run, PROJECT)?;
        let stop = Arc::new(AtomicBool::new(false));
        let running = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move { load::run(&plan, Bodies::recorded(PROJECT), ledger, &stop).await }
        });
        Ok(Self { stop, running })
    }

    async fn stop(self) -> Result<(), Error> {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.running.await??;
        if outcome.acknowledged == outcome.sent {
            return Ok(());
        }
        Err(format!("events did not arrive: {}", outcome.summary()).into())
    }
}

/// The nearest rank; 0 of none.
fn percentile(values: &[f64], quantile: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn conclude(sizes: Vec<Size>) -> Report {
    let held = |size: &Size| -> Vec<f64> {
        let held = size.questions.iter().filter(|question| question.held);
        held.map(|question| question.p95_ms).collect()
    };
    let quick = sizes.iter().flat_map(held).all(|p95_ms| p95_ms <= LIMIT_MS);
    let grows = |pair: &[Size]| {
        let pairs = held(&pair[0]).into_iter().zip(held(&pair[1]));
        pairs
            .into_iter()
            .any(|(small, large)| large > small.max(NOTHING_MS) * GROWTH_LIMIT)
    };
    Report {
        passed: quick && !sizes.windows(2).any(grows),
        limit_ms: LIMIT_MS,
        growth_limit: GROWTH_LIMIT,
        sizes,
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let tables = self.sizes.iter().map(Size::table);
        let verdict = if self.passed { "met" } else { "MISSED" };
        let bars = format!(
            "bars: p95 of the starred at most {LIMIT_MS} ms, and at most {GROWTH_LIMIT} times that of fewer events: {verdict}\n"
        );
        tables.collect::<String>() + &bars
    }
}

impl Size {
    fn table(&self) -> String {
        let head = [
            "question",
            "KiB",
            "asked",
            "kind from store",
            "p50 ms",
            "p95 ms",
            "max ms",
            "new fold ms",
            "CPU ms",
            "forgotten ms",
            "longest",
            "CPU ms",
        ];
        let row = |of: &Measured| {
            let star = if of.held { "* " } else { "  " };
            let numbers = [
                of.p50_ms,
                of.p95_ms,
                of.max_ms,
                of.folded_ms,
                of.folded_cpu_ms,
                of.forgotten_ms,
                of.forgotten_max_ms,
                of.forgotten_cpu_ms,
            ];
            let counts = [
                format!("{star}{}", of.name),
                (of.answer_bytes / 1024).to_string(),
                of.asked.to_string(),
                of.from_store.to_string(),
            ];
            let numbers = numbers.map(|number| format!("{number:.1}"));
            counts.into_iter().chain(numbers).collect()
        };
        let rows: Vec<Vec<String>> = self.questions.iter().map(row).collect();
        format!(
            "{} events: {} device-hours, {} rows of device_updates; {} folds of the open hour, {:.2} s each\n\
             limits: a fixed answer of the largest size p95 {:.2} ms with four clients; SELECT 1 {:.2} ms\n{}",
            self.events,
            self.device_hours,
            self.device_updates,
            self.open_folds,
            self.open_fold_seconds,
            self.fixed_answer_p95_ms,
            self.select_1_ms,
            table(&head, &rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(p95_ms: [f64; 2]) -> Size {
        let question = |(held, p95_ms)| Measured {
            name: "x",
            held,
            answer_bytes: 1,
            asked: 1,
            from_store: 1,
            p50_ms: 0.0,
            p95_ms,
            max_ms: 1_000.0,
            folded_ms: 0.0,
            folded_cpu_ms: 0.0,
            forgotten_ms: 0.0,
            forgotten_max_ms: 0.0,
            forgotten_cpu_ms: 0.0,
        };
        Size {
            events: 1,
            device_hours: 1,
            device_updates: 1,
            open_folds: 1,
            open_fold_seconds: 1.0,
            fixed_answer_p95_ms: 1.0,
            select_1_ms: 1.0,
            questions: [true, false]
                .into_iter()
                .zip(p95_ms)
                .map(question)
                .collect(),
        }
    }

    #[test]
    fn a_wait_too_long_or_growing_misses_the_bar() {
        let passed =
            |sizes: &[[f64; 2]]| conclude(sizes.iter().copied().map(size).collect()).passed;
        assert!(passed(&[[50.0, 900.0]]));
        assert!(!passed(&[[51.0, 1.0]]));
        assert!(passed(&[[20.0, 1.0], [40.0, 9.0]]));
        assert!(!passed(&[[20.0, 1.0], [41.0, 1.0]]));
        // What is below a millisecond says nothing about the store.
        assert!(passed(&[[0.1, 1.0], [1.9, 1.0]]));
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let at = |quantile| percentile(&values, quantile) as u32;
        assert_eq!([at(0.5), at(0.95), at(1.0)], [50, 95, 100]);
        assert!(percentile(&[], 0.5) < f64::MIN_POSITIVE);
    }
}
