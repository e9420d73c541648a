//! The commands.

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::{Error, bench, drill, replay, serve};

/// Load generator, ledger verifier, fault drill and benchmarks of Sluice.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replay the recorded bodies at a fixed rate, then hold what is stored against every 204.
    Run(replay::RunOptions),
    /// Hold what is stored against the ledger of an earlier run.
    Verify(replay::VerifyOptions),
    /// Measure something beside its limit.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Kill processes under load, then hold what is stored against every 204.
    Drill {
        #[command(subcommand)]
        what: Drill,
    },
    /// Serve one variant of a benchmark (used by some).
    #[command(hide = true)]
    Serve(serve::Options),
}

#[derive(Subcommand)]
enum Bench {
    /// The aggregator's rows per second beside a plain insert of the same rows.
    Writer {
        #[command(flatten)]
        options: bench::writer::Options,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// What dashboards wait for, over the facts of a hundred million events.
    Reads {
        #[command(flatten)]
        options: bench::reads::Options,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The edge's CPU per request, and the whole standalone process's.
    Edge {
        #[command(flatten)]
        options: bench::rounds::Options,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The API's CPU per request for devices that ask for flags.
    Flags {
        #[command(flatten)]
        options: bench::rounds::Options,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Thousands of open flag streams on one API process, and a change at all of them.
    Streams {
        #[command(flatten)]
        options: bench::streams::Options,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum Drill {
    /// The services over three Kafka brokers: each of them, a broker, ClickHouse.
    Services {
        #[command(flatten)]
        options: drill::Options,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The standalone process and its ClickHouse.
    Standalone {
        #[command(flatten)]
        options: drill::Options,
        /// End with one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Does what was asked; whether what was checked holds.
pub async fn execute(arguments: Arguments) -> Result<bool, Error> {
    match arguments.command {
        Command::Run(options) => replay::run(&options).await,
        Command::Verify(options) => replay::verify(&options).await,
        Command::Bench {
            what: Bench::Edge { options, json },
        } => {
            let report = bench::edge::run(options, say).await?;
            println!("{}", report.table());
            print_json(json, &report)?;
            Ok(report.is_met())
        }
        Command::Bench {
            what: Bench::Writer { options, json },
        } => {
            let report = bench::writer::run(options, say).await?;
            println!("{}", report.table());
            print_json(json, &report)?;
            Ok(report.is_met())
        }
        Command::Bench {
            what: Bench::Reads { options, json },
        } => {
            let report = bench::reads::run(options, say).await?;
            println!("{}", report.table());
            print_json(json, &report)?;
            Ok(report.passed)
        }
        Command::Bench {
            what: Bench::Flags { options, json },
        } => {
            let report = bench::flags::run(options, say).await?;
            println!("{}", report.table());
            print_json(json, &report)?;
            Ok(report.is_met())
        }
        Command::Bench {
            what: Bench::Streams { options, json },
        } => {
            let report = bench::streams::run(options, say).await?;
            println!("{}", report.table());
            print_json(json, &report)?;
            Ok(report.is_met())
        }
        Command::Drill {
            what: Drill::Services { options, json },
        } => conclude_drill(json, &drill::services::drill(options, say).await?),
        Command::Drill {
            what: Drill::Standalone { options, json },
        } => conclude_drill(json, &drill::standalone::drill(options, say).await?),
        Command::Serve(options) => serve::serve(options).await,
    }
}

/// Progress, for people: not on standard output, whose last line may be JSON.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

fn conclude_drill(json: bool, report: &drill::Report) -> Result<bool, Error> {
    println!("{} kills; {}", report.kills, report.verdict);
    print_json(json, report)?;
    Ok(report.verdict.is_clean())
}

pub(crate) fn print_json(wanted: bool, value: &impl Serialize) -> Result<bool, Error> {
    if wanted {
        println!("{}", serde_json::to_string(value)?);
    }
    Ok(true)
}
