use serde_json::json;

use crate::world::{World, body, on};

const READS: [&str; 9] = [
    "/telemetry/timeseries",
    "/telemetry/performance",
    "/telemetry/flag-impacts",
    "/observe/events",
    "/flags/1/health",
    "/telemetry/events",
    "/insights",
    "/insights/1",
    "/insights/adoption",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_read_by_its_own_people_alone() {
    let world = World::start().await;
    for path in READS {
        let status = async |token: &str, project| world.get(path, token, project).await.status;
        assert_eq!(status("", Some("my-app")).await, 401, "{path}");
        assert_eq!(status("wrong", Some("my-app")).await, 401, "{path}");
        assert_eq!(status("dsp_my-app_viewer", None).await, 400, "{path}");
        assert_eq!(
            status("dsp_my-app_viewer", Some("other")).await,
            404,
            "{path}"
        );
        assert_eq!(
            status("dsp_my-app_viewer", Some("nobody")).await,
            404,
            "{path}"
        );
        assert_eq!(
            status("dsp_my-app_publishable", Some("my-app")).await,
            403,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_never_shows_what_others_sent() {
    let mut world = World::start().await;
    world.flag("new-cart").await;
    let sample = json!({"type": "perf_sample", "name": "m", "tags": {"duration_ms": "5"}});
    let events = json!([on("app_launch", 1), on("js_error", 1), sample]);
    world
        .send_at("other", world.now, &[body("a", events)])
        .await;
    world.settle().await;
    let nothing = [
        json!({"data": [], "lastUpdatedAt": null}),
        json!({"metrics": [], "lastUpdatedAt": null}),
        json!({"data": [], "totalDevices": 0, "lastUpdatedAt": null}),
        json!({"events": [], "total": 0, "nextCursor": null}),
    ];
    for (path, nothing) in READS.iter().zip(nothing) {
        assert_eq!(world.read(path).await, nothing, "{path}");
        let theirs = world
            .get(path, "dsp_other_viewer", Some("other"))
            .await
            .json();
        if *path != "/telemetry/flag-impacts" {
            assert_ne!(theirs, nothing, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_parameter_is_refused_by_name() {
    let world = World::start().await;
    for (query, name) in [
        ("/telemetry/timeseries?days=x", "days"),
        ("/telemetry/performance?hours=1.5", "hours"),
        ("/telemetry/flag-impacts?days=many", "days"),
        (
            "/telemetry/flag-impacts?includeDisabled=perhaps",
            "include_disabled",
        ),
        ("/observe/events?limit=ten", "limit"),
        ("/observe/events?offset=100001", "offset"),
        ("/observe/events?from=yesterday", "from"),
        ("/observe/events?to=2026-13-01", "to"),
        ("/observe/events?cursor=x", "cursor"),
        ("/flags/1/health?hours=x", "hours"),
        ("/telemetry/events?days=x", "days"),
        ("/telemetry/events?offset=100001", "offset"),
        ("/insights?limit=x", "limit"),
        ("/insights/adoption?updateId=x", "update_id"),
    ] {
        let answer = world.get(query, "dsp_my-app_viewer", Some("my-app")).await;
        assert_eq!(answer.status, 400, "{query}");
        let message = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains(name), "{query}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_and_its_parameters_are_described() {
    let world = World::start().await;
    let document = world.get("/openapi.json", "", None).await.json();
    for (path, parameters) in [
        (
            "telemetry/timeseries",
            vec!["days", "bucket", "channel", "platform", "flag_key"],
        ),
        ("telemetry/performance", vec!["hours", "runtime_version"]),
        ("telemetry/flag-impacts", vec!["by", "include_disabled"]),
        (
            "observe/events",
            vec!["type", "group_by", "from", "cursor", "page"],
        ),
        ("flags/{id}/health", vec!["id", "hours"]),
        (
            "telemetry/events",
            vec!["days", "flag_key", "type", "severity", "status", "offset"],
        ),
        ("insights", vec!["limit", "offset"]),
        ("insights/{id}", vec!["id"]),
        (
            "insights/adoption",
            vec!["days", "update_id", "bucket", "channel", "platform"],
        ),
    ] {
        let operation = &document["paths"][format!("/v1/ota/{path}")]["get"];
        let described: Vec<&str> = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        for parameter in parameters {
            assert!(described.contains(&parameter), "{path}: {described:?}");
        }
        for status in ["200", "400", "401", "403", "404", "503"] {
            assert!(
                operation["responses"][status].is_object(),
                "{path} {status}"
            );
        }
    }
}
