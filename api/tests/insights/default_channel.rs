//! Views of a project that treats the channel `default` as another one
//! (telemetry.md §2.9): devices whose apps set no channel, and devices of both.

use chrono::TimeDelta;
use hex::encode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sluice_schema::wire::manifests::ManifestRequest;

use crate::world::{World, body, on, with};

const SESSION: &str = "session-of-my-app";

/// Without a channel, which is stored as `default`.
fn unnamed(body: Value) -> Value {
    with(body, json!({"channel": null}))
}

fn sample(duration_ms: u32) -> Value {
    json!({"type": "perf_sample", "name": "startup", "tags": {"duration_ms": duration_ms.to_string()}})
}

fn crash() -> Value {
    json!({"type": "crash", "message": "boom", "flagStates": {"new-cart": true}})
}

/// Both projects have two devices on production, one without a channel, one on
/// both, and one on beta. Two of my-app are served an update, on production.
async fn furnished() -> (World, i64) {
    let mut world = World::start().await;
    let flag = world.flag("new-cart").await;
    world
        .run("update flags set created_at = '2020-01-01'")
        .await;
    let launch = || on("app_launch", 1);
    let bodies = [
        body("p1", json!([launch(), sample(100)])),
        body("p2", json!([launch()])),
        body("both", json!([launch(), sample(300)])),
        unnamed(body("both", json!([launch(), crash(), sample(500)]))),
        unnamed(body("d", json!([launch(), on("js_error", 1), sample(700)]))),
        with(body("b", json!([launch()])), json!({"channel": "beta"})),
    ];
    // In the window before: one of two sessions failed.
    let before = [
        unnamed(body("x", json!([launch(), crash()]))),
        unnamed(body("y", json!([launch()]))),
    ];
    for slug in ["my-app", "other"] {
        world.send_at(slug, world.now, &bodies).await;
        let yesterday = world.now - TimeDelta::hours(30);
        world.send_at(slug, yesterday, &before).await;
    }
    let (_, update) = world.update("my-app", "1.0").await;
    let asked = ["p1", "d"].map(|device_id| ManifestRequest {
        served: Some(update),
        device_id,
        platform: "ios",
        runtime_version: "1.0",
        channel: "production",
        ..ManifestRequest::default()
    });
    world.manifests_at("my-app", world.now, &asked).await;
    let at_us = world.now.timestamp_micros();
    for (channel, count) in [("production", 3), ("default", 5), ("beta", 7), ("", 11)] {
        world
            .clickhouse(&format!(
                "INSERT INTO flag_evaluations (received_at, project_id, flag_key, value, channel, source, count) \
                 SELECT fromUnixTimestamp64Micro({at_us}, 'UTC'), 1, 'new-cart', 'true', '{channel}', 'sdk', {count}"
            ))
            .await;
    }
    let hash = encode(Sha256::digest(SESSION));
    world
        .run(&format!(
            "insert into users (email, name, role) values ('a@example.test', 'A', 'admin');
             insert into memberships (project_id, user_id, role)
                select p.id, u.id, 'viewer' from projects p, users u where p.slug = 'my-app';
             insert into sessions (token_hash, user_id, created_at, expires_at)
                select '{hash}', id, now(), now() + interval '1 day' from users"
        ))
        .await;
    world.settle().await;
    (world, flag)
}

async fn treat_default_as(world: &World, channel: &str) {
    world
        .run(&format!(
            "update projects set treat_default_channel_as = {channel} where slug = 'my-app'"
        ))
        .await;
}

/// Every view in every channel, `path` by `path`.
async fn views(world: &World, flag: i64, token: &str, project: &str) -> Vec<(String, Value)> {
    let mut views = Vec::new();
    for path in [
        "/telemetry/timeseries?days=2",
        "/telemetry/timeseries?days=1&bucket=hour",
        "/telemetry/timeseries?days=2&flag_key=new-cart",
        "/telemetry/flag-impacts?x=",
        "/telemetry/flag-impacts?by=update&days=2",
        "/telemetry/performance?x=",
        "/observe/events?x=",
        "/observe/events?group_by=message&type=app_launch",
        "/telemetry/events?days=2",
        "/telemetry/events?type=crash",
        "/insights?x=",
        "/insights/adoption?x=",
        &format!("/flags/{flag}/health?x="),
        &format!("/flags/{flag}/evaluations?x="),
        "/flags?x=",
    ] {
        for channel in ["", "production", "default", "beta"] {
            let path = format!("{path}&channel={channel}");
            let answer = world.get(&path, token, Some(project)).await;
            views.push((path, answer.json()));
        }
    }
    views
}

async fn my_views(world: &World, flag: i64) -> Vec<(String, Value)> {
    views(world, flag, "dsp_my-app_viewer", "my-app").await
}

/// The last point of a time series.
async fn today(world: &World, query: &str) -> Value {
    let answer = world.read(&format!("/telemetry/timeseries?{query}")).await;
    answer["data"].as_array().unwrap().last().unwrap().clone()
}

fn fields<const N: usize>(of: &Value, names: [&str; N]) -> [Value; N] {
    names.map(|name| of[name].clone())
}

const COUNTS: [&str; 6] = [
    "devices",
    "launches",
    "errors",
    "crashes",
    "sessions",
    "errorRate",
];

#[tokio::test(flavor = "multi_thread")]
async fn devices_on_both_channels_are_one_in_the_time_series() {
    let (world, _) = furnished().await;
    for query in ["days=2", "days=1&bucket=hour", "days=2&flag_key=new-cart"] {
        let of = async |channel: &str| {
            let point = today(&world, &format!("{query}&channel={channel}")).await;
            let others = fields(&point, ["flagEvals", "updates"]);
            (fields(&point, COUNTS), others)
        };
        treat_default_as(&world, "null").await;
        let production = (json!([3, 3, 0, 0, 3, 0.0]), json!([3, 2]));
        let default = (json!([2, 2, 1, 1, 2, 100.0]), json!([5, 0]));
        let is = async |channel: &str, expected: &(Value, Value)| {
            let (counts, others) = of(channel).await;
            assert_eq!(
                (json!(counts), json!(others)),
                *expected,
                "{query} {channel}"
            );
        };
        is("production", &production).await;
        is("default", &default).await;
        let (all, beta) = (of("").await, of("beta").await);

        treat_default_as(&world, "'production'").await;
        // 3 and 2 devices, of which one is the same; 2 of 5 sessions failed.
        // Downloads are those of production.
        let merged = (json!([4, 5, 1, 1, 5, 40.0]), json!([8, 2]));
        is("production", &merged).await;
        is("default", &merged).await;
        assert_eq!((of("").await, of("beta").await), (all, beta), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_on_both_channels_are_one_in_the_health_of_flags() {
    let (world, flag) = furnished().await;
    let paths = [
        (format!("/flags/{flag}/health?hours=24"), "variations"),
        ("/telemetry/flag-impacts?x=".to_owned(), "data"),
        ("/telemetry/flag-impacts?by=update".to_owned(), "data"),
    ];
    for (path, list) in paths {
        let rows = async |channel: &str| {
            let answer = world.read(&format!("{path}&channel={channel}")).await;
            let rows = answer[list].as_array().unwrap().iter();
            let mut rows: Vec<_> = rows
                .map(|row| {
                    let channel = row["channel"].as_str().unwrap().to_owned();
                    let more = ["erroredDevices", "errorRateDelta"];
                    let counts = [&fields(row, COUNTS)[..], &fields(row, more)[..]];
                    (channel, Value::Array(counts.concat()))
                })
                .collect();
            rows.sort_by(|a, b| a.0.cmp(&b.0));
            rows
        };
        let row = |channel: &str, counts: Value| (channel.to_owned(), counts);
        treat_default_as(&world, "null").await;
        let production = row("production", json!([3, 3, 0, 0, 3, 0.0, 0, 0.0]));
        let default = row("default", json!([2, 2, 1, 1, 2, 100.0, 2, 50.0]));
        let beta = row("beta", json!([1, 1, 0, 0, 1, 0.0, 0, 0.0]));
        let all = [beta.clone(), default.clone(), production.clone()];
        assert_eq!(rows("").await, all, "{path}");
        assert_eq!(rows("production").await, [production], "{path}");
        assert_eq!(rows("default").await, [default], "{path}");

        treat_default_as(&world, "'production'").await;
        // The window before is merged as well.
        let merged = row("production", json!([4, 5, 1, 1, 5, 40.0, 2, -10.0]));
        assert_eq!(rows("").await, [beta.clone(), merged.clone()], "{path}");
        for channel in ["production", "default"] {
            let found = rows(channel).await;
            assert_eq!(found, std::slice::from_ref(&merged), "{path}");
        }
        assert_eq!(rows("beta").await, [beta], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_events_and_evaluations_of_both_channels_are_counted_together() {
    let (world, flag) = furnished().await;
    let samples = async |channel: &str| {
        let path = format!("/telemetry/performance?channel={channel}");
        let metric = &world.read(&path).await["metrics"][0];
        fields(&metric["latest"], ["sampleCount", "p50"])
    };
    let events = async |channel: &str| {
        let path = format!("/observe/events?type=app_launch,crash&channel={channel}");
        let answer = world.read(&path).await;
        let listed = answer["events"].as_array().unwrap().clone();
        assert_eq!(answer["total"], listed.len(), "{channel}");
        let mut shown: Vec<String> = listed
            .iter()
            .map(|event| event["channelName"].as_str().unwrap().to_owned())
            .collect();
        shown.sort_unstable();
        shown.join(" ")
    };
    let groups = async |channel: &str| {
        let path = format!("/observe/events?group_by=message&type=app_launch&channel={channel}");
        let group = &world.read(&path).await["groups"][0];
        fields(group, ["totalCount", "uniqueDevices"])
    };
    let evaluations = async |channel: &str| {
        let path = format!("/flags/{flag}/evaluations?channel={channel}");
        let answer = world.read(&path).await;
        [
            &answer["total"],
            &answer["daily"][6]["total"],
            &answer["byVariation"][0]["total"],
        ]
        .map(Value::clone)
    };
    let by_channel = async || world.read("/flags").await[0]["evalByChannel7d"].clone();
    let [p, d, b] = ["production", "default", "beta"];

    assert_eq!(samples(p).await, [json!(2), json!(200.0)]);
    assert_eq!(samples(d).await, [json!(2), json!(600.0)]);
    assert_eq!(events(p).await, [p; 3].join(" "));
    // With the crash of the day before and two launches.
    assert_eq!(events(d).await, [d; 6].join(" "));
    assert_eq!(groups(p).await, [3, 3]);
    assert_eq!(groups(d).await, [4, 4]);
    assert_eq!(evaluations(p).await, [3, 3, 3]);
    assert_eq!(evaluations(d).await, [5, 5, 5]);
    assert_eq!(by_channel().await, json!({b: 7, d: 5, p: 3}));

    treat_default_as(&world, "'production'").await;
    let names = [[b].as_slice(), &[p; 9]].concat().join(" ");
    assert_eq!(events("").await, names);
    for channel in [p, d] {
        assert_eq!(samples(channel).await, [json!(4), json!(400.0)]);
        assert_eq!(events(channel).await, [p; 9].join(" "));
        assert_eq!(groups(channel).await, [json!(7), json!(6)]);
        assert_eq!(evaluations(channel).await, [8, 8, 8]);
    }
    assert_eq!(evaluations(b).await, [7, 7, 7]);
    assert_eq!(by_channel().await, json!({b: 7, p: 8}));
}

/// Also of what was answered before: answers are remembered.
#[tokio::test(flavor = "multi_thread")]
async fn the_setting_is_of_its_project_and_of_views_alone() {
    let (world, flag) = furnished().await;
    let theirs = async || views(&world, flag, "dsp_other_viewer", "other").await;
    let (mine_before, theirs_before) = (my_views(&world, flag).await, theirs().await);

    treat_default_as(&world, "'production'").await;
    assert_eq!(theirs().await, theirs_before);
    let mine = my_views(&world, flag).await;
    // A session sees what a key sees.
    assert_eq!(views(&world, flag, SESSION, "my-app").await, mine);
    for ((path, before), (_, after)) in mine_before.iter().zip(&mine) {
        let raw = ["/telemetry/events", "/insights"];
        if raw.iter().any(|raw| path.starts_with(raw))
            || path.ends_with("channel=beta") && !path.starts_with("/flags?")
        {
            assert_eq!(before, after, "{path}");
        } else if !path.ends_with("channel=") {
            assert_ne!(before, after, "{path}");
        }
    }
    treat_default_as(&world, "'beta'").await;
    let beta = today(&world, "days=2&channel=beta").await;
    assert_eq!(
        fields(&beta, ["devices", "launches", "flagEvals"]),
        [3, 3, 12]
    );
    let production = today(&world, "days=2&channel=production").await;
    assert_eq!(fields(&production, ["devices", "launches"]), [3, 3]);

    treat_default_as(&world, "null").await;
    assert_eq!(my_views(&world, flag).await, mine_before);
}
