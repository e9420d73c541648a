//! The fault drill: processes are killed with SIGKILL, at random, under load,
//! and afterwards every acknowledged request is there, once and whole.

pub mod services;
pub mod standalone;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

use crate::bodies::{Bodies, Run};
use crate::ledger::{self, Acknowledged, Ledger};
use crate::load::{self, Outcome, Plan};
use crate::verify::{ClickHouse, Verdict, verify};
use crate::{Error, PROJECT};

/// Between a system's being whole again and the next kill, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 200..2_500;
/// How long what is acknowledged may take to be stored once the load has ended.
const DRAINED_WITHIN: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_secs(1);
/// Polls that must agree before the outcome is final: a late duplicate would show.
const STEADY_POLLS: u32 = 3;

/// How to drill.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// How many kills, spread over the system's processes.
    #[arg(long, default_value_t = 30)]
    pub kills: usize,
    /// Requests per second.
    #[arg(long, default_value_t = 500.0)]
    pub rate: f64,
    /// Makes the choice of victims and moments repeatable.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// The outcome, as it is printed with `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Processes killed.
    pub kills: usize,
    #[serde(flatten)]
    /// What is stored, held against what was acknowledged.
    pub verdict: Verdict,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered with something other than 204.
    pub refused: u64,
    /// Requests that got no answer.
    pub unanswered: u64,
    /// Processes that ended by themselves and were started again.
    pub restarts: u32,
}

/// Something whose processes can be killed.
pub trait System {
    /// Where the load goes; it stays the same through all restarts.
    fn base_url(&self) -> String;

    /// What can be killed.
    fn victims(&self) -> Vec<&'static str>;

    /// Kills one of them and has it back when this returns.
    fn kill(&mut self, victim: &'static str) -> impl Future<Output = Result<(), Error>>;

    /// Starts again what has ended by itself, as a supervisor does; how many.
    fn mend(&mut self) -> Result<u32, Error>;

    /// Where the events end.
    fn clickhouse(&self) -> Result<ClickHouse, Error>;
}

/// Kills under load, waits until all is stored, and compares.
pub async fn run(
    system: &mut impl System,
    dir: &Path,
    options: Options,
    say: impl Fn(&str),
) -> Result<Report, Error> {
    let path = dir.join("ledger");
    let run = Run(options.seed as u32);
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        base_url: system.base_url(),
        run,
        rate: options.rate,
        requests: u64::MAX,
    };
    let load = tokio::spawn({
        let (stop, ledger) = (Arc::clone(&stop), Ledger::begin(&path, run, PROJECT)?);
        async move { load::run(&plan, Bodies::recorded(PROJECT), ledger, &stop).await }
    });
    let mut restarts = 0;
    let mut random = StdRng::seed_from_u64(options.seed);
    for (number, victim) in schedule(&system.victims(), options.kills, &mut random)
        .into_iter()
        .enumerate()
    {
        tokio::time::sleep(Duration::from_millis(random.random_range(PAUSE_MS))).await;
        say(&format!(
            "kill {} of {}: {victim}",
            number + 1,
            options.kills
        ));
        system.kill(victim).await?;
        restarts += system.mend()?;
    }
    tokio::time::sleep(Duration::from_millis(PAUSE_MS.end)).await;
    stop.store(true, Ordering::Relaxed);
    let outcome = load.await??;
    say(&outcome.summary());
    let (clickhouse, acknowledged) = (system.clickhouse()?, ledger::read(&path)?);
    let verdict = wait_until_settled(&clickhouse, &acknowledged, || {
        restarts += system.mend()?;
        Ok(())
    })
    .await?;
    Ok(Report {
        restarts,
        ..conclude(options.kills, verdict, &outcome)
    })
}

fn conclude(kills: usize, verdict: Verdict, outcome: &Outcome) -> Report {
    Report {
        restarts: 0,
        kills,
        verdict,
        sent: outcome.sent,
        refused: outcome.refused.values().sum(),
        unanswered: outcome.unanswered,
    }
}

/// Victims in random order, each as often as the others, give or take one.
fn schedule(victims: &[&'static str], kills: usize, random: &mut StdRng) -> Vec<&'static str> {
    let mut all = Vec::with_capacity(kills + victims.len());
    while all.len() < kills && !victims.is_empty() {
        let mut round = victims.to_vec();
        round.shuffle(random);
        all.extend(round);
    }
    all.truncate(kills);
    all
}

/// Compares until nothing is missing and nothing changes any more, or until
/// what is missing has had its time. `mend` is called before each comparison.
pub async fn wait_until_settled(
    clickhouse: &ClickHouse,
    acknowledged: &Acknowledged,
    mut mend: impl FnMut() -> Result<(), Error>,
) -> Result<Verdict, Error> {
    let bodies = Bodies::recorded(PROJECT);
    let deadline = Instant::now() + DRAINED_WITHIN;
    let (mut last, mut steady) = (Verdict::default(), 0);
    loop {
        mend()?;
        let verdict = verify(clickhouse, acknowledged, &bodies).await?;
        steady = if verdict == last && verdict.lost == 0 {
            steady + 1
        } else {
            0
        };
        if steady == STEADY_POLLS || Instant::now() > deadline {
            return Ok(verdict);
        }
        last = verdict;
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_spread_and_repeatable() {
        let draw = |seed| schedule(&["a", "b", "c"], 10, &mut StdRng::seed_from_u64(seed));
        let drawn = draw(7);
        assert_eq!(drawn.len(), 10);
        for victim in ["a", "b", "c"] {
            let times = drawn.iter().filter(|v| **v == victim).count();
            assert!((3..=4).contains(&times), "{drawn:?}");
        }
        assert_eq!(drawn, draw(7));
        assert!((0..20).any(|seed| draw(seed) != drawn));
    }
}
