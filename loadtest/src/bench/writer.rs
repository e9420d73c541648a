//! The aggregator's rows per second into a real ClickHouse, beside those of a
//! plain insert of the same rows.
//!
//! Both get the same recorded bodies, each of a device of its own, in batches
//! of [`BATCH_ROWS`]. The aggregator reads them as frames from an embedded log,
//! decodes them, builds its blocks, inserts them and commits its positions. The
//! plain variant sends blocks that were prepared before, one after the other.
//! Both write to the same table with the same views, under tokens of their own,
//! and take turns. The first round warms up and is not counted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clickhouse::Client;
use serde::Serialize;
use sluice_aggregator::batch::{BatchId, BatchLimits};
use sluice_aggregator::flag_maps::FlagMaps;
use sluice_aggregator::places::Origin;
use sluice_aggregator::rows::HealthRows;
use sluice_aggregator::{Aggregator, Parts, migrate};
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_eventlog::{EventLog, Record};
use sluice_schema::frame::{ContentKind, Frame, FrameBuilder, FrameSize, ProjectRef, Request};
use sluice_schema::id::{FrameId, ProjectId};
use sluice_schema::wire::{Scratch, health};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use super::Measured;
use crate::bodies::{Bodies, Run};
use crate::report::{median, table};
use crate::{Error, PROJECT, workspace};

const BATCH_ROWS: usize = 100_000;
/// The aggregator must reach this share of the plain insert.
const LIMIT: f64 = 0.5;
const UNIT: &str = "rows per second";
const ID: ProjectId = ProjectId(1);
/// Longer than a round: batches close because they are full.
const NEVER: std::time::Duration = std::time::Duration::from_hours(1);

/// How to measure.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Rounds that count; one more warms up.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Batches that each variant inserts in a round.
    #[arg(long, default_value_t = 5)]
    pub batches: usize,
}

/// The outcome, as it is printed with `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    aggregator: Measured,
    variants: Vec<VariantReport>,
}

#[derive(Debug, Serialize)]
struct VariantReport {
    name: &'static str,
    rows_per_second: f64,
}

/// What is inserted.
struct Prepared {
    frames: Vec<Bytes>,
    /// Rows and Native block of each batch.
    blocks: Vec<(usize, Bytes)>,
}

/// Measures on engines of its own; `say` gets a line for people now and then.
pub async fn run(options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let dir = workspace::directory()?;
    say("starting ClickHouse, preparing frames and blocks");
    let engine =
        block_in_place(|| sluice_engines::ClickHouse::start(&dir.path().join("clickhouse")))?;
    let client = Client::default()
        .with_url(engine.url())
        .with_user(engine.user())
        .with_password(engine.password());
    let measured = measure(options, &client, dir.path(), say).await;
    block_in_place(|| engine.stop());
    workspace::remove(dir)?;
    measured
}

async fn measure(
    options: Options,
    client: &Client,
    dir: &Path,
    say: impl Fn(&str),
) -> Result<Report, Error> {
    client.query("CREATE DATABASE sluice").execute().await?;
    let client = client.clone().with_database("sluice");
    migrate::run_in(&client).await?;
    let prepared = block_in_place(|| prepare(options.batches))?;
    let (mut aggregator, mut plain) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        say(&format!("round {round} of {}", options.rounds));
        let log = dir.join(format!("log-{round}"));
        aggregator.push(aggregate(&client, &prepared, &log, options.batches).await?);
        plain.push(insert(&client, &prepared, round).await?);
    }
    Ok(conclude(median(&aggregator[1..]), median(&plain[1..])))
}

fn conclude(aggregator: f64, plain: f64) -> Report {
    let variant = |name, rows_per_second| VariantReport {
        name,
        rows_per_second,
    };
    Report {
        aggregator: Measured {
            what: "aggregator to the plain insert (at least)",
            ratio: aggregator / plain,
            limit: LIMIT,
            value: aggregator,
            unit: UNIT,
        },
        variants: vec![
            variant("aggregator, embedded log", aggregator),
            variant("plain insert of prepared blocks", plain),
        ],
    }
}

impl Report {
    /// Whether the bar is met.
    pub fn is_met(&self) -> bool {
        self.aggregator.ratio >= self.aggregator.limit
    }

    /// For people.
    pub fn table(&self) -> String {
        let row = |v: &VariantReport| vec![v.name.to_owned(), format!("{:.0}", v.rows_per_second)];
        let rows: Vec<_> = self.variants.iter().map(row).collect();
        let Measured {
            what, ratio, limit, ..
        } = self.aggregator;
        table(&["variant", UNIT], &rows) + &format!("{what}: {ratio:.2}, bar {limit:.1}\n")
    }
}

/// Frames for `batches` full batches and some more, and the blocks of those batches.
fn prepare(batches: usize) -> Result<Prepared, Error> {
    let bodies = Bodies::recorded(PROJECT);
    let mut maker = FrameMaker::default();
    let mut frames = Vec::new();
    let mut events = 0;
    // One batch for the first insert, which is smaller, and one that stays open.
    let wanted = (batches + 2) * BATCH_ROWS;
    for number in 0.. {
        if events >= wanted {
            break;
        }
        let body = bodies.request(Run(0), number);
        frames.extend(maker.add(&body, bodies.events(number)));
        events += bodies.events(number) as usize;
    }
    let blocks = blocks(&frames, batches)?;
    Ok(Prepared { frames, blocks })
}

/// Cuts frames as the committer does.
#[derive(Default)]
struct FrameMaker {
    builder: FrameBuilder,
    size: FrameSize,
}

impl FrameMaker {
    /// Adds a body; returns the frame that it did not fit into any more.
    fn add(&mut self, body: &[u8], events: u32) -> Option<Bytes> {
        let full = !self.size.add(body.len(), events);
        let frame = full.then(|| self.builder.finish(FrameId::new()));
        if full {
            self.size = FrameSize::default();
            self.size.add(body.len(), events);
        }
        let request = Request {
            project: ProjectRef::Id(ID),
            received_at_us: now_us(),
            kind: ContentKind::Health,
            payload: body,
        };
        self.builder.push(&request, events);
        frame
    }
}

fn blocks(frames: &[Bytes], batches: usize) -> Result<Vec<(usize, Bytes)>, Error> {
    let (mut rows, mut flags) = (HealthRows::default(), FlagMaps::default());
    let mut scratch = Scratch::default();
    let (mut blocks, mut first) = (Vec::new(), 0);
    for (offset, bytes) in (0_u64..).zip(frames) {
        let frame = Frame::decode(bytes)?;
        if rows.len() + frame.header.events as usize > BATCH_ROWS {
            blocks.push((
                rows.len(),
                rows.encode(&batch_id("prepared", first, offset - 1)),
            ));
            rows.clear();
            first = offset;
        }
        if blocks.len() == batches {
            break;
        }
        let mut index = 0;
        for request in frame.requests()? {
            let batch = health::decode(request.payload, &mut scratch)?;
            let origin = Origin {
                frame: frame.header.id,
                offset,
                first_index: index,
                project: ID,
                received_at_us: request.received_at_us,
            };
            index += batch.kept() as u16;
            rows.push(&origin, &batch, &mut flags);
        }
    }
    Ok(blocks)
}

fn batch_id(source: &str, first: u64, last: u64) -> BatchId {
    BatchId {
        source: source.into(),
        partition: 0,
        first,
        last,
    }
}

/// Rows per second from the first insert, which holds what there was when the
/// aggregator began, to the last of `batches` full ones.
async fn aggregate(
    client: &Client,
    prepared: &Prepared,
    dir: &Path,
    batches: usize,
) -> Result<f64, Error> {
    let open = |name| EmbeddedLog::open(&dir.join(name), EmbeddedConfig::default()).map(Arc::new);
    let log = open("health")?;
    block_in_place(|| fill(&log, &prepared.frames))?;
    let aggregator = Aggregator::new(Parts {
        log,
        dead_letters: open("dead-letter")?,
        clickhouse: client.clone(),
        projects: Arc::new(HashMap::new()),
        limits: BatchLimits {
            max_rows: BATCH_ROWS,
            max_bytes: usize::MAX,
            interval: NEVER,
        },
    });
    let mut progress = aggregator.progress();
    let stop = CancellationToken::new();
    let running = tokio::spawn(aggregator.run(stop.clone()));
    let before = progress.wait_for(|p| p.inserts >= 1).await?.to_owned();
    let started = Instant::now();
    let wanted = before.inserts + batches as u64;
    let after = progress.wait_for(|p| p.inserts >= wanted).await?.to_owned();
    let took = started.elapsed();
    stop.cancel();
    running.await??;
    std::fs::remove_dir_all(dir)?;
    Ok((after.rows - before.rows) as f64 / took.as_secs_f64())
}

fn fill(log: &EmbeddedLog, frames: &[Bytes]) -> Result<(), Error> {
    for frame in frames {
        let (done, appended) = mpsc::channel();
        let record = Record {
            id: FrameId::new(),
            partition: 0,
            bytes: frame.clone(),
        };
        // Nobody but us waits for it.
        log.append(record, Box::new(move |fate| drop(done.send(fate))));
        appended.recv()??;
    }
    Ok(())
}

/// Rows per second of the prepared blocks, one insert at a time.
async fn insert(client: &Client, prepared: &Prepared, round: usize) -> Result<f64, Error> {
    let started = Instant::now();
    for (number, (_, block)) in prepared.blocks.iter().enumerate() {
        let token = format!("plain:{round}:{number}");
        let mut insert = client
            .insert_formatted_with("INSERT INTO health_events FORMAT Native")
            .with_setting("insert_deduplication_token", token)
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            .with_setting("async_insert", "0");
        insert.send(block.clone()).await?;
        insert.end().await?;
    }
    let rows: usize = prepared.blocks.iter().map(|(rows, _)| rows).sum();
    Ok(rows as f64 / started.elapsed().as_secs_f64())
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_full_batches_of_the_frames() {
        let prepared = prepare(1).unwrap();
        let [(rows, block)] = &prepared.blocks[..] else {
            panic!("one batch was asked for");
        };
        assert!((BATCH_ROWS - 2_000..=BATCH_ROWS).contains(rows), "{rows}");
        assert!(block.len() > 10 * 1024 * 1024);
        let headers = prepared
            .frames
            .iter()
            .map(|frame| Frame::decode(frame).unwrap().header);
        let events: u32 = headers.map(|header| header.events).sum();
        let inserts = 2 * BATCH_ROWS;
        assert!(
            events as usize > inserts,
            "the first, the batch, and what closes it"
        );
    }

    #[test]
    fn the_ratio_is_the_aggregator_s_share() {
        let json = serde_json::to_value(conclude(60.0, 80.0)).unwrap();
        assert_eq!(
            (&json["ratio"], &json["limit"]),
            (&0.75.into(), &0.5.into())
        );
        assert_eq!(json["variants"][1]["rows_per_second"], 80.0);
    }
}
