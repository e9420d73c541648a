use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::world::{PATIENCE, World, body, devices, on, with};

/// The last point.
fn today(answer: &Value) -> &Value {
    answer["data"].as_array().unwrap().last().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_point_for_each_day_or_none() {
    let mut world = World::start().await;
    let nothing = json!({"data": [], "lastUpdatedAt": null});
    assert_eq!(world.read("/telemetry/timeseries").await, nothing);

    world.send(&[body("a", json!([on("app_launch", 1)]))]).await;
    let other = body("b", json!([on("app_launch", 70)]));
    world.send_at("other", world.now, &[other]).await;
    world.settle().await;
    let answer = world.read("/telemetry/timeseries").await;
    let points = answer["data"].as_array().unwrap();
    assert_eq!(points.len(), 14);
    assert_eq!(answer["lastUpdatedAt"], json!(world.now));
    let empty = json!({
        "date": (world.now - TimeDelta::days(13)).date_naive(), "errorRate": 0.0, "crashFree": 100.0,
        "flagEvals": 0, "updates": 0, "devices": 0, "errors": 0, "crashes": 0, "launches": 0,
        "sessions": 0, "deviceHours": 0, "launchErrorRate": null,
        "bucketTime": (world.now - TimeDelta::days(13)).format("%Y-%m-%dT00:00:00Z").to_string(),
    });
    assert_eq!(points[0], empty);
    assert_eq!(today(&answer)["launches"], 1, "of this project alone");
    assert_eq!(today(&answer)["date"], json!(world.now.date_naive()));
    for (query, points) in [
        ("days=3", 3),
        ("period=7d", 7),
        ("days=0", 1),
        ("days=500", 90),
    ] {
        let answer = world.read(&format!("/telemetry/timeseries?{query}")).await;
        assert_eq!(answer["data"].as_array().unwrap().len(), points, "{query}");
    }
    // A filter that matches nothing is not an empty project.
    let elsewhere = world.read("/telemetry/timeseries?channel=beta").await;
    assert_eq!(elsewhere["data"].as_array().unwrap().len(), 14);
    assert_eq!(today(&elsewhere)["devices"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_only_evaluates_flags_is_told_how_far_it_is_counted() {
    let mut world = World::start().await;
    world.flag("new-cart").await;
    world
        .run("update flags set created_at = '2020-01-01'")
        .await;
    // Of all logs the one that is furthest behind, in its newest incarnation.
    let behind = world.now - TimeDelta::minutes(7);
    for (topic, partition, at) in [
        ("evaluations@1", 0, world.now),
        ("evaluations@1", 1, behind),
        ("evaluations@0", 0, world.now - TimeDelta::days(9)),
    ] {
        let at_us = at.timestamp_micros();
        world
            .clickhouse(&format!(
                "INSERT INTO watermarks SELECT '{topic}', {partition}, fromUnixTimestamp64Micro({at_us}, 'UTC')"
            ))
            .await;
    }
    let at_us = world.now.timestamp_micros();
    world
        .clickhouse(&format!(
            "INSERT INTO flag_evaluations (received_at, project_id, flag_key, value, source, count) \
             SELECT fromUnixTimestamp64Micro({at_us}, 'UTC'), 1, 'new-cart', 'true', 'sdk', 3"
        ))
        .await;
    world.settle().await;
    let answer = world.read("/telemetry/timeseries").await;
    assert_eq!(today(&answer)["flagEvals"], 3);
    assert_eq!(answer["lastUpdatedAt"], json!(behind));
    // What is of health alone waits for no other log.
    let impacts = world.read("/telemetry/flag-impacts").await;
    assert_eq!(impacts["lastUpdatedAt"], json!(world.now));
    let theirs = world
        .get("/telemetry/timeseries", "dsp_other_viewer", Some("other"))
        .await;
    assert_eq!(theirs.json()["lastUpdatedAt"], Value::Null);
}

/// Counts are to be seen within a minute (telemetry.md §7): here in half of it.
#[tokio::test(flavor = "multi_thread")]
async fn evaluations_are_seen_although_nothing_is_folded_meanwhile() {
    let mut world = World::start().await;
    world.flag("new-cart").await;
    world
        .run("update flags set created_at = '2020-01-01'")
        .await;
    world.send(&[body("a", json!([on("app_launch", 1)]))]).await;
    world.settle().await;
    let path = "/telemetry/timeseries?channel=&platform=ios";
    assert_eq!(today(&world.read(path).await)["flagEvals"], 0);
    let at_us = world.now.timestamp_micros();
    world
        .clickhouse(&format!(
            "INSERT INTO flag_evaluations (received_at, project_id, flag_key, value, source, count) \
             SELECT fromUnixTimestamp64Micro({at_us}, 'UTC'), 1, 'new-cart', 'true', 'sdk', 3"
        ))
        .await;
    let seen = async {
        while today(&world.read(path).await)["flagEvals"] != 3 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE / 2, seen).await.expect("seen in time");
    assert_eq!(today(&world.read(path).await)["launches"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_three_hours_is_one_device() {
    let mut world = World::start().await;
    for hours in [5, 3, 0] {
        let at = world.now - TimeDelta::hours(hours);
        let launch = body("a", json!([on("app_launch", 2)]));
        world.send_at("my-app", at, &[launch]).await;
    }
    // The day before is folded as a day.
    let before = world.now - TimeDelta::days(1);
    let custom = body("b", json!([{"type": "custom", "name": "n"}]));
    world.send_at("my-app", before, &[custom]).await;
    world.settle().await;
    let answer = world.read("/telemetry/timeseries?days=2").await;
    let points = answer["data"].as_array().unwrap();
    let counts = |point: &Value| {
        ["devices", "deviceHours", "launches", "sessions"].map(|field| point[field].clone())
    };
    assert_eq!(counts(&points[0]), [json!(1), json!(1), json!(0), json!(1)]);
    assert_eq!(counts(&points[1]), [json!(1), json!(3), json!(6), json!(6)]);

    let hours = world.read("/telemetry/timeseries?days=1&bucket=hour").await;
    let hours = hours["data"].as_array().unwrap();
    assert_eq!(hours.len(), 13, "up to the running hour");
    let active: Vec<usize> = (0..13).filter(|n| hours[*n]["devices"] == 1).collect();
    assert_eq!(active, [7, 9, 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_shares_of_all_sessions_and_never_averages() {
    let mut world = World::start().await;
    let healthy = devices("a", 1_000, &json!([on("app_launch", 1)]));
    world.send(&healthy).await;
    let beta = |body: Value| with(body, json!({"channel": "beta", "platform": "android"}));
    let failing = devices("b", 5, &json!([on("app_launch", 1), on("js_error", 1)]));
    let fine = devices("c", 5, &json!([{"type": "app_launch", "count": 1}]));
    let bodies: Vec<Value> = failing.into_iter().chain(fine).map(beta).collect();
    world.send(&bodies).await;
    world.settle().await;
    let rate = async |query: &str| {
        let answer = world.read(&format!("/telemetry/timeseries?{query}")).await;
        today(&answer)["errorRate"].clone()
    };
    assert_eq!(rate("").await, json!(0.5));
    assert_eq!(rate("channel=production").await, json!(0.0));
    assert_eq!(rate("channel=beta").await, json!(50.0));
    assert_eq!(rate("platform=android&channel=").await, json!(50.0));
    // Devices that hold the flag: 1,000 and 5.
    assert_eq!(rate("flagKey=new-cart&channel=beta").await, json!(100.0));
    let with_flag = world.read("/telemetry/timeseries?flag_key=new-cart").await;
    assert_eq!(today(&with_flag)["launches"], 1_005);
    let without = world.read("/telemetry/timeseries?flag_key=old-cart").await;
    assert_eq!(today(&without)["launches"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_aggregator_folds_by_itself_is_read() {
    let mut world = World::at(Utc::now()).await;
    world.flag("new-cart").await;
    world.send(&[body("a", json!([on("app_launch", 1)]))]).await;
    let (stop, task) = world.aggregate().await;
    let seen = async {
        loop {
            let impacts = world.read("/telemetry/flag-impacts").await;
            let folded_until = impacts["lastUpdatedAt"].as_str();
            let folded_until = folded_until.map(|at| at.parse().unwrap());
            if folded_until >= Some(world.now) && impacts["totalDevices"] == 1 {
                // Only now, because a read before may have been of an older fold.
                return world.read("/telemetry/timeseries?days=2").await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let series = timeout(PATIENCE, seen).await.expect("folded in time");
    let launches = series["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["launches"].as_u64().unwrap());
    assert_eq!(launches.sum::<u64>(), 1);
    stop.cancel();
    task.await.unwrap();
}
