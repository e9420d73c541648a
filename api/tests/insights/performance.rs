use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::world::{World, body, with};

fn samples(durations: impl IntoIterator<Item = u32>) -> Value {
    let sample = |duration: u32| json!({"type": "perf_sample", "name": "startup_cold", "tags": {"duration_ms": duration.to_string()}});
    durations.into_iter().map(sample).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn percentiles_are_of_the_hour_over_all_that_match() {
    let mut world = World::start().await;
    let nothing = json!({"metrics": [], "lastUpdatedAt": null});
    assert_eq!(world.read("/telemetry/performance").await, nothing);

    let beta = |body: Value| with(body, json!({"channel": "beta", "runtimeVersion": "2"}));
    world
        .send(&[
            body("a", samples([300, 100])),
            beta(body("b", samples([200]))),
        ])
        .await;
    let before = world.now - TimeDelta::hours(23);
    world
        .send_at("my-app", before, &[body("a", samples([7]))])
        .await;
    let long_ago = world.now - TimeDelta::hours(24);
    world
        .send_at("my-app", long_ago, &[body("a", samples([9]))])
        .await;
    let other = json!([{"type": "perf_sample", "name": "flag_eval", "tags": {"duration_ms": 0}}]);
    world.send(&[body("a", other)]).await;
    world.settle().await;

    let answer = world.read("/telemetry/performance").await;
    let names: Vec<&Value> = answer["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["metricName"])
        .collect();
    assert_eq!(names, ["flag_eval", "startup_cold"]);
    let cold = &answer["metrics"][1];
    let hour = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%dT%H:00:00Z").to_string();
    assert_eq!(
        cold["points"],
        json!([
            {"bucketHour": hour(world.now), "p50": 200.0, "p95": 290.0, "p99": 298.0, "sampleCount": 3},
            {"bucketHour": hour(before), "p50": 7.0, "p95": 7.0, "p99": 7.0, "sampleCount": 1},
        ])
    );
    assert_eq!(
        cold["latest"],
        json!({"p50": 200.0, "p95": 290.0, "p99": 298.0, "sampleCount": 3})
    );

    let points = async |query: &str| {
        let answer = world.read(&format!("/telemetry/performance?{query}")).await;
        let metrics = answer["metrics"].as_array().unwrap().clone();
        let cold = metrics
            .into_iter()
            .find(|metric| metric["metricName"] == "startup_cold");
        cold.map_or(Value::Null, |metric| metric["points"].clone())
    };
    assert_eq!(points("channel=beta").await[0]["p50"], json!(200.0));
    assert_eq!(points("runtimeVersion=1.0").await[0]["sampleCount"], 2);
    assert_eq!(points("platform=android").await, Value::Null);
    assert_eq!(points("hours=25").await.as_array().unwrap().len(), 3);
    assert_eq!(points("hours=1").await.as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_samples_are_within_a_hundredth_of_their_rank() {
    let mut world = World::start().await;
    for n in 0..4 {
        let bodies = [body("a", samples((0..1_000).map(|i| i * 4 + n)))];
        world.send(&bodies).await;
    }
    world.settle().await;
    let answer = world.read("/telemetry/performance").await;
    let latest = &answer["metrics"][0]["latest"];
    assert_eq!(latest["sampleCount"], 4_000);
    for (field, rank) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let off = latest[field].as_f64().unwrap() / 4_000.0 - rank;
        assert!(off.abs() <= 0.01, "{field}: {latest}");
    }
}
