//! Flag evaluations from their log to counts and contexts, over kills and replays.

#![allow(clippy::unwrap_used, reason = "helpers of a test")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clickhouse::Client;
use serde_json::{Value, json};
use sluice_aggregator::batch::BatchLimits;
use sluice_aggregator::{Aggregator, Parts};
use sluice_eventlog::embedded::{EmbeddedConfig, EmbeddedLog};
use sluice_schema::frame::{ContentKind, FrameBuilder, ProjectRef, Request, mark_replay};
use sluice_schema::id::{FrameId, ProjectId};
use sluice_schema::wire::{Scratch, evaluations};
use sqlx::PgPool;
use support::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Every frame its own batch, so that a new cut would differ.
const SMALL: BatchLimits = BatchLimits {
    max_rows: 1,
    max_bytes: 1,
    interval: std::time::Duration::ZERO,
};
/// And one that cuts elsewhere.
const PAIRS: BatchLimits = BatchLimits {
    max_rows: 8,
    max_bytes: 1 << 20,
    interval: std::time::Duration::ZERO,
};
const RAW: &str = "SELECT toUInt64(sum(count)) FROM flag_evaluations";
const COUNTED: &str = "SELECT toUInt64(sum(n)) FROM evaluation_hours";

/// A device's report of three evaluations, for `user`.
fn evaluated(user: &str, value: &Value) -> Vec<u8> {
    let body = json!({
        "evaluations": [
            {"flagKey": "cart", "variationValue": value, "count": 2, "channel": "beta"},
            {"flagKey": "gone", "variationValue": 1},
        ],
        "context": {"targetingKey": user, "attributes": {"plan": "pro"}},
    });
    body.to_string().into_bytes()
}

fn frame_of_reports(id: FrameId, project: &ProjectRef<'_>, bodies: &[Vec<u8>]) -> Bytes {
    let mut builder = FrameBuilder::new();
    for body in bodies {
        let request = Request {
            project: project.clone(),
            received_at_us: now_us(),
            kind: ContentKind::Evaluations,
            payload: body,
        };
        let kept = evaluations::decode(body, &mut Scratch::default()).map_or(0, |b| b.kept());
        builder.push(&request, kept);
    }
    builder.finish(id)
}

/// The stores, and a directory of logs.
struct World {
    dir: TempDir,
    client: Client,
    pool: PgPool,
    project: ProjectId,
}

/// A log that can be closed and opened again.
struct Open {
    evaluations: Arc<EmbeddedLog>,
    dead: Arc<EmbeddedLog>,
}

impl World {
    async fn new(client: Client) -> Self {
        let pool = PgPool::connect(&sluice_engines::testing::postgres())
            .await
            .unwrap();
        sluice_schema::postgres::MIGRATOR.run(&pool).await.unwrap();
        let setup = "with p as (insert into projects (name, slug) values ('P', 'my-app') returning id), \
             f as (insert into flags (project_id, key, name, flag_type, default_value) \
                   select id, 'cart', 'Cart', 'boolean', 'false' from p) select id from p";
        let id = sqlx::query_scalar(setup).fetch_one(&pool).await.unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            client,
            pool,
            project: ProjectId(id),
        }
    }

    fn open(&self) -> Open {
        let open = |name: &str| {
            EmbeddedLog::open(&self.dir.path().join(name), EmbeddedConfig::default()).unwrap()
        };
        Open {
            evaluations: Arc::new(open("evaluations")),
            dead: Arc::new(open("dead")),
        }
    }

    fn append(&self, logs: &Open, users: &[&str]) -> Bytes {
        let bodies: Vec<_> = users
            .iter()
            .map(|user| evaluated(user, &json!(true)))
            .collect();
        let project = ProjectRef::Id(self.project);
        let bytes = frame_of_reports(FrameId::new(), &project, &bodies);
        append(&logs.evaluations, bytes.clone());
        bytes
    }

    fn start(&self, logs: &Open, limits: BatchLimits) -> Running {
        let parts = Parts {
            log: logs.evaluations.clone(),
            dead_letters: logs.dead.clone(),
            clickhouse: self.client.clone(),
            projects: Arc::new(self.pool.clone()),
            limits,
        };
        let aggregator = Aggregator::evaluations(parts, self.pool.clone());
        Running::of(aggregator, CancellationToken::new())
    }

    fn position(&self) -> PathBuf {
        let name = "evaluations/positions/aggregator-evaluations.position";
        self.dir.path().join(name)
    }

    /// Raw, counted by hours, and in contexts: (all, of the flag that is known).
    async fn counts(&self) -> (u64, u64, i64, i64) {
        let contexts = "select coalesce(sum(evaluation_count), 0)::bigint from contexts";
        let flags = "select coalesce(sum(evaluation_count), 0)::bigint from context_evaluations";
        (
            number(&self.client, RAW).await,
            number(&self.client, COUNTED).await,
            sqlx::query_scalar(contexts)
                .fetch_one(&self.pool)
                .await
                .unwrap(),
            sqlx::query_scalar(flags)
                .fetch_one(&self.pool)
                .await
                .unwrap(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_become_counts_and_contexts() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let world = World::new(migrated(&server).await).await;
    let logs = world.open();
    let frame = world.append(&logs, &["ada", "ada", "bob"]);
    append(&logs.evaluations, mark_replay(&frame).unwrap());
    let slug = ProjectRef::Slug("my-app");
    let by_slug = frame_of_reports(FrameId::new(), &slug, &[evaluated("ada", &json!("x"))]);
    append(&logs.evaluations, by_slug);
    append(&logs.evaluations, Bytes::from_static(b"no frame"));
    let mut running = world.start(&logs, BatchLimits::default());
    running.caught_up().await;
    running.stop().await;
    assert_eq!(world.counts().await, (12, 12, 8, 8));

    let rows = "SELECT toString(flag_key), toString(value), toString(channel), toString(source), sum(n) \
         FROM evaluation_hours GROUP BY ALL ORDER BY ALL";
    let rows: Vec<(String, String, String, String, u64)> =
        world.client.query(rows).fetch_all().await.unwrap();
    let row = |flag: &str, value: &str, channel: &str, n| {
        (
            flag.into(),
            value.into(),
            channel.into(),
            "sdk".to_owned(),
            n,
        )
    };
    let expected = [
        row("cart", "\"x\"", "beta", 2),
        row("cart", "true", "beta", 6),
        row("gone", "1", "", 4),
    ];
    assert_eq!(rows, expected);
    let contexts: Vec<(String, String, Value, i64)> = sqlx::query_as(
        "select kind, targeting_key, attributes, evaluation_count from contexts order by 2",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let context = |key: &str, n| ("user".to_owned(), key.to_owned(), json!({"plan": "pro"}), n);
    assert_eq!(contexts, [context("ada", 6), context("bob", 2)]);
}

/// What a context got last is shown as it was, not as it is counted.
#[tokio::test(flavor = "multi_thread")]
async fn the_latest_value_of_a_context_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let world = World::new(migrated(&server).await).await;
    let logs = world.open();
    let value = json!({"layout": "x".repeat(3_000), "retries": 3});
    let report = evaluated("ada", &value);
    let project = ProjectRef::Id(world.project);
    append(
        &logs.evaluations,
        frame_of_reports(FrameId::new(), &project, &[report]),
    );
    let mut running = world.start(&logs, BatchLimits::default());
    running.caught_up().await;
    running.stop().await;
    let select = sqlx::query_scalar("select variation_value from context_evaluations");
    let latest: Value = select.fetch_one(&world.pool).await.unwrap();
    assert_eq!(latest, value);
    let counted = "SELECT count() FROM evaluation_hours WHERE startsWith(value, '\"sha256:')";
    assert_eq!(number(&world.client, counted).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_stored_but_not_committed_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let world = World::new(migrated(&server).await).await;
    let logs = world.open();
    for user in ["a", "b", "c"] {
        world.append(&logs, &[user]);
    }
    let mut running = world.start(&logs, BatchLimits::default());
    running.caught_up().await;
    running.stop().await;
    // The crash: the position of the batch was never written.
    std::fs::write(world.position(), "0\n").unwrap();
    drop(logs);
    let logs = world.open();
    world.append(&logs, &["d"]);
    let mut running = world.start(&logs, SMALL);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(world.counts().await, (12, 12, 8, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_contexts_were_not_stored_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let world = World::new(migrated(&server).await).await;
    let logs = world.open();
    world.append(&logs, &["a"]);
    world.append(&logs, &["b"]);
    let away = "alter table context_positions rename to away";
    sqlx::query(away).execute(&world.pool).await.unwrap();
    let running = world.start(&logs, BatchLimits::default());
    eventually("rows are stored, and what views make of them", async || {
        world.counts().await == (6, 6, 0, 0)
    })
    .await;
    running.stop().await;
    assert_eq!(world.counts().await, (6, 6, 0, 0));

    let back = "alter table away rename to context_positions";
    sqlx::query(back).execute(&world.pool).await.unwrap();
    drop(logs);
    let logs = world.open();
    let mut running = world.start(&logs, SMALL);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(world.counts().await, (6, 6, 4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_counted_twice_over_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = server(dir.path());
    let world = World::new(migrated(&engine).await).await;
    let logs = world.open();
    let mut running = world.start(&logs, SMALL);
    let mut reports = 0;
    for round in 0..4_u32 {
        let seen = running.progress.borrow().inserts;
        for _ in 0..40 {
            world.append(&logs, &["ada", "bob"]);
            reports += 2;
        }
        let mut progress = running.progress.clone();
        let some = u64::from(5 + 3 * round);
        progress
            .wait_for(|p| p.inserts >= seen + some)
            .await
            .unwrap();
        engine.kill();
        if round % 2 == 1 {
            // Another aggregator takes over while there is no store.
            running.stop().await;
            running = world.start(&logs, PAIRS);
        }
        engine = server(dir.path());
    }
    running.caught_up().await;
    running.stop().await;
    let (all, known) = (3 * reports, 2 * reports as i64);
    assert_eq!(world.counts().await, (all, all, known, known));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_with_a_value_for_every_device_stays_small_and_its_total_right() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let world = World::new(migrated(&server).await).await;
    let logs = world.open();
    let report = |logs: &Open, values: std::ops::Range<usize>| {
        let one = |n: usize| json!({"flagKey": "cart", "variationValue": format!("user-{n}")});
        let body = json!({"evaluations": values.map(one).collect::<Vec<_>>()});
        let bodies = [body.to_string().into_bytes()];
        let project = ProjectRef::Id(world.project);
        let frame = frame_of_reports(FrameId::new(), &project, &bodies);
        append(&logs.evaluations, frame);
    };
    report(&logs, 0..200);
    report(&logs, 100..400);
    let mut running = world.start(&logs, BatchLimits::default());
    running.caught_up().await;
    running.stop().await;
    // The crash: it is built again, by a process that has to learn what is there.
    std::fs::write(world.position(), "0\n").unwrap();
    drop(logs);
    let logs = world.open();
    report(&logs, 0..1_000);
    let mut running = world.start(&logs, SMALL);
    running.caught_up().await;
    running.stop().await;
    assert_eq!(world.counts().await, (1_500, 1_500, 0, 0));

    // Whole hours, of which the test may see the end of one.
    let most = "SELECT toUInt64(max(n)) FROM (SELECT hour, uniqExact(value) AS n \
                FROM evaluation_hours GROUP BY hour)";
    assert_eq!(number(&world.client, most).await, 251, "250 and the others");
    let others = "SELECT toUInt64(sum(n)) FROM evaluation_hours \
                  WHERE flag_key = 'cart' AND value = '\"__other__\"'";
    assert!(number(&world.client, others).await >= 500);
}
