//! Calls of the flag routes are evidence of an active device (telemetry.md §8).

use axum::body::Body;
use axum::http::{Request, StatusCode};
use chrono::TimeDelta;
use serde_json::{Value, json};
use sluice_api::{router, service};
use sluice_schema::wire::manifests::ManifestRequest;
use tower::ServiceExt as _;

use crate::world::{World, body, on, with};

const ADOPTION: &str = "/insights/adoption";

fn bulk(project: &str, more: Value) -> Request<Body> {
    let body = with(json!({"projectSlug": project, "deviceId": ""}), more);
    let request = Request::post("/v1/ota/flag-evaluations-bulk");
    let request = request.header("content-type", "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

fn stream(query: &str) -> Request<Body> {
    let request = Request::get(format!("/v1/ota/flag-stream/my-app?{query}"));
    request.body(Body::empty()).unwrap()
}

impl World {
    /// Devices call one process of the API, which then is told to stop.
    async fn call(&self, calls: Vec<(Request<Body>, StatusCode)>) {
        let state = self.state();
        for (call, expected) in calls {
            let answer = router(state.clone()).oneshot(call).await.unwrap();
            assert_eq!(answer.status(), expected);
        }
        service::finish(&state).await;
    }

    async fn active(&self, query: &str) -> u64 {
        let adoption = self.read(&format!("{ADOPTION}{query}")).await;
        let rows = adoption["currentAdoption"].as_array().unwrap().iter();
        let current: u64 = rows.map(|row| row["deviceCount"].as_u64().unwrap()).sum();
        let active = adoption["totalActiveDevices"].as_u64().unwrap();
        assert!(active >= current, "{adoption}");
        active
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_only_calls_flag_routes_is_active_once() {
    let mut world = World::start().await;
    let (id, update) = world.update("my-app", "1.0").await;
    let device = |id: &str| json!({"deviceId": id, "channel": "production", "platform": "ios"});
    world
        .call(vec![
            (bulk("my-app", device("flags-only")), StatusCode::OK),
            (bulk("my-app", device("flags-only")), StatusCode::OK),
            (
                stream("deviceId=flags-only&channel=production&platform=ios"),
                StatusCode::OK,
            ),
            (stream("device_id=streams&channel=beta"), StatusCode::OK),
            (bulk("my-app", device("healthy")), StatusCode::OK),
            (bulk("my-app", device("downloads")), StatusCode::OK),
            // Refused: no evidence of anything.
            (bulk("my-app", device("")), StatusCode::BAD_REQUEST),
            (bulk("nobody", device("refused")), StatusCode::NOT_FOUND),
            (bulk("other", device("theirs")), StatusCode::OK),
        ])
        .await;
    world
        .send(&[body("healthy", json!([on("app_launch", 1)]))])
        .await;
    let served = ManifestRequest {
        served: Some(update),
        device_id: "downloads",
        platform: "ios",
        channel: "production",
        ..ManifestRequest::default()
    };
    // Before the call, which names no update and so leaves it as it was.
    let before = world.now - TimeDelta::hours(1);
    world.manifests_at("my-app", before, &[served]).await;
    world.settle().await;

    assert_eq!(world.active("").await, 4);
    assert_eq!(world.active("?channel=production").await, 3);
    assert_eq!(world.active("?channel=beta&days=1").await, 1);
    assert_eq!(world.active("?platform=ios").await, 3);
    let adoption = world.read(ADOPTION).await;
    let rows = adoption["currentAdoption"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["updateId"], &rows[0]["deviceCount"]),
        (&json!(id), &json!(1))
    );
    assert_eq!(
        (&adoption["totalDownloads"], &adoption["installs"]),
        (&json!(1), &json!(0))
    );

    // Out of the window nobody is active.
    world.now += TimeDelta::days(3);
    world.settle().await;
    assert_eq!(world.active("?days=2").await, 0);
    assert_eq!(world.active("?days=4").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_waits_for_the_store() {
    let world = World::start().await;
    let state = world.state_over("http://127.0.0.1:1".to_owned());
    let call = bulk("my-app", json!({"deviceId": "d"}));
    let answer = router(state.clone()).oneshot(call).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    service::finish(&state).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_seen_in_one_hour_only_are_told_of() {
    let mut world = World::start().await;
    let launch = |device: &str| body(device, json!([on("app_launch", 1)]));
    let sends = [
        (1, "lasting"),
        (30, "lasting"),
        (30, "once"),
        (40, "once too"),
        // No id, the running hour, and before the week.
        (50, ""),
        (0, "new"),
        (24 * 7 + 1, "long ago"),
    ];
    for (hours, device) in sends {
        let at = world.now - TimeDelta::hours(hours);
        world.send_at("my-app", at, &[launch(device)]).await;
        world
            .send_at("other", at, &[launch(&hours.to_string())])
            .await;
    }
    let at = world.now - TimeDelta::hours(3);
    let sample = json!([{"type": "perf_sample", "name": "m", "tags": {"duration_ms": "1"}}]);
    world
        .send_at("my-app", at, &[body("samples", sample)])
        .await;
    world.settle().await;
    assert_eq!(world.read(ADOPTION).await["oneHourIds"], json!(66.67));
}
