//! Contexts against a model that counts each report once, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use super::super::reports::{Entry, Subject};
use super::*;

const FLAGS: [&str; 2] = ["known", "other"];
const BASE_US: i64 = 1_780_000_000_000_000;

/// What befalls the owner of the partition around one batch.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Nothing.
    Done,
    /// The acknowledgement is lost, and the batch is stored again.
    Unacknowledged,
    /// It dies before the log's position is committed: its successor begins
    /// with the same report, and cuts elsewhere.
    Uncommitted,
    /// One who lost the partition unawares stores the batch, too.
    Zombie,
}

#[derive(Clone, Debug)]
struct Cut {
    reports: usize,
    fate: Fate,
}

fn any_report() -> impl Strategy<Value = Report> {
    let entry = (
        prop_oneof![Just("known"), Just("other"), Just("unknown")],
        prop_oneof![Just(""), Just("beta")],
        0..4_u32,
        1..5_u32,
    );
    let entry = entry.prop_map(|(flag, channel, value, count)| Entry {
        flag_key: flag.to_owned(),
        channel: channel.to_owned(),
        value: value.to_string(),
        count,
    });
    let subject = (0..3_i32, prop_oneof![Just("user"), Just("robot")]);
    let name = proptest::option::of("[a-c]");
    let entries = proptest::collection::vec(entry, 0..4);
    (subject, name, 0..5_u8, 0..1_000_i64, entries).prop_map(
        |((key, kind), name, plan, at, entries)| Report {
            offset: 0,
            subject: Subject {
                project: 0,
                kind: kind.to_owned(),
                targeting_key: format!("key-{key}"),
            },
            name,
            attributes: format!("{{\"plan\": {plan}}}"),
            at_us: BASE_US + at * 1_000,
            entries,
        },
    )
}

fn any_history() -> impl Strategy<Value = (Vec<Report>, Vec<Cut>)> {
    let fate = prop_oneof![
        Just(Fate::Done),
        Just(Fate::Unacknowledged),
        Just(Fate::Uncommitted),
        Just(Fate::Zombie),
    ];
    let cut = (1..6_usize, fate).prop_map(|(reports, fate)| Cut { reports, fate });
    (
        proptest::collection::vec(any_report(), 1..20),
        proptest::collection::vec(cut, 30),
    )
}

/// A context as it ought to be, or is: name, attributes, first and last seen
/// in microseconds, count.
type Seen = (Option<String>, Value, i64, i64, i64);
/// By subject, flag and channel: value, count, last evaluated in microseconds.
type Flags = BTreeMap<(String, String, String, String), (Value, i64, i64)>;

type ContextRow = (
    String,
    String,
    Option<String>,
    Value,
    DateTime<Utc>,
    DateTime<Utc>,
    i64,
);
type FlagRow = (
    String,
    String,
    String,
    Option<String>,
    Value,
    i64,
    DateTime<Utc>,
);

#[derive(Debug, Default, PartialEq)]
struct World {
    contexts: BTreeMap<(String, String), Seen>,
    flags: Flags,
}

impl World {
    /// Each report once, in order (telemetry.md §3).
    fn expected(reports: &[Report]) -> Self {
        let mut world = Self::default();
        for report in reports {
            world.count(report);
        }
        world
    }

    fn count(&mut self, report: &Report) {
        let Subject {
            kind,
            targeting_key,
            ..
        } = &report.subject;
        let known = |entry: &&Entry| FLAGS.contains(&entry.flag_key.as_str());
        let context = self
            .contexts
            .entry((kind.clone(), targeting_key.clone()))
            .or_insert((None, Value::Null, report.at_us, report.at_us, 0));
        if report.name.is_some() {
            context.0.clone_from(&report.name);
        }
        context.1 = serde_json::from_str(&report.attributes).unwrap();
        context.2 = context.2.min(report.at_us);
        context.3 = context.3.max(report.at_us);
        for entry in report.entries.iter().filter(known) {
            context.4 += i64::from(entry.count);
            let (flag, channel) = (entry.flag_key.clone(), entry.channel.clone());
            let key = (kind.clone(), targeting_key.clone(), flag, channel);
            let flag = self.flags.entry(key).or_insert((Value::Null, 0, 0));
            flag.0 = serde_json::from_str(&entry.value).unwrap();
            flag.1 += i64::from(entry.count);
            flag.2 = flag.2.max(report.at_us);
        }
    }

    async fn stored(pool: &PgPool, project: i64) -> Self {
        let contexts: Vec<ContextRow> =
            sqlx::query_as(
                "select kind, targeting_key, name, attributes, first_seen_at, last_seen_at, evaluation_count
                 from contexts where project_id = $1",
            )
            .bind(project)
            .fetch_all(pool)
            .await
            .unwrap();
        let flags: Vec<FlagRow> = sqlx::query_as(
            "select c.kind, c.targeting_key, f.key, e.channel_name, e.variation_value,
                        e.evaluation_count, e.last_evaluated_at
                 from context_evaluations e join contexts c on c.id = e.context_id
                 join flags f on f.id = e.flag_id where c.project_id = $1",
        )
        .bind(project)
        .fetch_all(pool)
        .await
        .unwrap();
        let context = |(kind, key, name, attributes, first, last, n): ContextRow| {
            let (first, last) = (first.timestamp_micros(), last.timestamp_micros());
            ((kind, key), (name, attributes, first, last, n))
        };
        let flag = |(kind, key, flag, channel, value, n, at): FlagRow| {
            let slot = (kind, key, flag, channel.unwrap_or_default());
            (slot, (value, n, at.timestamp_micros()))
        };
        Self {
            contexts: contexts.into_iter().map(context).collect(),
            flags: flags.into_iter().map(flag).collect(),
        }
    }
}

async fn database() -> PgPool {
    let pool = PgPool::connect(&sluice_engines::testing::postgres())
        .await
        .unwrap();
    sluice_schema::postgres::MIGRATOR.run(&pool).await.unwrap();
    pool
}

/// A project with two flags.
async fn project(pool: &PgPool) -> i64 {
    let slug = format!("p-{}", uuid::Uuid::new_v4());
    let statement = "with p as (insert into projects (name, slug) values ('P', $1) returning id), \
         f as (insert into flags (project_id, key, name, flag_type, default_value) \
               select id, unnest($2::text[]), 'F', 'number', '0' from p) \
         select id from p";
    let id = sqlx::query_scalar(statement).bind(slug).bind(FLAGS);
    id.fetch_one(pool).await.unwrap()
}

fn batch(source: &Arc<str>, reports: &[Report]) -> BatchId {
    BatchId {
        source: Arc::clone(source),
        partition: 3,
        first: reports[0].offset,
        last: reports[reports.len() - 1].offset,
    }
}

/// As the sender does: again, until it is done.
async fn count(contexts: &Contexts, id: &BatchId, reports: &[Report]) {
    for _ in 0..3 {
        match contexts.count(id, reports, Duration::ZERO).await {
            Ok(()) => return,
            Err(ContextError::Moved) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the position moves for ever");
}

async fn live_through(pool: &PgPool, reports: &[Report], cuts: &[Cut]) {
    let source: Arc<str> = format!("evaluations@{}", uuid::Uuid::new_v4()).into();
    let mut owner = Contexts::new(pool.clone());
    let zombie = Contexts::new(pool.clone());
    let mut committed = 0;
    let mut cuts = cuts.iter().cycle();
    let mut deaths = 0;
    while committed < reports.len() {
        let Cut {
            reports: size,
            fate,
        } = *cuts.next().unwrap();
        let end = reports.len().min(committed + size);
        let reports = &reports[committed..end];
        let id = batch(&source, reports);
        count(&owner, &id, reports).await;
        match fate {
            Fate::Unacknowledged => {
                owner.forget(id.partition);
                count(&owner, &id, reports).await;
            }
            Fate::Uncommitted if deaths < 20 => {
                deaths += 1;
                owner = Contexts::new(pool.clone());
                continue;
            }
            // It knows an old position, or none.
            Fate::Zombie => count(&zombie, &id, reports).await,
            Fate::Done | Fate::Uncommitted => {}
        }
        committed = end;
    }
}

#[test]
fn each_report_counts_once_whatever_happens() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = runtime.block_on(database());
    let mut runner = TestRunner::new(Config::with_cases(40));
    runner
        .run(&any_history(), |(mut reports, cuts)| {
            let (expected, stored) = runtime.block_on(async {
                let project = project(&pool).await;
                for (offset, report) in (5_u64..).step_by(2).zip(&mut reports) {
                    report.offset = offset;
                    report.subject.project = project;
                }
                live_through(&pool, &reports, &cuts).await;
                (
                    World::expected(&reports),
                    World::stored(&pool, project).await,
                )
            });
            prop_assert_eq!(stored, expected);
            Ok(())
        })
        .unwrap();
}

fn report(project: i64, offset: u64, attributes: &str) -> Report {
    Report {
        offset,
        subject: Subject {
            project,
            kind: "user".to_owned(),
            targeting_key: "k".to_owned(),
        },
        name: None,
        attributes: attributes.to_owned(),
        at_us: BASE_US,
        entries: vec![Entry {
            flag_key: "known".to_owned(),
            channel: String::new(),
            value: "1".to_owned(),
            count: 1,
        }],
    }
}

#[tokio::test]
async fn what_can_never_be_stored_stops_nothing() {
    let pool = database().await;
    let project = project(&pool).await;
    let contexts = Contexts::new(pool.clone());
    let source: Arc<str> = "evaluations@x".into();
    for (offset, attributes) in ["{}", "no json", "{}"].into_iter().enumerate() {
        let reports = [report(project, offset as u64, attributes)];
        count(&contexts, &batch(&source, &reports), &reports).await;
    }
    // Of a project that is gone.
    let reports = [report(-1, 3, "{}")];
    count(&contexts, &batch(&source, &reports), &reports).await;
    let world = World::stored(&pool, project).await;
    let counts: Vec<i64> = world.contexts.values().map(|seen| seen.4).collect();
    assert_eq!(counts, [2]);
}

#[tokio::test]
async fn projects_do_not_share_contexts_or_flags() {
    let pool = database().await;
    let (one, two) = (project(&pool).await, project(&pool).await);
    sqlx::query("delete from flags where project_id = $1 and key = 'known'")
        .bind(two)
        .execute(&pool)
        .await
        .unwrap();
    let contexts = Contexts::new(pool.clone());
    let reports = [report(one, 0, "{}"), report(two, 0, "{\"a\":1}")];
    count(
        &contexts,
        &batch(&"evaluations@y".into(), &reports),
        &reports,
    )
    .await;
    let (mine, theirs) = (
        World::stored(&pool, one).await,
        World::stored(&pool, two).await,
    );
    assert_eq!((mine.contexts.len(), mine.flags.len()), (1, 1));
    let seen: Vec<_> = theirs
        .contexts
        .values()
        .map(|seen| (seen.1.clone(), seen.4))
        .collect();
    assert_eq!(seen, [(serde_json::json!({"a": 1}), 0)]);
    assert_eq!(theirs.flags.len(), 0, "it has no such flag");
}

#[tokio::test(start_paused = true)]
async fn a_partition_has_no_two_statements_in_one_pace() {
    let pace = Duration::from_secs(1);
    let due = Instant::now() + pace;
    let pool = PgPool::connect_lazy("postgres://u:p@127.0.0.1:1/x").unwrap();
    pool.close().await;
    let contexts = Contexts::new(pool);
    contexts.lock().insert(3, Known { position: 0, due });
    let reports = [report(1, 0, "{}")];
    let id = batch(&"evaluations@z".into(), &reports);
    // Over a closed pool the statement fails at once; but not before it is due.
    let answer = contexts.count(&id, &reports, pace).await;
    assert!(answer.is_err());
    assert!(Instant::now() >= due);
}
