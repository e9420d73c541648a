//! What a deleted project leaves in the analytic store (telemetry.md §9).

use std::collections::BTreeMap;

use axum::http::StatusCode;
use chrono::TimeDelta;
use serde_json::json;
use sluice_api::insights::purge_once;
use sluice_schema::wire::manifests::ManifestRequest;
use tokio::time::{Duration, sleep, timeout};

use crate::proxy::{Proxy, Way};
use crate::world::{PATIENCE, World, body, on};

/// What has rows of a device that reports and downloads.
const FILLED: [&str; 14] = [
    "client_devices",
    "custom_hours",
    "device_hours",
    "device_updates",
    "download_hours",
    "evaluation_hours",
    "event_hours",
    "flag_evaluations",
    "flag_maps",
    "health_events",
    "hourly_maps_now",
    "hourly_now",
    "manifest_requests",
    "perf_hours",
];

impl World {
    /// A device of a project reports and downloads.
    async fn fill(&mut self, slug: &str, project: i64) {
        let sample = json!({"type": "perf_sample", "name": "m", "tags": {"duration_ms": "5"}});
        let custom = json!({"type": "custom", "name": "n"});
        let events = json!([on("app_launch", 1), custom, sample]);
        self.send_at(slug, self.now, &[body("d", events)]).await;
        let (_, update) = self.update("other", "1.0").await;
        let served = ManifestRequest {
            served: Some(update),
            device_id: "d",
            client_id: "c",
            ..ManifestRequest::default()
        };
        self.manifests_at(slug, self.now, &[served]).await;
        let counted = format!(
            "INSERT INTO flag_evaluations (received_at, project_id, flag_key, value, source, count) \
             SELECT now64(6), {project}, 'f', 'true', 'sdk', 1"
        );
        self.clickhouse(&counted).await;
    }

    /// Tables with rows of a project.
    async fn left(&self, project: i64) -> Vec<String> {
        let mut rows = BTreeMap::new();
        for table in self.tables_of_projects().await {
            let count = format!("SELECT count() FROM {table} WHERE project_id = {project}");
            rows.insert(table, self.count(&count).await);
        }
        let filled = rows.into_iter().filter(|(_, rows)| *rows > 0);
        filled.map(|(table, _)| table).collect()
    }

    async fn until_nothing_is_left(&self, project: i64) {
        let gone = async {
            while !self.left(project).await.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deleted_project_leaves_goes_and_what_comes_late_too() {
    let mut world = World::start().await;
    world.fill("my-app", 1).await;
    world.fill("other", 2).await;
    world.settle().await;
    assert_eq!(world.left(1).await, FILLED);
    assert_eq!(world.left(2).await, FILLED);
    assert_eq!(purge_once(&world.state()).await.expect("a look"), 0);

    // In the log when its project goes.
    let late = body("late", json!([on("app_launch", 1)]));
    world.send_at("my-app", world.now, &[late]).await;
    world
        .run("delete from projects where slug = 'my-app'")
        .await;
    let read = world.get("/observe/events", "dsp_my-app_viewer", Some("my-app"));
    assert_eq!(read.await.status, StatusCode::UNAUTHORIZED, "at once");
    let proxy = Proxy::start(world.clickhouse_url()).await;
    proxy.turn(Way::Cut);
    let away = world.state_over(proxy.url.clone());
    purge_once(&away).await.expect_err("the store is away");

    assert_eq!(purge_once(&world.state()).await.expect("a look"), 1);
    world.until_nothing_is_left(1).await;
    assert_eq!(world.left(2).await, FILLED, "nobody else's");

    world.settle().await;
    assert!(!world.left(1).await.is_empty(), "it came late");
    assert_eq!(purge_once(&world.state()).await.expect("a look"), 0);
    world.now += TimeDelta::hours(21);
    assert_eq!(purge_once(&world.state()).await.expect("a look"), 1);
    world.until_nothing_is_left(1).await;

    // Once nothing can come any more nobody looks.
    world.now += TimeDelta::days(10);
    assert_eq!(purge_once(&world.state()).await.expect("a look"), 1);
    world.now += TimeDelta::days(10);
    assert_eq!(purge_once(&world.state()).await.expect("a look"), 0);
}
