use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::world::{World, body, devices, on, with};

const EMPTY: [&str; 2] = ["affectedDevices", "launches"];

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_without_data_is_healthy_and_an_unknown_one_is_not_found() {
    let world = World::start().await;
    let flag = world.flag("new-cart").await;
    let health = world.read(&format!("/flags/{flag}/health")).await;
    assert_eq!(health["variations"], json!([]));
    let summary = &health["summary"];
    for field in EMPTY {
        assert_eq!(summary[field], 0, "{field}");
    }
    let text = summary.to_string();
    for expected in [
        "\"errorRate\":0.0",
        "\"errorRateDelta\":0.0",
        "\"crashFree\":100.0",
        "\"status\":\"healthy\"",
        "\"lastChecked\":null",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let impacts = world.read("/telemetry/flag-impacts").await;
    assert_eq!(
        impacts,
        json!({"data": [], "totalDevices": 0, "lastUpdatedAt": null})
    );
    let get = async |path: &str| {
        world
            .get(path, "dsp_my-app_viewer", Some("my-app"))
            .await
            .status
    };
    assert_eq!(get("/flags/999999/health").await, 404);
    assert_eq!(get("/flags/x/health").await, 400);
    let foreign = world
        .get(
            &format!("/flags/{flag}/health"),
            "dsp_other_viewer",
            Some("other"),
        )
        .await;
    assert_eq!(foreign.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_variations_by_json_then_by_text() {
    let mut world = World::start().await;
    let flag = world.flag("new-cart").await;
    let launch = |value: Value| json!([{"type": "app_launch", "flagStates": {"new-cart": value, "gone": 1}}]);
    let bodies = [
        json!(true),
        json!("true"),
        json!(false),
        json!("red"),
        Value::Null,
    ];
    let bodies: Vec<Value> = bodies
        .into_iter()
        .enumerate()
        .map(|(n, value)| body(&format!("d{n}"), launch(value)))
        .collect();
    // The same device under another spelling is the same device.
    let again = body("d0", launch(json!("true")));
    world.send(&bodies).await;
    world.send(&[again]).await;
    // A flag on an error alone has no row.
    let error = json!([{"type": "js_error", "flagStates": {"new-cart": "lost"}}]);
    world
        .send(&[with(body("e", error), json!({"channel": "beta"}))])
        .await;
    world.settle().await;
    let health = world.read(&format!("/flags/{flag}/health")).await;
    let rows = health["variations"].as_array().unwrap();
    let names: Vec<(&str, u64)> = rows
        .iter()
        .map(|row| {
            (
                row["variationName"].as_str().unwrap(),
                row["devices"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(names, [("On", 2), ("Off", 1), ("default", 1), ("red", 1)]);
    assert_eq!(health["summary"]["affectedDevices"], 5, "of the union");
    let impacts = world.read("/telemetry/flag-impacts").await;
    assert_eq!(
        impacts["data"].as_array().unwrap().len(),
        4,
        "flags of this project alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_are_in_no_flag_slice_and_disabled_flags_on_request() {
    let mut world = World::start().await;
    let flag = world.flag("new-cart").await;
    let old = json!([{"type": "app_launch", "count": 1}, on("js_error", 1)]);
    world.send(&devices("old", 3, &old)).await;
    world
        .send(&devices("new", 2, &json!([on("app_launch", 1)])))
        .await;
    world.settle().await;
    let health = async |query: &str| world.read(&format!("/flags/{flag}/health{query}")).await;
    assert_eq!(health("").await["variations"][0]["devices"], 2);
    assert_eq!(health("").await["summary"]["errorRate"], json!(0.0));

    world.run("update flags set enabled = false").await;
    assert_eq!(health("").await["variations"], json!([]));
    assert_eq!(
        health("?includeDisabled=true").await["variations"][0]["devices"],
        2
    );
    assert_eq!(
        world.read("/telemetry/flag-impacts").await["data"],
        json!([])
    );
    let all = world
        .read("/telemetry/flag-impacts?include_disabled=true")
        .await;
    assert_eq!(all["data"].as_array().unwrap().len(), 1);
}

/// The dashboard divides by the sum of a channel's devices (telemetry.md §5.2).
#[tokio::test(flavor = "multi_thread")]
async fn no_channel_is_shown_whose_devices_are_all_unknown() {
    let mut world = World::start().await;
    let flag = world.flag("new-cart").await;
    let path = format!("/flags/{flag}/health");
    let nobody = body("", json!([on("app_launch", 1), on("crash", 1)]));
    world
        .send(&[with(nobody, json!({"channel": "beta"}))])
        .await;
    world.settle().await;
    let health = world.read(&path).await;
    assert_eq!(health["variations"], json!([]));
    assert_eq!(health["summary"]["affectedDevices"], 0);
    world
        .send(&[
            body("a", json!([on("app_launch", 1)])),
            body(
                "",
                json!([{"type": "app_launch", "flagStates": {"new-cart": false}}]),
            ),
        ])
        .await;
    world.settle().await;
    let health = world.read(&path).await;
    let rows = health["variations"].as_array().unwrap().iter();
    let rows: Vec<Value> = rows
        .map(|row| json!([row["channel"], row["variationName"], row["devices"]]))
        .collect();
    let expected = [
        json!(["production", "On", 1]),
        json!(["production", "Off", 0]),
    ];
    assert_eq!(rows, expected);
    assert_eq!(
        health["summary"]["errorRate"],
        json!(0.0),
        "of what is shown"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_is_against_the_window_before() {
    let mut world = World::start().await;
    let flag = world.flag("new-cart").await;
    let earlier = world.now - TimeDelta::hours(30);
    let before = json!([on("app_launch", 100), on("js_error", 1)]);
    world.send_at("my-app", earlier, &[body("a", before)]).await;
    world
        .send(&[body("a", json!([on("app_launch", 100), on("js_error", 4)]))])
        .await;
    let beta = json!({"channel": "beta"});
    world
        .send(&[with(body("b", json!([on("app_launch", 1)])), beta)])
        .await;
    world.settle().await;
    let health = world.read(&format!("/flags/{flag}/health")).await;
    let [beta, production] = [&health["variations"][0], &health["variations"][1]];
    assert_eq!(
        (&beta["channel"], &beta["errorRateDelta"]),
        (&json!("beta"), &json!(0.0))
    );
    assert_eq!(production["errorRateDelta"], json!(3.0));
    assert_eq!(
        (
            &health["summary"]["errorRate"],
            &health["summary"]["errorRateDelta"]
        ),
        (&json!(3.96), &json!(2.96))
    );
    let wide = world
        .read(&format!("/flags/{flag}/health?hours=48&channel=production"))
        .await;
    assert_eq!(
        (
            &wide["summary"]["errorRate"],
            &wide["summary"]["errorRateDelta"]
        ),
        (&json!(2.5), &json!(0.0))
    );
    let days = world
        .read("/telemetry/flag-impacts?days=1&channel=production")
        .await;
    assert_eq!(days["data"][0]["errorRateDelta"], json!(3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn impacts_are_by_runtime_version_and_update_the_worst_first() {
    let mut world = World::start().await;
    world.flag("new-cart").await;
    let uuid = "0199aaaa-0000-7000-8000-000000000001";
    world.run(&format!(
        "insert into updates (project_id, update_uuid, runtime_version, platform, channel, branch_name, group_id)
         select id, '{uuid}', '1.0', 'ios', 'production', 'main', 'g' from projects where slug = 'my-app'"
    )).await;
    let upper = json!({"updateUuid": uuid.to_uppercase()});
    let failing = json!([on("app_launch", 1), on("crash", 1)]);
    world.send(&[with(body("a", failing), upper)]).await;
    world
        .send(&devices("b", 3, &json!([on("app_launch", 1)])))
        .await;
    let newer = json!({"runtimeVersion": "2.0"});
    world
        .send(&[with(body("c", json!([on("app_launch", 1)])), newer)])
        .await;
    world.settle().await;
    let rows = async |query: &str| {
        let answer = world
            .read(&format!("/telemetry/flag-impacts?{query}"))
            .await;
        let row = |row: &Value| {
            ["runtimeVersion", "updateId", "devices", "errorRate"].map(|field| row[field].clone())
        };
        answer["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(row)
            .collect::<Vec<_>>()
    };
    let row = |runtime: &str, update: Value, devices: u64, rate: f64| {
        [json!(runtime), update, json!(devices), json!(rate)]
    };
    assert_eq!(
        rows("").await,
        [
            row("1.0", Value::Null, 4, 25.0),
            row("2.0", Value::Null, 1, 0.0)
        ]
    );
    let id: i64 = sqlx::query_scalar("select id from updates")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let by_update = [
        row("1.0", json!(id), 1, 100.0),
        row("1.0", Value::Null, 3, 0.0),
        row("2.0", Value::Null, 1, 0.0),
    ];
    assert_eq!(rows("by=update").await, by_update);
    assert_eq!(rows("by=update&days=7").await, by_update);
    assert_eq!(rows("flag_key=other").await.len(), 0);
    assert_eq!(rows("platform=android").await.len(), 0);
    let flag: i64 = sqlx::query_scalar("select id from flags")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let health = world.read(&format!("/flags/{flag}/health")).await;
    let variation = &health["variations"][0];
    assert_eq!(
        (&variation["runtimeVersion"], &variation["devices"]),
        (&json!("1.0"), &json!(5))
    );
    let one = world
        .read(&format!("/flags/{flag}/health?runtimeVersion=2.0"))
        .await;
    assert_eq!(one["variations"][0]["devices"], 1);
}
