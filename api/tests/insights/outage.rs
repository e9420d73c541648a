use axum::Router;
use axum::http::StatusCode;
use serde_json::json;
use sluice_schema::wire::manifests::ManifestRequest;
use tokio::time::timeout;

use crate::proxy::{Proxy, Way};
use crate::world::{Answer, PATIENCE, World, body, get, on};

async fn read(router: &Router, path: &str) -> Answer {
    let answer = get(router, path, "dsp_my-app_viewer", Some("my-app"));
    timeout(PATIENCE, answer).await.expect("an answer in time")
}

/// Asks again until the store is seen again: what is known of it may be a second old.
async fn recovered(router: &Router, path: &str) {
    let again = async {
        while read(router, path).await.status != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("recovered by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_refused_while_the_store_is_away_and_come_back() {
    let mut world = World::start().await;
    let flag = world.flag("new-cart").await;
    world.send(&[body("a", json!([on("app_launch", 1)]))]).await;
    world.settle().await;
    let proxy = Proxy::start(world.clickhouse_url()).await;
    let health = format!("/flags/{flag}/health");
    let paths = [
        "/telemetry/timeseries",
        "/telemetry/performance",
        "/telemetry/flag-impacts",
        "/observe/events",
        &health,
        "/telemetry/events?type=crash",
        "/insights",
        "/insights/adoption",
    ];
    for way in [Way::Cut, Way::Silent] {
        for path in paths {
            // Nothing remembered: the first read is in the outage.
            let router = world.over(proxy.url.clone());
            proxy.turn(way);
            let answer = read(&router, path).await;
            assert_eq!(
                answer.status,
                StatusCode::SERVICE_UNAVAILABLE,
                "{way:?} {path}"
            );
            assert!(answer.headers.contains_key("retry-after"), "{path}");
            let error = answer.json()["error"].as_str().unwrap().to_owned();
            assert!(
                !error.contains("127.0.0.1") && !error.contains("network"),
                "{error}"
            );
            proxy.turn(Way::Open);
            recovered(&router, path).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_are_listed_without_counts_while_the_store_is_away() {
    let mut world = World::start().await;
    let (_, update) = world.update("my-app", "1.0").await;
    let served = ManifestRequest {
        served: Some(update),
        device_id: "a",
        channel: "production",
        ..ManifestRequest::default()
    };
    world.manifests_at("my-app", world.now, &[served]).await;
    world.settle().await;
    assert_eq!(world.read("/updates").await[0]["totalDownloads"], 1);
    let proxy = Proxy::start(world.clickhouse_url()).await;
    for way in [Way::Cut, Way::Silent] {
        let router = world.over(proxy.url.clone());
        proxy.turn(way);
        let answer = read(&router, "/updates").await;
        assert_eq!(answer.status, StatusCode::OK, "{way:?}");
        assert_eq!(answer.json()[0]["updateUuid"], json!(update));
        assert_eq!(answer.json()[0]["totalDownloads"], 0, "{way:?}");
        proxy.turn(Way::Open);
    }
}
