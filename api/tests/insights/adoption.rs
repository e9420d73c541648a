//! Updates that devices do not take (telemetry.md §6, `adoption_drop`).

use chrono::TimeDelta;
use serde_json::{Value, json};
use sluice_api::insights::watch_once;
use sluice_schema::wire::manifests::ManifestRequest;
use uuid::Uuid;

use crate::world::{World, body, with};

const DROPS: &str = "/telemetry/events?type=adoption_drop";

/// So many devices that were seen running an update.
fn running(prefix: &str, n: usize, update: Uuid) -> Vec<Value> {
    let device = |n: usize| {
        let launch = body(
            &format!("{prefix}-{n}"),
            json!([{"type": "app_launch", "count": 1}]),
        );
        with(
            launch,
            json!({"updateUuid": update.to_string().to_uppercase()}),
        )
    };
    (0..n).map(device).collect()
}

impl World {
    /// These devices were active today and, those of `before`, the day before.
    async fn two_days(&mut self, today: &[Value], before: &[Value]) {
        let yesterday = self.now - TimeDelta::hours(30);
        self.send_at("my-app", yesterday, before).await;
        self.send_at("my-app", self.now - TimeDelta::hours(3), today)
            .await;
    }

    /// An update that goes to everybody for so many hours.
    async fn full_for(&mut self, hours: i64) -> (i64, Uuid) {
        let (id, uuid) = self.update("my-app", "1.0").await;
        let since = self.now - TimeDelta::hours(hours);
        self.run(&format!(
            "update updates set full_since = '{since}' where id = {id}"
        ))
        .await;
        (id, uuid)
    }

    /// What a round a minute later tells (telemetry.md §6: every 60 s at least).
    async fn drops(&mut self) -> Vec<Value> {
        self.now += TimeDelta::minutes(1);
        self.settle().await;
        assert!(watch_once(&self.state()).await.expect("a round"));
        let drops = self.read(DROPS).await;
        drops.as_array().expect("a bare array").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_few_take_is_told_of_once() {
    let mut world = World::start().await;
    let (_, old) = world.full_for(500).await;
    let (id, uuid) = world.full_for(30).await;
    let mut today = running("old", 90, old);
    today.extend(running("new", 30, uuid));
    let mut before = running("old", 90, old);
    before.extend(running("new", 30, uuid));
    world.two_days(&today, &before).await;

    let drops = world.drops().await;
    assert_eq!(
        drops,
        [json!({
            "id": drops[0]["id"], "timestamp": world.now, "type": "adoption_drop",
            "severity": "warning", "status": "healthy", "title": "Adoption drop on production",
            "description": "25.0 % of 120 active devices on runtime version 1.0 have the update, \
                            which goes to all of them for 30 hours; a day before 25.0 % had it",
            "linkedFlag": null, "linkedUpdate": {"id": id, "runtimeVersion": "1.0"},
            "affectedDevices": 90, "channel": "production", "platforms": ["ios"], "count": 30,
            "deviceId": null, "updateUuid": null, "runtimeVersion": null,
        })]
    );
    // Neither within the hour nor after it is the same told again.
    assert_eq!(world.drops().await, drops);
    world.now += TimeDelta::hours(1);
    assert_eq!(world.drops().await, drops);
    assert_eq!(
        world.read("/telemetry/events?status=healthy").await,
        json!(drops)
    );

    // It went to some only, and now goes to everybody again.
    world
        .run(&format!(
            "update updates set rollout_percentage = 10 where id = {id};
             update updates set rollout_percentage = 100 where id = {id}"
        ))
        .await;
    let since = world.now - TimeDelta::minutes(1);
    world
        .run(&format!(
            "update updates set full_since = '{since}' where id = {id}"
        ))
        .await;
    assert_eq!(world.drops().await, drops, "on its way");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_still_growing_new_or_of_few_devices_is_no_drop() {
    let mut world = World::start().await;
    let (_, old) = world.full_for(500).await;
    let (id, uuid) = world.full_for(23).await;
    // 99 devices, of whom none has it.
    world
        .two_days(&running("old", 99, old), &running("old", 99, old))
        .await;
    assert_eq!(world.drops().await, Vec::<Value>::new());
    world
        .run(&format!(
            "update updates set full_since = full_since - interval '9 hours' where id = {id}"
        ))
        .await;
    assert_eq!(world.drops().await, Vec::<Value>::new(), "99 devices");
    // Two of 101, of nobody the day before: it grows.
    world.two_days(&running("new", 2, uuid), &[]).await;
    assert_eq!(world.drops().await, Vec::<Value>::new(), "still growing");
    // Half of them.
    world
        .two_days(&running("more", 97, uuid), &running("more", 99, uuid))
        .await;
    assert_eq!(world.drops().await, Vec::<Value>::new(), "half have it");
    // One more without it, and the share fell.
    world.two_days(&running("last", 2, old), &[]).await;
    assert_eq!(world.drops().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_update_that_all_devices_of_its_own_get_can_drop() {
    let mut world = World::start().await;
    let (_, old) = world.full_for(500).await;
    let (id, _) = world.full_for(30).await;
    let elsewhere = |more: Value| -> Vec<Value> {
        let bodies = running("old", 150, old).into_iter();
        bodies.map(|body| with(body, more.clone())).collect()
    };
    for more in [
        json!({"channel": "beta"}),
        json!({"platform": "android"}),
        json!({"runtimeVersion": "2.0"}),
    ] {
        let bodies = elsewhere(more);
        world.two_days(&bodies, &bodies).await;
    }
    assert_eq!(world.drops().await, Vec::<Value>::new(), "other devices");

    let bodies = running("old", 150, old);
    world.two_days(&bodies, &bodies).await;
    let ways = [
        (format!("update updates set is_enabled = false where id >= {id}"),
         format!("update updates set is_enabled = true where id >= {id}; update updates set full_since = '2020-01-01' where id = {id}")),
        (format!("update updates set rollout_percentage = 99 where id = {id}"),
         format!("update updates set rollout_percentage = 100 where id = {id}; update updates set full_since = '2020-01-01' where id = {id}")),
        // A newer one takes devices from it.
        ("insert into updates (project_id, runtime_version, platform, channel, branch_name, group_id, rollout_percentage)
          select id, '1.0', 'ios', 'production', 'main', 'h', 5 from projects where slug = 'my-app'".to_owned(),
         "delete from updates where group_id = 'h'".to_owned()),
        // So does a branch rollout of the channel.
        ("insert into branches (project_id, name) select id, b from projects, (values ('main'), ('next')) v (b) where slug = 'my-app';
          insert into channels (project_id, name, branch_name, rollout_branch_name, rollout_percentage)
          select id, 'production', 'main', 'next', 10 from projects where slug = 'my-app'".to_owned(),
         "update channels set rollout_branch_name = null".to_owned()),
        // The channel now has another branch.
        ("update channels set branch_name = 'next'".to_owned(), "update channels set branch_name = 'main'".to_owned()),
        (format!("update updates set is_rollback = true where id = {id}"),
         format!("update updates set is_rollback = false where id = {id}")),
    ];
    // The one below it would be next.
    world
        .run(&format!(
            "update updates set is_enabled = false where id < {id}"
        ))
        .await;
    for (way, back) in ways {
        world.run(&way).await;
        assert_eq!(world.drops().await, Vec::<Value>::new(), "{way}");
        world.run(&back).await;
    }
    assert_eq!(world.drops().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_only_ask_for_manifests_are_looked_at_too() {
    let mut world = World::start().await;
    let (_, uuid) = world.full_for(30).await;
    let embedded = Uuid::from_u128(77);
    let ids: Vec<String> = (0..100).map(|n| format!("device-{n}")).collect();
    let asks = |id, client_id, served, current| ManifestRequest {
        device_id: id,
        client_id,
        served,
        current,
        platform: "ios",
        runtime_version: "1.0",
        channel: "production",
        ..ManifestRequest::default()
    };
    // Native code asks before the app has set its device id: one device, not two.
    let client = |id: &str| format!("client-of-{id}");
    let clients: Vec<String> = ids.iter().map(|id| client(id)).collect();
    let mut requests = Vec::new();
    for (n, (id, client)) in ids.iter().zip(&clients).enumerate() {
        requests.push(asks("", client, None, Some(embedded)));
        let served = (n < 49).then_some(uuid);
        requests.push(asks(id, client, served, Some(embedded)));
    }
    for hours in [30, 3] {
        let at = world.now - TimeDelta::hours(hours);
        world.manifests_at("my-app", at, &requests).await;
    }
    let drops = world.drops().await;
    let first = &drops[0];
    assert_eq!(
        (&first["count"], &first["affectedDevices"], drops.len()),
        (&json!(49), &json!(51), 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn since_when_an_update_goes_to_everybody_follows_every_writer() {
    let world = World::start().await;
    let (id, _) = world.update("my-app", "1.0").await;
    let full = async |change: &str| -> Option<bool> {
        world
            .run(&format!("update updates set {change} where id = {id}"))
            .await;
        let since = "select full_since = created_at from updates where id = $1";
        let since = sqlx::query_scalar(since).bind(id);
        since.fetch_one(&world.pool).await.unwrap()
    };
    assert_eq!(full("release_message = 'm'").await, Some(true));
    // What changes nothing does not begin it again.
    assert_eq!(
        full("rollout_percentage = 100, is_enabled = true").await,
        Some(true)
    );
    assert_eq!(full("rollout_percentage = 99").await, None);
    assert_eq!(full("rollout_percentage = 100").await, Some(false));
    assert_eq!(full("is_enabled = false").await, None);
    assert_eq!(full("is_enabled = true").await, Some(false));
}
