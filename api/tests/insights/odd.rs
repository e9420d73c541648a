//! Parameters that mean nothing, or harm: an answer or a refusal, and never our
//! own trouble (telemetry.md §5.0).

use serde_json::json;

use crate::world::{World, body, on};

/// Every read that takes texts, with those that it takes.
const TEXTS: [(&str, &[&str]); 8] = [
    (
        "/telemetry/timeseries",
        &["channel", "platform", "flag_key", "bucket"],
    ),
    (
        "/telemetry/flag-impacts",
        &["channel", "platform", "flag_key", "by"],
    ),
    (
        "/telemetry/events",
        &[
            "channel", "platform", "flag_key", "type", "severity", "status",
        ],
    ),
    (
        "/telemetry/events?type=js_error",
        &["channel", "platform", "flag_key", "severity", "status"],
    ),
    (
        "/telemetry/performance",
        &["channel", "platform", "runtime_version"],
    ),
    (
        "/observe/events",
        &[
            "channel",
            "platform",
            "flag_key",
            "type",
            "search",
            "device_id",
            "update_uuid",
            "runtime_version",
            "error_name",
            "group_by",
            "from",
            "to",
            "cursor",
        ],
    ),
    (
        "/flags/1/health",
        &["channel", "platform", "runtime_version"],
    ),
    ("/flags/1/evaluations", &["channel"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_text_is_our_own_trouble() {
    let mut world = World::start().await;
    world.flag("new-cart").await;
    world
        .send(&[body("a", json!([on("app_launch", 1), on("js_error", 1)]))])
        .await;
    world.settle().await;
    let quotes = "'".repeat(20_000);
    let texts = [
        "%00",
        "a%00b",
        "%FF",
        "%F0%9F%98%80",
        "?",
        "%3F%27%5C%22",
        "%25_%25",
        &quotes,
        "9999-12-31",
        "-9999-01-01T00:00:00Z",
        "9223372036854775807.0.0.0",
        "\\",
    ];
    for (path, names) in TEXTS {
        for name in names {
            for text in texts {
                let between = if path.contains('?') { '&' } else { '?' };
                let query = format!("{path}{between}{name}={text}");
                let answer = world.get(&query, "dsp_my-app_viewer", Some("my-app")).await;
                let short = &query[..query.len().min(80)];
                let status = answer.status.as_u16();
                assert!(
                    matches!(status, 200 | 400),
                    "{short}: {status} {:?}",
                    answer.body
                );
                if status == 400 {
                    assert!(answer.json()["error"].is_string(), "{short}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_far_future_is_it_is_after_now() {
    let mut world = World::start().await;
    for hours in [0, 2, 50] {
        let at = world.now - chrono::TimeDelta::hours(hours);
        world
            .send_at("my-app", at, &[body("a", json!([on("js_error", 1)]))])
            .await;
    }
    world.settle().await;
    for to in [
        "2100-01-01",
        "2110-01-01",
        "2150-06-01T00:00:00Z",
        "2300-01-01",
        "9999-12-31",
    ] {
        let answer = world.read(&format!("/observe/events?to={to}")).await;
        let listed = answer["events"].as_array().unwrap().len();
        assert_eq!((&answer["total"], listed), (&json!(3), 3), "{to}");
        let groups = world
            .read(&format!("/observe/events?group_by=name&to={to}"))
            .await;
        assert_eq!(groups["total"], 1, "{to}");
    }
    for from in ["0001-01-01", "1969-12-31T23:59:59Z"] {
        let answer = world.read(&format!("/observe/events?from={from}")).await;
        assert_eq!(answer["total"], 3, "{from}");
    }
}
