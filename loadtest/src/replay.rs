//! `run` and `verify`: load against a Sluice that somebody else started.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::bodies::{Bodies, Run};
use crate::cli::{print_json, say};
use crate::ledger::{self, Ledger};
use crate::load::{self, Plan};
use crate::standalone::Credentials;
use crate::verify::{ClickHouse, Verdict};
use crate::{Error, drill};

/// Which Sluice: a standalone's data directory, or addresses.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// Data directory of a standalone: says everything else.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "clickhouse_url"])]
    data_dir: Option<PathBuf>,
    /// Base address of the API.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Slug of the project.
    #[arg(long, default_value = crate::PROJECT)]
    project: String,
    /// ClickHouse's HTTP interface.
    #[arg(
        long,
        env = "SLUICE_CLICKHOUSE_URL",
        default_value = "http://127.0.0.1:8123"
    )]
    clickhouse_url: String,
    /// ClickHouse's database.
    #[arg(long, env = "SLUICE_CLICKHOUSE_DATABASE", default_value = "sluice")]
    clickhouse_database: String,
    /// ClickHouse's user.
    #[arg(long, env = "SLUICE_CLICKHOUSE_USER", default_value = "sluice")]
    clickhouse_user: String,
    /// ClickHouse's password: better in the environment.
    #[arg(
        long,
        env = "SLUICE_CLICKHOUSE_PASSWORD",
        default_value = "",
        hide_env_values = true
    )]
    clickhouse_password: String,
}

/// How to replay.
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    #[command(flatten)]
    target: Target,
    /// Requests per second, open loop.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Devices; each sends one of the recorded bodies.
    #[arg(long, default_value_t = 60_000)]
    devices: u64,
    /// Go on for so long instead, however many devices that takes.
    #[arg(long, conflicts_with = "devices")]
    seconds: Option<f64>,
    /// File that gets a line for every 204; appended to if it is there.
    #[arg(long, default_value = "sluice-loadtest.ledger")]
    ledger: PathBuf,
    /// Makes the device ids repeatable; two runs against one Sluice need two seeds.
    #[arg(long)]
    seed: Option<u32>,
    /// End with one JSON object.
    #[arg(long)]
    json: bool,
}

impl RunOptions {
    fn requests(&self) -> u64 {
        self.seconds
            .map_or(self.devices, |seconds| (seconds * self.rate) as u64)
    }
}

/// What to verify.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyOptions {
    #[command(flatten)]
    target: Target,
    /// The ledger of earlier runs.
    #[arg(long, default_value = "sluice-loadtest.ledger")]
    ledger: PathBuf,
    /// End with one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct RunReport {
    #[serde(flatten)]
    verdict: Verdict,
    sent: u64,
    unanswered: u64,
    refused: u64,
    saturated: bool,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

struct Resolved {
    url: String,
    project: String,
    clickhouse: ClickHouse,
}

impl Target {
    fn resolve(&self) -> Result<Resolved, Error> {
        if let Some(dir) = &self.data_dir {
            let Credentials {
                base_url,
                project_slug,
                clickhouse,
                ..
            } = Credentials::read(dir)?;
            return Ok(Resolved {
                url: base_url,
                project: project_slug,
                clickhouse,
            });
        }
        let clickhouse = ClickHouse {
            url: self.clickhouse_url.clone(),
            database: self.clickhouse_database.clone(),
            user: self.clickhouse_user.clone(),
            password: self.clickhouse_password.clone(),
        };
        Ok(Resolved {
            url: self.url.clone(),
            project: self.project.clone(),
            clickhouse,
        })
    }
}

/// Replays, waits until all is stored, and compares; whether all is well.
pub async fn run(options: &RunOptions) -> Result<bool, Error> {
    let Resolved {
        url,
        project,
        clickhouse,
    } = options.target.resolve()?;
    let run = Run(options.seed.unwrap_or_else(rand::random));
    let plan = Plan {
        base_url: url,
        run,
        rate: options.rate,
        requests: options.requests(),
    };
    let ledger = Ledger::begin(&options.ledger, run, &project)?;
    say(&format!(
        "{} requests at {}/s to {}",
        plan.requests, plan.rate, plan.base_url
    ));
    let outcome = load::run(
        &plan,
        Bodies::recorded(&project),
        ledger,
        &AtomicBool::new(false),
    )
    .await?;
    println!("{}", outcome.summary());
    let verdict = compare(&clickhouse, &options.ledger).await?;
    let at = |quantile| outcome.latency_us.value_at_quantile(quantile);
    let report = RunReport {
        verdict,
        sent: outcome.sent,
        unanswered: outcome.unanswered,
        refused: outcome.refused.values().sum(),
        saturated: outcome.saturated,
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: outcome.latency_us.max(),
    };
    print_json(options.json, &report)?;
    Ok(verdict.is_clean() && !outcome.saturated)
}

/// Compares a ledger with what is stored; whether all is well.
pub async fn verify(options: &VerifyOptions) -> Result<bool, Error> {
    let clickhouse = options.target.resolve()?.clickhouse;
    let verdict = compare(&clickhouse, &options.ledger).await?;
    print_json(options.json, &verdict)?;
    Ok(verdict.is_clean())
}

async fn compare(clickhouse: &ClickHouse, path: &Path) -> Result<Verdict, Error> {
    let verdict = drill::wait_until_settled(clickhouse, &ledger::read(path)?, || Ok(())).await?;
    println!("{verdict}");
    Ok(verdict)
}
