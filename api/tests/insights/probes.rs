//! The acceptance probes of telemetry.md §12, by their numbers. What a probe
//! posts goes through the real edge; what has to be older than the test goes
//! into the log with its time of receipt.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use sluice_schema::wire::manifests::ManifestRequest;

use crate::anomalies::{beta, errors, members};
use crate::world::{World, body, devices, on, with};

const MAX_BODY_BYTES: usize = 2_097_152;
/// Every read of telemetry.md §5, of a flag 1 and an update 1.
const READS: [&str; 11] = [
    "/telemetry/timeseries",
    "/telemetry/flag-impacts",
    "/telemetry/events",
    "/telemetry/performance",
    "/observe/events",
    "/observe/events?group_by=message",
    "/flags/1/health",
    "/flags/1/evaluations",
    "/insights",
    "/insights/1",
    "/insights/adoption",
];

fn today(series: &Value) -> &Value {
    series["data"].as_array().unwrap().last().unwrap()
}

/// The names of all members, at any depth, with arrays as one.
fn shape(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(members) => {
            let below = members.iter().flat_map(|(name, value)| {
                let below = shape(value).into_iter();
                let below = below.map(move |inner| format!("{name}.{inner}"));
                std::iter::once(name.clone()).chain(below)
            });
            below.collect()
        }
        Value::Array(entries) => entries.iter().flat_map(shape).collect(),
        _ => BTreeSet::new(),
    }
}

fn sample(duration_ms: &str) -> Value {
    json!({"type": "perf_sample", "name": "startup_cold", "tags": {"duration_ms": duration_ms}})
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_01_all_five_types() {
    let mut world = World::at(Utc::now()).await;
    let edge = world.edge().await;
    world.flag("new-cart").await;
    let three = json!([on("js_error", 2), on("crash", 1), {"type": "custom", "name": "buy", "count": 5}, on("app_launch", 1)]);
    world.post_and_settle(&edge, &[body("a", three)]).await;
    let mut before = Vec::new();
    for path in READS {
        before.push(shape(&world.read(path).await));
    }
    let five = json!([on("js_error", 2), on("crash", 1), {"type": "custom", "name": "buy", "count": 5}, on("app_launch", 1), sample("812")]);
    world.post_and_settle(&edge, &[body("b", five)]).await;

    assert_eq!(world.read("/observe/events").await["total"], 6);
    assert_eq!(world.read("/observe/events?limit=0").await["total"], 6);
    let performance = world.read("/telemetry/performance").await;
    let metric = &performance["metrics"][0];
    assert_eq!(metric["metricName"], "startup_cold");
    let latest = json!({"p50": 812.0, "p95": 812.0, "p99": 812.0, "sampleCount": 1});
    assert_eq!(metric["latest"], latest);
    assert!(metric["latest"].to_string().contains("812.0"), "a float");
    for (path, before) in READS.into_iter().zip(before) {
        if path != "/telemetry/performance" {
            assert_eq!(shape(&world.read(path).await), before, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_02_what_the_edge_refuses() {
    let world = World::at(Utc::now()).await;
    let edge = world.edge().await;
    let empty = body("a", json!([]));
    let without_platform = {
        let mut body = empty.clone();
        body.as_object_mut().unwrap().remove("platform");
        body.to_string()
    };
    let unknown = with(empty.clone(), json!({"projectSlug": "nobody"})).to_string();
    let padded = |bytes: usize| {
        let text = empty.to_string();
        let padding = bytes - text.len();
        text + &" ".repeat(padding)
    };
    let json = "application/json";
    for (media, sent, status, says) in [
        (json, empty.to_string(), 204, ""),
        (json, padded(MAX_BODY_BYTES), 204, ""),
        (json, unknown, 404, "Project not found"),
        // Status 422 of the original is 400 (§0).
        (json, without_platform, 400, "platform"),
        (json, "{".to_owned(), 400, ""),
        ("text/plain", empty.to_string(), 415, ""),
        (json, padded(MAX_BODY_BYTES + 1), 413, ""),
    ] {
        let answer = edge.send(Method::POST, media, sent).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        let body: Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        match status {
            204 => assert_eq!(body, Value::Null),
            _ => assert!(body["error"].as_str().unwrap().contains(says), "{body}"),
        }
    }
    let preflight = edge.send(Method::OPTIONS, json, String::new()).await;
    assert!(matches!(preflight.status().as_u16(), 200 | 204));
    for header in ["allow-origin", "allow-methods", "allow-headers", "max-age"] {
        let name = format!("access-control-{header}");
        assert!(preflight.headers().contains_key(&name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_03_a_frame_twice() {
    let mut world = World::start().await;
    world.flag("new-cart").await;
    let (_, update) = world.update("my-app", "1.0").await;
    let events = json!([
        on("app_launch", 2),
        on("crash", 1),
        on("custom", 3),
        sample("5")
    ]);
    let event = with(body("a", events), json!({"updateUuid": update}));
    world.send(&[event]).await;
    let served = ManifestRequest {
        served: Some(update),
        device_id: "a",
        ..ManifestRequest::default()
    };
    world.manifests_at("my-app", world.now, &[served]).await;
    world.settle().await;
    let reads = READS.into_iter().chain([
        "/observe/events?limit=0",
        "/observe/events?group_by=name",
        "/telemetry/events?type=crash",
        "/telemetry/timeseries?bucket=hour&days=1",
    ]);
    let mut before = Vec::new();
    for path in reads {
        before.push((path, world.read(path).await));
    }
    world.replay();
    world.replay_manifests();
    world.settle().await;
    for (path, before) in before {
        assert_eq!(world.read(path).await, before, "{path}");
    }
    let series = world.read("/telemetry/timeseries").await;
    assert_eq!(
        (&today(&series)["crashes"], &today(&series)["updates"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_04_capped_sessions() {
    let mut world = World::at(Utc::now()).await;
    let edge = world.edge().await;
    let flag = world.flag("new-cart").await;
    let path = format!("/flags/{flag}/health");
    let events = json!([on("app_launch", 100), on("js_error", 3), on("crash", 1)]);
    world.post_and_settle(&edge, &[body("a", events)]).await;
    let health = world.read(&path).await;
    let names = [
        "variationName",
        "errorRate",
        "crashFree",
        "status",
        "devices",
    ];
    let rows = health["variations"].as_array().unwrap();
    let expected = json!([["On", 4.0, 99.0, "degraded", 1]]);
    assert_eq!(members(rows, names), expected);
    let summary = &health["summary"];
    assert_eq!(
        (&summary["affectedDevices"], &summary["errorRate"]),
        (&json!(1), &json!(4.0))
    );
    assert_eq!(summary["lastChecked"], json!(world.now));

    let failing = devices("b", 20, &json!([on("app_launch", 1), on("js_error", 1)]));
    world.post_and_settle(&edge, &failing).await;
    let health = world.read(&path).await;
    let names = ["errorRate", "sessions", "status"];
    let rows = health["variations"].as_array().unwrap();
    assert_eq!(members(rows, names), json!([[20.0, 120, "incident"]]));
    assert_eq!(health["summary"]["status"], "incident");
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_05_a_looping_device() {
    let mut world = World::at(Utc::now()).await;
    let edge = world.edge().await;
    world.flag("new-cart").await;
    let mut bodies = devices("a", 1_000, &json!([on("app_launch", 1)]));
    let looping = json!([on("app_launch", 1), on("js_error", 1_000_000)]);
    bodies.push(body("loop", looping));
    world.post_and_settle(&edge, &bodies).await;
    let impacts = world.read("/telemetry/flag-impacts").await;
    let rows = impacts["data"].as_array().unwrap();
    let names = ["errorRate", "status", "launchErrorRate", "erroredDevices"];
    assert_eq!(members(rows, names), json!([[0.1, "healthy", 100.0, 1]]));
    let counted = rows[0]["devices"].as_f64().unwrap();
    assert!((counted - 1_001.0).abs() <= 40.0, "within 4 %: {counted}");
    assert_eq!(impacts["totalDevices"], rows[0]["devices"]);
    let series = world.read("/telemetry/timeseries?days=2").await;
    let rates = series["data"].as_array().unwrap().iter();
    let rates: Vec<_> = rates.map(|point| &point["launchErrorRate"]).collect();
    assert!(rates.contains(&&json!(100.0)), "{rates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_06_two_channels_are_not_averaged() {
    let mut world = World::at(Utc::now()).await;
    let edge = world.edge().await;
    let launch = json!({"type": "app_launch", "count": 1});
    let mut bodies = devices("a", 1_000, &json!([launch]));
    let error = json!({"type": "js_error", "count": 1});
    bodies.extend(
        devices("b", 5, &json!([launch, error]))
            .into_iter()
            .map(beta),
    );
    bodies.extend(devices("c", 5, &json!([launch])).into_iter().map(beta));
    world.post_and_settle(&edge, &bodies).await;
    for (query, rate, failed) in [
        ("", 0.5, 5),
        ("&channel=beta", 50.0, 5),
        ("&channel=production", 0.0, 0),
    ] {
        let series = world
            .read(&format!("/telemetry/timeseries?days=2{query}"))
            .await;
        let points = series["data"].as_array().unwrap();
        let sum = |name: &str| {
            points
                .iter()
                .map(|p| p[name].as_u64().unwrap())
                .sum::<u64>()
        };
        assert_eq!(sum("errors"), failed);
        // All of it within an hour, but midnight may be in it.
        if let Some(point) = points
            .iter()
            .find(|point| point["launches"].as_u64() == Some(sum("launches")))
        {
            assert_eq!(point["errorRate"], json!(rate), "{query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_07_three_hours_of_one_device() {
    let mut world = World::start().await;
    for hours in [5, 3, 0] {
        let at = world.now - TimeDelta::hours(hours);
        let launch = body("a", json!([on("app_launch", 1)]));
        world.send_at("my-app", at, &[launch]).await;
    }
    world.settle().await;
    let series = world.read("/telemetry/timeseries").await;
    let point = today(&series);
    assert_eq!(
        (&point["devices"], &point["deviceHours"]),
        (&json!(1), &json!(3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_08_totals_without_a_page_and_groups() {
    let mut world = World::at(Utc::now()).await;
    let edge = world.edge().await;
    let error =
        |message: &str, count: u32| json!({"type": "js_error", "message": message, "count": count});
    let bodies = [
        body("a", json!([error("x", 3), error("y", 1)])),
        body("b", json!([error("x", 4), {"type": "app_launch"}])),
    ];
    world.post_and_settle(&edge, &bodies).await;
    let page = world.read("/observe/events?limit=0").await;
    assert_eq!((&page["events"], &page["total"]), (&json!([]), &json!(3)));
    let groups = world.read("/observe/events?group_by=message").await;
    assert_eq!(groups["total"], 2);
    let mut found: Vec<(&str, u64, u64)> = Vec::new();
    for group in groups["groups"].as_array().unwrap() {
        let number = |name: &str| group[name].as_u64().unwrap();
        found.push((
            group["key"].as_str().unwrap(),
            number("totalCount"),
            number("uniqueDevices"),
        ));
    }
    found.sort_unstable();
    assert_eq!(found, [("x", 7, 2), ("y", 1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_09_no_data() {
    let world = World::start().await;
    let (flag, (update, _)) = (
        world.flag("new-cart").await,
        world.update("my-app", "1.0").await,
    );
    assert_eq!((flag, update), (1, 1));
    let variation =
        |id: i64, name: &str| json!({"variationId": id, "variationName": name, "total": 0});
    let summary = json!({
        "status": "healthy", "errorRate": 0.0, "errorRateDelta": 0.0, "crashFree": 100.0,
        "affectedDevices": 0, "lastChecked": null, "errorRateLow": 0.0, "errorRateHigh": 100.0,
        "erroredDevices": 0, "launches": 0, "errors": 0, "crashes": 0, "sessions": 0,
        "deviceHours": 0, "launchErrorRate": null,
    });
    let expected = [
        json!({"data": [], "lastUpdatedAt": null}),
        json!({"data": [], "totalDevices": 0, "lastUpdatedAt": null}),
        json!([]),
        json!({"metrics": [], "lastUpdatedAt": null}),
        json!({"events": [], "total": 0, "nextCursor": null}),
        json!({"groups": [], "total": 0}),
        json!({"summary": summary, "variations": []}),
        json!({"total": 0, "daily": [], "lastEvaluatedAt": null,
               "byVariation": [variation(1, "On"), variation(2, "Off")]}),
        json!([]),
        json!({"updateId": 1, "totalDownloads": 0, "uniqueDevices": 0, "installs": 0}),
        json!({"timeseries": [], "currentAdoption": [], "totalActiveDevices": 0,
               "totalDownloads": 0, "installs": 0, "oneHourIds": null}),
    ];
    for (path, expected) in READS.into_iter().zip(expected) {
        assert_eq!(world.read(path).await, expected, "{path}");
    }
    for path in ["/flags/999999/health", "/flags/999999/evaluations"] {
        let answer = world.get(path, "dsp_my-app_viewer", Some("my-app")).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["error"], "Flag not found", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_10_spikes() {
    let mut world = World::start().await;
    world.day("my-app", &[body("a", errors(3))]).await;
    world.day("other", &[body("a", errors(2))]).await;
    world.send(&[body("a", errors(10))]).await;
    let theirs = [body("a", errors(20))];
    world.send_at("other", world.now, &theirs).await;
    world.later(1).await;
    let names = ["type", "severity", "status", "channel"];
    let first = json!(["error_spike", "warning", "degraded", "production"]);
    assert_eq!(members(&world.events("").await, names), json!([first]));
    let answer = world
        .get("/telemetry/events", "dsp_other_viewer", Some("other"))
        .await
        .json();
    let theirs = members(answer.as_array().unwrap(), names);
    assert_eq!(
        theirs,
        json!([["error_spike", "critical", "incident", "production"]])
    );

    // A second batch in the same hour and channel adds no row.
    world.send(&[body("a", errors(1))]).await;
    world.later(1).await;
    assert_eq!(members(&world.events("").await, names), json!([first]));

    // A second spike on another channel in the same hour is another event.
    world.send(&[beta(body("a", errors(10)))]).await;
    world.later(1).await;
    let second = json!(["error_spike", "critical", "incident", "beta"]);
    assert_eq!(
        members(&world.events("").await, names),
        json!([second, first])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_11_downloads_and_ages() {
    let now = Utc::now();
    let mut world = World::at(now).await;
    assert_eq!(world.read("/insights").await, json!([]));
    let (a, a_uuid) = world.update("my-app", "1.0").await;
    let (b, b_uuid) = world.update("my-app", "1.0").await;
    for (minutes, update) in [(3, a_uuid), (2, a_uuid), (1, b_uuid)] {
        let served = ManifestRequest {
            served: Some(update),
            device_id: "d",
            platform: "ios",
            channel: "production",
            ..ManifestRequest::default()
        };
        let at = now - TimeDelta::minutes(minutes);
        world.manifests_at("my-app", at, &[served]).await;
    }
    for days in [29, 31] {
        let error = json!([{"type": "js_error", "message": days.to_string()}]);
        let at = now - TimeDelta::days(days);
        world.send_at("my-app", at, &[body("d", error)]).await;
    }
    world.settle().await;
    let downloads = |id, total: u64| json!({"updateId": id, "totalDownloads": total, "uniqueDevices": 1, "installs": 0});
    assert_eq!(
        world.read("/insights").await,
        json!([downloads(a, 2), downloads(b, 1)])
    );
    let adoption = world.read("/insights/adoption").await;
    let current = adoption["currentAdoption"].as_array().unwrap();
    assert_eq!(
        members(current, ["updateId", "deviceCount"]),
        json!([[b, 1]])
    );
    for (query, total) in [
        ("", 1),
        ("?from=2000-01-01", 1),
        ("?search=31", 0),
        ("?search=29", 1),
    ] {
        let observed = world.read(&format!("/observe/events{query}")).await;
        assert_eq!(observed["total"], total, "{query}");
    }
    let raw = world.read("/telemetry/events?type=js_error&days=90").await;
    assert_eq!(members(raw.as_array().unwrap(), ["title"]), json!([["29"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_12_odd_values() {
    let mut world = World::at(Utc::now()).await;
    let edge = world.edge().await;
    world.flag("new-cart").await;
    let odd = [
        json!({"type": "app_launch", "flagStates": "none"}).to_string(),
        json!({"type": "custom", "name": "n", "flagStates": [1]}).to_string(),
        sample("NaN").to_string(),
        // A lone surrogate, as JavaScript writes it.
        r#"{"type":"js_error","message":"cut \ud83d"}"#.to_owned(),
        json!({"type": "app_launch", "count": null}).to_string(),
    ];
    for event in odd {
        let device = body("odd", json!("EVENT")).to_string();
        let answer = edge
            .json(device.replace("\"EVENT\"", &format!("[{event}]")))
            .await;
        assert_eq!(answer.status(), 204, "{event}");
    }
    let fine = json!([on("app_launch", 1), sample("7")]);
    world.post_and_settle(&edge, &[body("a", fine)]).await;
    let observed = world.read("/observe/events?type=js_error").await;
    assert_eq!(observed["events"][0]["eventMessage"], "cut \u{fffd}");
    let performance = world.read("/telemetry/performance").await;
    let metrics = performance["metrics"].as_array().unwrap();
    assert_eq!(members(metrics, ["metricName"]), json!([["startup_cold"]]));
    assert_eq!(metrics[0]["latest"]["sampleCount"], 1);
    // Later jobs go on: folds of the same hour, and the watch.
    let impacts = world.read("/telemetry/flag-impacts").await;
    assert_eq!(
        members(impacts["data"].as_array().unwrap(), ["devices"]),
        json!([[1]])
    );
    world.watch().await;
    let series = world.read("/telemetry/timeseries?days=2").await;
    let points = series["data"].as_array().unwrap().iter();
    assert_eq!(
        points.map(|p| p["launches"].as_u64().unwrap()).sum::<u64>(),
        3
    );
}
