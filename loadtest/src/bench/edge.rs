//! The edge's CPU per request, and that of the whole standalone process,
//! beside the least that could do the same (see [`super::baseline`]).
//!
//! Every variant is a process of its own. They take turns, in short rounds
//! under the same closed loop of connections, so that whatever else the machine
//! does falls on all of them. The first round warms up and is not counted.

use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde::Serialize;

use super::Measured;
use super::closed_loop;
use super::rounds::{self, Options, Rounds, VariantReport};
use crate::bodies::{Bodies, Run};
use crate::process::{Server, cpu_time};
use crate::standalone::Standalone;
use crate::{Error, PROJECT};

const PATH: &str = "/v1/ota/health-metrics";
/// The edge with its log may cost this much of the parsing baseline with a group sync.
const EDGE_LIMIT: f64 = 2.0;
/// The whole standalone process may.
const STANDALONE_LIMIT: f64 = 3.0;
/// Below this share of a core a process has nothing left to do.
const IDLE_CORES: f64 = 0.1;
const IDLE_STEP: Duration = Duration::from_millis(500);
const IDLE_WITHIN: Duration = Duration::from_mins(1);

/// The outcome, as it is printed with `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    edge: Measured,
    standalone: Measured,
    variants: Vec<VariantReport>,
}

enum Program {
    Copy(Server),
    Standalone(Standalone),
}

struct Variant {
    name: &'static str,
    program: Program,
    rounds: Rounds,
}

impl Variant {
    fn new(name: &'static str, program: Program) -> Self {
        Self {
            name,
            program,
            rounds: Rounds::default(),
        }
    }

    fn target(&self) -> (&str, u32) {
        match &self.program {
            Program::Copy(server) => (&server.base_url, server.pid()),
            Program::Standalone(standalone) => (standalone.base_url(), standalone.pid()),
        }
    }

    /// One round; the work that a process puts off until after its answers counts as well.
    async fn measure(&mut self, run: Run, options: Options) -> Result<(), Error> {
        let (url, pid) = self.target();
        let before = cpu_time(pid)?;
        let started = Instant::now();
        let requests = closed_loop(url, run, options).await?;
        let took = started.elapsed();
        if matches!(self.program, Program::Standalone(_)) {
            wait_until_idle(pid).await?;
        }
        let cpu = cpu_time(pid)?.saturating_sub(before);
        self.rounds.add(requests, cpu, took);
        Ok(())
    }

    fn report(&self) -> VariantReport {
        self.rounds.report(self.name)
    }
}

/// Measures, and returns the report; `say` gets a line for people now and then.
pub async fn run(options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    say("starting the variants");
    let mut variants = [
        Variant::new("hyper", Program::Copy(Server::start(&["bare"])?)),
        Variant::new(
            "hyper + simd-json",
            Program::Copy(Server::start(&["json"])?),
        ),
        Variant::new(
            "hyper + simd-json + group fdatasync",
            Program::Copy(Server::start(&["fsync", "--dir", &path("baseline")])?),
        ),
        Variant::new(
            "edge + embedded log",
            Program::Copy(Server::start(&["edge", "--dir", &path("edge")])?),
        ),
        Variant::new(
            "whole standalone process",
            Program::Standalone(Standalone::start(&dir.path().join("sluice")).await?),
        ),
    ];
    for round in 0..=options.rounds {
        say(&format!("round {round} of {}", options.rounds));
        for (index, variant) in variants.iter_mut().enumerate() {
            let run = Run((round * 8 + index) as u32);
            variant.measure(run, options).await?;
        }
    }
    Ok(conclude(variants.iter().map(Variant::report).collect()))
}

fn conclude(variants: Vec<VariantReport>) -> Report {
    let [_, _, fsync, edge, standalone] = [0, 1, 2, 3, 4].map(|i| variants[i].cpu_us_per_request);
    let measured = |what, value, limit| rounds::measured(what, value, fsync, limit);
    Report {
        edge: measured("edge to the baseline with a group sync", edge, EDGE_LIMIT),
        standalone: measured("standalone to the same", standalone, STANDALONE_LIMIT),
        variants,
    }
}

impl Report {
    fn bars(&self) -> [&Measured; 2] {
        [&self.edge, &self.standalone]
    }

    /// Whether both bars are met.
    pub fn is_met(&self) -> bool {
        rounds::are_met(self.bars())
    }

    /// For people.
    pub fn table(&self) -> String {
        rounds::printed(&self.variants, self.bars())
    }
}

async fn closed_loop(base_url: &str, run: Run, options: Options) -> Result<u64, Error> {
    let bodies = Bodies::recorded(PROJECT);
    closed_loop::run(
        base_url,
        options.load(),
        StatusCode::NO_CONTENT,
        move |number| {
            let request = Request::post(PATH).header("content-type", "application/json");
            Ok(request.body(Full::new(bodies.request(run, number)))?)
        },
    )
    .await
}

async fn wait_until_idle(pid: u32) -> Result<(), Error> {
    let deadline = Instant::now() + IDLE_WITHIN;
    while Instant::now() < deadline {
        let before = cpu_time(pid)?;
        tokio::time::sleep(IDLE_STEP).await;
        let used = cpu_time(pid)?.saturating_sub(before);
        if used.as_secs_f64() < IDLE_CORES * IDLE_STEP.as_secs_f64() {
            return Ok(());
        }
    }
    Err("the standalone process does not come to rest after a round".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_baseline_with_a_group_sync() {
        let cpu = [1.0, 2.0, 10.0, 15.0, 25.0];
        let variants = cpu.map(|cpu_us_per_request| VariantReport {
            name: "x",
            cpu_us_per_request,
            requests_per_second: 1.0,
        });
        let report = conclude(variants.into_iter().collect());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["ratio"], &json["standalone"]["ratio"]),
            (&1.5.into(), &2.5.into())
        );
        assert!(report.is_met());
        assert_eq!(
            (&json["limit"], &json["value"]),
            (&2.0.into(), &15.0.into())
        );
    }
}
