//! PostgreSQL is away: gone, or there and answering nobody. People are told so
//! within 2 s, also those whose requests are under way; devices notice nothing;
//! and all comes back by itself.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use sluice_engines::testing::machine_time;
use sqlx::{Connection as _, PgConnection};

use crate::crashes::Upload;
use crate::sluice::{
    Answer, PATIENCE, POLL, Sluice, directory, engine_process, processes_below, signal,
};

/// From when a request was sent, or from when PostgreSQL left it waiting, in
/// machine time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
const FILE_BYTES: usize = 1024 * 1024;

#[derive(Clone, Copy)]
enum Outage {
    /// Its processes stand still; connections are accepted and stay silent.
    Frozen,
    /// Its processes are gone; connections are refused.
    Gone,
}

/// PostgreSQL, away until this is dropped.
struct Away {
    stopped: Vec<u32>,
}

impl Away {
    fn begin(sluice: &Sluice, outage: Outage) -> Self {
        let keeper = engine_process(sluice.child.id(), "PostgreSQL");
        match outage {
            Outage::Frozen => Self {
                stopped: send_to_all_below(keeper, Signal::STOP),
            },
            Outage::Gone => {
                // Who would notice and start it again stands still meanwhile.
                signal(keeper, Signal::STOP);
                send_to_all_below(keeper, Signal::KILL);
                Self {
                    stopped: vec![keeper],
                }
            }
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        for pid in &self.stopped {
            signal(*pid, Signal::CONT);
        }
    }
}

/// Who forks gets it before its children are looked for.
fn send_to_all_below(ancestor: u32, what: Signal) -> Vec<u32> {
    let mut reached = Vec::new();
    loop {
        let mut running = processes_below(ancestor);
        running.retain(|pid| !reached.contains(pid));
        if running.is_empty() {
            assert!(!reached.is_empty());
            return reached;
        }
        for pid in &running {
            signal(*pid, what);
        }
        reached.extend(running);
    }
}

type Call = (Method, String, Option<Value>);

fn read(path: &str) -> Call {
    (Method::GET, format!("/v1/ota/{path}"), None)
}

fn write(method: Method, path: &str, body: Value) -> Call {
    (method, format!("/v1/ota/{path}"), Some(body))
}

/// Readers and writers of every kind; `flag` is the id of one.
fn calls(flag: &Value) -> Vec<Call> {
    let rollback = json!({ "runtimeVersion": "1", "platform": "ios", "channel": "production" });
    vec![
        read("updates"),
        read("builds"),
        read("flags"),
        read("webhooks"),
        read("audit-log"),
        read("gc"),
        read("projects"),
        read("auth/setup-status"),
        read("insights?days=1"),
        // Of a project that is not in memory.
        read("flag-definitions/nobodys-project"),
        write(Method::POST, "branches", json!({ "name": "while-away" })),
        write(
            Method::PATCH,
            &format!("flags/{flag}"),
            json!({ "name": "While away" }),
        ),
        write(Method::POST, "rollback", rollback),
        (Method::DELETE, format!("/v1/ota/flags/{flag}"), None),
    ]
}

/// The answer, and when it was there.
async fn call(sluice: &Sluice, (method, path, body): &Call) -> (Answer, Duration) {
    let answer = sluice.try_call(method.clone(), path, body.as_ref());
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    let answer = answer.unwrap_or_else(|_| panic!("{method} {path}: no answer at all"));
    (answer.unwrap(), machine_time())
}

fn is_refusal((answer, at): &(Answer, Duration), since: Duration, call: &Call) {
    let took = at.saturating_sub(since);
    assert!(took <= ANSWERED_WITHIN, "{call:?} took {took:?}");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{call:?}");
    assert!(answer.headers.contains_key("retry-after"), "{call:?}");
    assert!(answer.headers.contains_key("x-request-id"), "{call:?}");
    let text = answer.body["error"].as_str().unwrap();
    assert_eq!(text, "temporarily unavailable, try again");
}

async fn until_waiting(postgres: &mut PgConnection, expected: i64) {
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let query = sqlx::query_scalar::<_, i64>(waiting);
        if query.fetch_one(&mut *postgres).await.unwrap() == expected {
            return;
        }
        assert!(Instant::now() < deadline, "nobody waits");
        tokio::time::sleep(POLL).await;
    }
}

/// PostgreSQL goes away under a reader and a writer that it keeps waiting.
async fn leave_two_waiting(sluice: &Sluice, outage: Outage) -> (Away, Duration) {
    let credentials = sluice.credentials();
    let url = credentials["postgres"]["url"].as_str().unwrap();
    let mut holder = PgConnection::connect(url).await.unwrap();
    let mut observer = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("begin; lock table branches in access exclusive mode")
        .execute(&mut holder)
        .await
        .unwrap();
    let reader = read("branches");
    let writer = write(Method::POST, "branches", json!({ "name": "under-way" }));
    let leave = async {
        until_waiting(&mut observer, 2).await;
        (Away::begin(sluice, outage), machine_time())
    };
    let (read, written, (away, left)) =
        tokio::join!(call(sluice, &reader), call(sluice, &writer), leave);
    is_refusal(&read, left, &reader);
    is_refusal(&written, left, &writer);
    (away, left)
}

fn error(message: &str) -> Value {
    json!([{"type": "js_error", "message": message}])
}

async fn outage(outage: Outage) {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let flag = json!({ "name": "Outage", "key": "outage" });
    let flag = sluice.post("/v1/ota/flags", &flag).await["id"].clone();
    let before = sluice.report("device", error("before")).await;
    assert_eq!(before, StatusCode::NO_CONTENT);
    let definitions = format!("/v1/ota/flag-definitions/{}", sluice.text("projectSlug"));
    sluice.get(&definitions).await;
    sluice.until_ready(true).await;
    let mut upload = Upload::begin(&sluice, FILE_BYTES).await;
    upload.send(0, FILE_BYTES / 2).await;

    let (away, left) = leave_two_waiting(&sluice, outage).await;
    sluice.until_ready(false).await;
    assert!(machine_time().saturating_sub(left) <= ANSWERED_WITHIN);
    for route in &calls(&flag) {
        let sent = machine_time();
        is_refusal(&call(&sluice, route).await, sent, route);
    }
    assert!(!sluice.is_ready().await);
    let during = sluice.report("device", error("during")).await;
    assert_eq!(during, StatusCode::NO_CONTENT);
    sluice.get(&definitions).await;
    drop(away);

    sluice.until_ready(true).await;
    // What was being sent all the while was not cut.
    upload.send(0, FILE_BYTES / 2).await;
    upload.end().await;
    let uploaded = upload.answer().await;
    assert!(uploaded.starts_with("HTTP/1.1 201"), "{uploaded}");
    let branches = sluice.get("/v1/ota/branches").await.to_string();
    for refused in ["while-away", "under-way"] {
        assert!(!branches.contains(refused), "refused, and yet done");
    }
    for route in &calls(&flag) {
        let (answer, _) = call(&sluice, route).await;
        let is_unknown = answer.status == StatusCode::NOT_FOUND && route.1.contains("nobodys");
        assert!(
            answer.status.is_success() || is_unknown,
            "{route:?}: {}",
            answer.body
        );
    }
    sluice.until_errors(2).await;
}

#[tokio::test]
async fn management_is_refused_while_postgresql_stands_still_and_comes_back() {
    outage(Outage::Frozen).await;
}

#[tokio::test]
async fn management_is_refused_while_postgresql_is_gone_and_comes_back() {
    outage(Outage::Gone).await;
}
