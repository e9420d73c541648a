//! Releases as the flag routes for devices see them, a moment after they change.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::world::{OURS, World, authorized};

const PATIENCE: Duration = Duration::from_mins(1);

/// The flag as a device that runs this update gets it.
async fn evaluate(world: &World, update: &Value) -> Value {
    let body =
        json!({"projectSlug": OURS, "deviceId": "d", "channel": "production", "updateId": update});
    let request = authorized("POST", "/flag-evaluations-bulk", OURS, "viewer");
    let request = request.header("content-type", "application/json");
    let answer = world
        .send(request.body(body.to_string().into()).unwrap())
        .await;
    answer.of(200)["flags"]["pay"].clone()
}

async fn becomes(world: &World, update: &Value, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let flag = evaluate(world, update).await;
        if flag["reason"] == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{flag} does not become {expected}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn links_and_branches_follow_what_becomes_of_updates() {
    let world = World::start().await;
    let follower = tokio::spawn(world.state.flags.clone().follow());
    world
        .run(
            "insert into flags (project_id, key, name, flag_type, default_value)
             select id, 'pay', 'Pay', 'boolean', 'false' from projects where slug = 'ours';
             insert into flag_variations (project_id, flag_id, value, sort_order)
             select project_id, id, v::jsonb, 0 from flags, unnest(array['true', 'false']) v;
             insert into flag_rules (project_id, flag_id, rule_type, rule_config, variant_value)
             select project_id, id, 'ota_update', '{\"matchBy\": \"branch\", \"branch\": \"canary\"}', 'true' from flags",
        )
        .await;
    let flag = world.value("select id from flags").await;
    let build = world.build(b"bundle").await;
    let publish = async |body: Value| {
        world
            .post(&format!("/builds/{build}/publish"), body)
            .await
            .of(201)
    };
    // Asked before there is anything, so that what follows comes by notification.
    assert_eq!(evaluate(&world, &json!(null)).await["reason"], "DEFAULT");

    let plain = publish(json!({"channel": "production"})).await;
    let canary = publish(json!({"channel": "canary"})).await;
    becomes(&world, &canary["updateUuid"], "TARGETING_MATCH").await;
    assert_eq!(
        evaluate(&world, &plain["updateUuid"]).await["reason"],
        "DEFAULT"
    );

    let link = json!([{"flagId": flag, "enabled": true}]);
    let linked = publish(json!({"channel": "production", "linkedFlags": link})).await;
    becomes(&world, &linked["updateUuid"], "RELEASE_OVERRIDE").await;
    assert_eq!(evaluate(&world, &linked["updateUuid"]).await["value"], true);

    let path = format!("/updates/{}", linked["updateId"]);
    for (is_enabled, expected) in [(false, "DEFAULT"), (true, "RELEASE_OVERRIDE")] {
        world
            .call("PATCH", &path, Some(json!({"isEnabled": is_enabled})))
            .await
            .of(204);
        becomes(&world, &linked["updateUuid"], expected).await;
    }
    world.call("DELETE", &path, None).await.of(204);
    becomes(&world, &linked["updateUuid"], "DEFAULT").await;
    follower.abort();
}
