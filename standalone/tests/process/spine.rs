//! Started on an empty directory, called over HTTP, killed, started again.

use std::process::Command;
use std::time::Instant;

use hyper::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sluice::{
    PATIENCE, POLL, Sluice, directory, engine_process, running_engine, signal,
    until_nothing_is_left_in,
};

#[tokio::test]
async fn what_is_acknowledged_is_counted_once_also_through_kill_9() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let key = sluice.text("apiKey");
    let error =
        |message: &str| json!([{"type": "app_launch"}, {"type": "js_error", "message": message}]);
    assert_eq!(
        sluice.report("device-1", error("first")).await,
        StatusCode::NO_CONTENT
    );
    let seen = sluice
        .get_until("/v1/ota/observe/events", |answer| answer["total"] == 1)
        .await;
    assert_eq!(seen["events"][0]["eventMessage"], "first");
    sluice.until_errors(1).await;

    assert_eq!(
        sluice.report("device-2", error("second")).await,
        StatusCode::NO_CONTENT
    );
    sluice.kill();
    let sluice = Sluice::start(dir.path()).await;
    assert_eq!(sluice.text("apiKey"), key, "what was printed still works");
    sluice.until_errors(2).await;
    let seen = sluice.get("/v1/ota/observe/events").await;
    assert_eq!(seen["total"], 2);

    assert_eq!(sluice.stop(), Some(0));
    until_nothing_is_left_in(dir.path()).await;
}

#[tokio::test]
async fn evaluations_are_counted_once_also_through_kill_9() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let flag = json!({"name": "Spine", "key": "spine"});
    let flag = sluice.post("/v1/ota/flags", &flag).await["id"].clone();
    let report = json!({
        "evaluations": [
            {"flagKey": "spine", "variationValue": true, "count": 2, "channel": "beta"},
            {"flagKey": "unknown", "variationValue": 1},
        ],
        "context": {"targetingKey": "spine-user"},
    });
    let counts = format!("/v1/ota/flags/{flag}/evaluations");
    let contexts = "/v1/ota/contexts?search=spine-user";
    sluice.post("/v1/ota/flag-evaluations", &report).await;
    sluice
        .get_until(&counts, |answer| answer["total"] == 2)
        .await;

    sluice.post("/v1/ota/flag-evaluations", &report).await;
    sluice.kill();
    let sluice = Sluice::start(dir.path()).await;
    let counted = |answer: &Value| answer["contexts"][0]["evaluationCount"] == 4;
    sluice.get_until(contexts, counted).await;
    let answer = sluice
        .get_until(&counts, |answer| answer["total"] == 4)
        .await;
    assert_eq!(answer["byVariation"][0]["total"], 4);
    assert_eq!(sluice.stop(), Some(0));
    until_nothing_is_left_in(dir.path()).await;
}

#[tokio::test]
async fn a_dead_engine_is_started_again() {
    let dir = directory();
    let sluice = Sluice::start(dir.path()).await;
    let mut errors = 0;
    for engine in ["ClickHouse", "PostgreSQL"] {
        let victim = engine_process(sluice.child.id(), engine);
        signal(victim, Signal::KILL);
        let message = json!([{"type": "js_error", "message": engine}]);
        assert_eq!(
            sluice.report("device", message).await,
            StatusCode::NO_CONTENT
        );
        errors += 1;
        let deadline = Instant::now() + PATIENCE;
        while running_engine(sluice.child.id(), engine).is_none_or(|pid| pid == victim) {
            assert!(Instant::now() < deadline, "{engine} is not started again");
            tokio::time::sleep(POLL).await;
        }
        sluice.until_ready(true).await;
        sluice.until_errors(errors).await;
    }
    assert_eq!(sluice.stop(), Some(0));
    until_nothing_is_left_in(dir.path()).await;
}

#[test]
fn a_taken_port_is_told_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = directory();
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .env("SLUICE_DATA_DIR", dir.path().join("data"))
        .env("SLUICE_LISTEN", taken.local_addr().unwrap().to_string())
        .env("SLUICE_ADMIN_LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("SLUICE_LISTEN"), "{said}");
    assert!(!dir.path().join("data").exists());
}
