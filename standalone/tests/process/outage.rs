//! PostgreSQL is away without being gone: it answers nobody. People are told
//! so, at once; devices notice nothing; and all comes back by itself.

use std::time::Duration;

use hyper::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::sluice::{Answer, Sluice, directory, engine_process, processes_below, signal};

/// The contract says 2 s; a busy machine gets more.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Processes that stand still until this is dropped.
struct Stopped(Vec<u32>);

impl Stopped {
    /// Those of an engine. Who forks is stopped before its children are looked for.
    fn engine(sluice: &Sluice, engine: &str) -> Self {
        let top = engine_process(sluice.child.id(), engine);
        let mut stopped = Vec::new();
        loop {
            let mut running = processes_below(top);
            running.retain(|pid| !stopped.contains(pid));
            if running.is_empty() {
                assert!(!stopped.is_empty());
                return Self(stopped);
            }
            for pid in &running {
                signal(*pid, Signal::STOP);
            }
            stopped.extend(running);
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            signal(*pid, Signal::CONT);
        }
    }
}

async fn call(sluice: &Sluice, route: &(Method, String, Option<Value>)) -> Answer {
    let (method, path, body) = route;
    let answer = sluice.try_call(method.clone(), path, body.as_ref());
    let answer = timeout(ANSWERED_WITHIN, answer).await;
    answer
        .unwrap_or_else(|_| panic!("{method} {path}: no answer in time"))
        .unwrap()
}

fn error(message: &str) -> Value {
    json!([{"type": "js_error", "message": message}])
}

#[tokio::test]
async fn management_is_refused_while_postgresql_is_away_and_comes_back() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let flag = json!({ "name": "Outage", "key": "outage" });
    let flag = sluice.post("/v1/ota/flags", &flag).await["id"].clone();
    assert_eq!(
        sluice.report("device", error("before")).await,
        StatusCode::NO_CONTENT
    );
    let read = |path: &str| (Method::GET, format!("/v1/ota/{path}"), None);
    let write = |method, path: String, body| (method, format!("/v1/ota/{path}"), Some(body));
    let routes = [
        read("updates"),
        read("builds"),
        read("flags"),
        read("webhooks"),
        read("audit-log"),
        read("gc"),
        write(
            Method::POST,
            "branches".to_owned(),
            json!({ "name": "while-away" }),
        ),
        write(
            Method::PATCH,
            format!("flags/{flag}"),
            json!({ "name": "While away" }),
        ),
        write(
            Method::POST,
            "rollback".to_owned(),
            json!({ "runtimeVersion": "1", "platform": "ios", "channel": "production" }),
        ),
        (Method::DELETE, format!("/v1/ota/flags/{flag}"), None),
    ];
    sluice.until_ready(true).await;

    let stopped = Stopped::engine(&sluice, "PostgreSQL");
    for route in &routes {
        let answer = call(&sluice, route).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{route:?}");
        assert!(answer.headers.contains_key("retry-after"), "{route:?}");
        assert!(answer.headers.contains_key("x-request-id"), "{route:?}");
        let text = answer.body["error"].as_str().unwrap();
        assert_eq!(text, "temporarily unavailable, try again");
    }
    sluice.until_ready(false).await;
    assert_eq!(
        sluice.report("device", error("during")).await,
        StatusCode::NO_CONTENT
    );
    drop(stopped);

    sluice.until_ready(true).await;
    let branches = sluice.get("/v1/ota/branches").await.to_string();
    assert!(!branches.contains("while-away"), "refused, and yet done");
    for route in &routes {
        let answer = call(&sluice, route).await;
        assert!(answer.status.is_success(), "{route:?}: {}", answer.body);
    }
    sluice.until_errors(2).await;
}
