//! Flags that ask when a device first had the update that it runs.

use axum::http::Request;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sluice_schema::wire::flags::device_number;

use crate::world::{SLUG, World, eventually};

const UPDATE: &str = "6f0c1b7a-0000-4000-8000-000000000001";

/// A device reported `days` ago for the first time that it runs [`UPDATE`].
async fn had_it_for(world: &World, device: &str, days: u32) {
    let device = device_number(device);
    for (served, days) in [(0, days), (0, 0), (1, 900)] {
        let statement = format!(
            "INSERT INTO device_updates (month, project_id, update_uuid, served, device, n, first_at, last_at)
             SELECT toStartOfMonth(at), 1, '{UPDATE}', {served}, {device}, 1, at, at
             FROM (SELECT now64(6) - INTERVAL {days} DAY - INTERVAL 1 HOUR AS at)"
        );
        world
            .state
            .clickhouse
            .query(&statement)
            .execute()
            .await
            .unwrap();
    }
}

async fn bulk(world: &World, device: &str) -> Value {
    let body = json!({"projectSlug": SLUG, "deviceId": device, "updateId": UPDATE});
    let answer = world
        .post("/v1/ota/flag-evaluations-bulk", &[], &body)
        .await;
    answer.json()["flags"].clone()
}

async fn flags(world: &World) {
    world.update(UPDATE, "group").await;
    let by_rule = world.flag("by-rule").await;
    let window = json!({"matchBy": "updated_since", "withinDays": 3});
    world.rule(by_rule, "ota_update", window, json!(true)).await;
    let by_attribute = world.flag("by-attribute").await;
    let days = json!({"attribute": "ota.updated_within_days", "operator": "lt", "values": ["3"]});
    let days = json!({"conditions": [days]});
    world
        .rule(by_attribute, "attribute", days, json!(true))
        .await;
}

#[tokio::test]
async fn an_age_is_asked_for_behind_the_first_answer() {
    let world = World::with_clickhouse().await;
    flags(&world).await;
    had_it_for(&world, "new", 2).await;
    had_it_for(&world, "old", 4).await;
    for flag in ["by-rule", "by-attribute"] {
        assert_eq!(bulk(&world, "new").await[flag]["reason"], "DEFAULT");
    }
    eventually("the age", async || {
        let flags = bulk(&world, "new").await;
        let is_known = |flag: &str| flags[flag]["reason"] == "TARGETING_MATCH";
        (is_known("by-rule") && is_known("by-attribute")).then_some(())
    })
    .await;
    bulk(&world, "old").await;
    let stranger = bulk(&world, "stranger").await;
    assert_eq!(stranger["by-rule"]["reason"], "DEFAULT");
    // Asked for after both, so known after both.
    had_it_for(&world, "last", 0).await;
    eventually("the last age", async || {
        (bulk(&world, "last").await["by-rule"]["reason"] == "TARGETING_MATCH").then_some(())
    })
    .await;
    for device in ["old", "stranger"] {
        assert_eq!(bulk(&world, device).await["by-rule"]["reason"], "DEFAULT");
    }
}

#[tokio::test]
async fn a_stream_is_told_when_the_age_is_known() {
    let world = World::with_clickhouse().await;
    flags(&world).await;
    had_it_for(&world, "new", 2).await;
    let path = format!("/v1/ota/flag-stream/{SLUG}?deviceId=new&updateId={UPDATE}");
    let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
    let mut stream = world.send(request).await.into_body().into_data_stream();
    let mut next = async || {
        let frame = tokio::time::timeout(crate::world::PATIENCE, stream.next()).await;
        String::from_utf8(frame.unwrap().unwrap().unwrap().to_vec()).unwrap()
    };
    let put = next().await;
    assert!(put.contains("event: put") && !put.contains("TARGETING_MATCH"));
    let patches = next().await;
    assert_eq!(patches.matches("event: patch").count(), 2, "{patches}");
    assert_eq!(patches.matches("TARGETING_MATCH").count(), 2, "{patches}");
}

/// While what devices reported cannot be read, everything else is answered.
#[tokio::test]
async fn nothing_waits_for_an_age() {
    let world = World::start().await;
    flags(&world).await;
    assert_eq!(bulk(&world, "new").await["by-rule"]["reason"], "DEFAULT");
}
