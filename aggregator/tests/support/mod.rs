//! A log, a store and an aggregator between them, as a deployment has them.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests, each used by some"
)]

pub mod group;
pub mod history;
pub mod oracle;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use clickhouse::Client;
use sluice_aggregator::batch::BatchLimits;
use sluice_aggregator::config::ClickHouseConfig;
use sluice_aggregator::migrate;
use sluice_aggregator::progress::Progress;
use sluice_aggregator::{Aggregator, AggregatorError, Parts};
use sluice_engines::ClickHouse;
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_eventlog::{EventLog, Record};
use sluice_schema::frame::{ContentKind, FrameBuilder, ProjectRef, Request};
use sluice_schema::id::{FrameId, ProjectId};
use sluice_schema::wire::{Scratch, health};
use sluice_service::config::Secret;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const PROJECT: ProjectId = ProjectId(7);
const PATIENCE: Duration = Duration::from_mins(1);

pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_micros() as i64
}

/// The bodies that real SDKs sent.
pub fn recorded_bodies() -> Vec<Vec<u8>> {
    let file = include_str!("../../../schema/fixtures/sdk-health-bodies.jsonl");
    file.lines().map(|line| line.as_bytes().to_vec()).collect()
}

/// Events of a body that are kept.
pub fn kept(body: &[u8]) -> u32 {
    health::decode(body, &mut Scratch::default()).map_or(0, |batch| batch.kept())
}

/// A body with one launch of `device`.
pub fn launch(device: &str) -> Vec<u8> {
    let body = serde_json::json!({
        "projectSlug": "my-app", "deviceId": device, "platform": "ios", "runtimeVersion": "1",
        "events": [{"type": "app_launch", "flagStates": {"on": true}}],
    });
    body.to_string().into_bytes()
}

/// A frame of health bodies of one project, received now.
pub fn frame(id: FrameId, bodies: &[Vec<u8>]) -> Bytes {
    frame_of(id, &ProjectRef::Id(PROJECT), now_us(), bodies)
}

/// A frame of health bodies.
pub fn frame_of(id: FrameId, project: &ProjectRef<'_>, at_us: i64, bodies: &[Vec<u8>]) -> Bytes {
    let mut builder = FrameBuilder::new();
    for body in bodies {
        let request = Request {
            project: project.clone(),
            received_at_us: at_us,
            kind: ContentKind::Health,
            payload: body,
        };
        builder.push(&request, kept(body));
    }
    builder.finish(id)
}

/// Makes a record durable; returns its offset.
pub fn append(log: &EmbeddedLog, bytes: Bytes) -> u64 {
    let (done, appended) = std::sync::mpsc::channel();
    let record = Record {
        id: FrameId::new(),
        partition: 0,
        bytes,
    };
    log.append(record, Box::new(move |result| done.send(result).unwrap()));
    appended.recv().unwrap().unwrap().offset
}

/// A database with the tables of this release.
pub async fn migrated(server: &ClickHouse) -> Client {
    let config = ClickHouseConfig {
        url: server.url(),
        user: server.user().to_owned(),
        password: Some(Secret::new(server.password())),
        database: "sluice".to_owned(),
    };
    migrate::run(&config).await.unwrap();
    config.client()
}

pub fn server(dir: &Path) -> ClickHouse {
    ClickHouse::start(dir).unwrap()
}

/// Logs in a directory, which can be closed and opened again.
pub struct Logs {
    pub health: Arc<EmbeddedLog>,
    pub dead: Arc<EmbeddedLog>,
}

pub fn open_logs(dir: &TempDir) -> Logs {
    let open = |name: &str| EmbeddedLog::open(&dir.path().join(name), EmbeddedConfig::default());
    Logs {
        health: Arc::new(open("health").unwrap()),
        dead: Arc::new(open("dead-letter").unwrap()),
    }
}

/// An aggregator that runs.
pub struct Running {
    pub progress: watch::Receiver<Progress>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AggregatorError>>,
}

pub fn start(logs: &Logs, client: &Client, projects: &[(&str, i64)]) -> Running {
    start_with(logs, client, projects, BatchLimits::default())
}

pub fn start_with(
    logs: &Logs,
    client: &Client,
    projects: &[(&str, i64)],
    limits: BatchLimits,
) -> Running {
    let projects: HashMap<String, ProjectId> = projects
        .iter()
        .map(|(slug, id)| ((*slug).to_owned(), ProjectId(*id)))
        .collect();
    let aggregator = Aggregator::new(Parts {
        log: logs.health.clone(),
        dead_letters: logs.dead.clone(),
        clickhouse: client.clone(),
        projects: Arc::new(projects),
        limits,
    });
    Running::of(aggregator, CancellationToken::new())
}

impl Running {
    pub fn of(aggregator: Aggregator, stop: CancellationToken) -> Self {
        let progress = aggregator.progress();
        let task = tokio::spawn(aggregator.run(stop.clone()));
        Self {
            progress,
            stop,
            task,
        }
    }

    /// Waits until everything that is in the log now is stored.
    pub async fn caught_up(&mut self) {
        let now_us = now_us();
        let wait = self.progress.wait_for(|p| p.caught_up_us > now_us);
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("caught up in time")
            .unwrap();
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub async fn number(client: &Client, sql: &str) -> u64 {
    client.query(sql).fetch_one::<u64>().await.unwrap()
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
