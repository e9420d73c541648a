use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sluice_schema::wire::manifests::ManifestRequest;
use uuid::Uuid;

use crate::world::{World, body, on, with};

/// An iOS device on production asks for its manifest and is told that there is nothing new.
fn asks<'a>(device_id: &'a str, client_id: &'a str) -> ManifestRequest<'a> {
    ManifestRequest {
        device_id,
        client_id,
        platform: "ios",
        runtime_version: "1.0",
        channel: "production",
        ..ManifestRequest::default()
    }
}

/// The same, and is served an update.
fn served<'a>(update: Uuid, device_id: &'a str, client_id: &'a str) -> ManifestRequest<'a> {
    ManifestRequest {
        served: Some(update),
        ..asks(device_id, client_id)
    }
}

/// The same, and runs an update.
fn running<'a>(update: Uuid, device_id: &'a str, client_id: &'a str) -> ManifestRequest<'a> {
    ManifestRequest {
        current: Some(update),
        ..asks(device_id, client_id)
    }
}

/// A launch of a device that says what it runs.
fn launch(device: &str, update: impl serde::Serialize) -> Value {
    let launch = body(device, json!([on("app_launch", 1)]));
    with(launch, json!({ "updateUuid": update }))
}

impl World {
    /// My-app's devices ask one after another, a minute apart, from a moment on.
    async fn ask_from(&mut self, at: DateTime<Utc>, requests: &[ManifestRequest<'_>]) {
        for (minutes, request) in (0..).zip(requests) {
            let at = at + TimeDelta::minutes(minutes);
            let request = std::slice::from_ref(request);
            self.manifests_at("my-app", at, request).await;
        }
    }

    /// From noon on.
    async fn ask(&mut self, requests: &[ManifestRequest<'_>]) {
        self.ask_from(self.now - TimeDelta::minutes(30), requests)
            .await;
    }

    async fn totals(&self, id: i64) -> [u64; 3] {
        let answer = self.read(&format!("/insights/{id}")).await;
        assert_eq!(answer["updateId"], id);
        let fields = ["totalDownloads", "uniqueDevices", "installs"];
        fields.map(|field| answer[field].as_u64().unwrap())
    }

    /// (update, devices) of current adoption, and how many devices are active.
    async fn current(&self, query: &str) -> (Vec<(i64, u64)>, u64) {
        let answer = self.read(&format!("/insights/adoption{query}")).await;
        let rows = answer["currentAdoption"].as_array().unwrap().iter();
        let row = |row: &Value| {
            let count = row["deviceCount"].as_u64().unwrap();
            (row["updateId"].as_i64().unwrap(), count)
        };
        let active = answer["totalActiveDevices"].as_u64().unwrap();
        (rows.map(row).collect(), active)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_is_empty_and_zero() {
    let world = World::start().await;
    let (id, _) = world.update("my-app", "1.0").await;
    assert_eq!(world.read("/insights").await, json!([]));
    assert_eq!(world.totals(id).await, [0, 0, 0]);
    assert_eq!(world.totals(id + 7).await, [0, 0, 0]);
    let nothing = json!({
        "timeseries": [], "currentAdoption": [], "totalActiveDevices": 0, "totalDownloads": 0,
        "installs": 0, "oneHourIds": null,
    });
    assert_eq!(world.read("/insights/adoption").await, nothing);
    let unknown = world.read("/insights/adoption?updateId=99").await;
    assert_eq!(unknown, nothing);
    let update = &world.read("/updates").await[0];
    assert_eq!(update["totalDownloads"], 0);
    assert_eq!(update["uniqueDevices"], 0);
    let word = world.get("/insights/x", "dsp_my-app_viewer", Some("my-app"));
    assert_eq!(word.await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_serves_to_one_device_are_two_downloads_of_one() {
    let mut world = World::start().await;
    let (a, a_uuid) = world.update("my-app", "1.0").await;
    let (b, b_uuid) = world.update("my-app", "1.0").await;
    world
        .ask(&[
            served(a_uuid, "d", ""),
            served(a_uuid, "d", ""),
            served(b_uuid, "d", ""),
            asks("d", ""),
        ])
        .await;
    world.replay_manifests();
    world.settle().await;
    assert_eq!(world.totals(a).await, [2, 1, 0]);
    assert_eq!(world.totals(b).await, [1, 1, 0]);
    let list = world.read("/insights").await;
    let expected = json!([
        {"updateId": a, "totalDownloads": 2, "uniqueDevices": 1, "installs": 0},
        {"updateId": b, "totalDownloads": 1, "uniqueDevices": 1, "installs": 0},
    ]);
    assert_eq!(list, expected);
    let second = world.read("/insights?limit=1&offset=1").await;
    assert_eq!(second, json!([expected[1]]));
    let updates = world.read("/updates").await;
    let item = |id: i64| {
        let all = updates.as_array().unwrap().iter();
        all.clone().find(|update| update["id"] == id).unwrap()
    };
    assert_eq!(item(a)["totalDownloads"], 2);
    assert_eq!(item(a)["uniqueDevices"], 1);
    // Served A, then B: it counts under B.
    assert_eq!(world.current("").await, (vec![(b, 1)], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn adoption_has_every_field() {
    let mut world = World::start().await;
    let (a, a_uuid) = world.update("my-app", "1.0").await;
    let yesterday = world.now - TimeDelta::days(1);
    world
        .ask_from(
            yesterday,
            &[served(a_uuid, "d", ""), served(a_uuid, "e", "")],
        )
        .await;
    world
        .ask(&[served(a_uuid, "d", ""), running(a_uuid, "d", "")])
        .await;
    world.settle().await;
    let day = |at: DateTime<Utc>| at.format("%Y-%m-%dT00:00:00Z").to_string();
    let expected = json!({
        "timeseries": [
            {"bucketTime": day(yesterday), "updateId": a, "downloads": 2, "uniqueDevices": 2},
            {"bucketTime": day(world.now), "updateId": a, "downloads": 1, "uniqueDevices": 1},
        ],
        "currentAdoption": [{
            "updateId": a, "updateUuid": a_uuid, "runtimeVersion": "1.0", "channel": "production",
            "branchName": "main", "deviceCount": 2,
        }],
        "totalActiveDevices": 2, "totalDownloads": 3, "installs": 1, "oneHourIds": null,
    });
    assert_eq!(world.read("/insights/adoption").await, expected);
    let by_hour = world.read("/insights/adoption?bucket=hour").await;
    let at = world.now.format("%Y-%m-%dT%H:00:00Z").to_string();
    assert_eq!(by_hour["timeseries"][1]["bucketTime"], json!(at));
    // An anonymous download is one, of nobody.
    world.ask(&[served(a_uuid, "", "")]).await;
    world.settle().await;
    assert_eq!(world.totals(a).await, [4, 2, 1]);
    let (_, active) = world.current("").await;
    assert_eq!(active, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_adoption_choose_what_they_say() {
    let mut world = World::start().await;
    let (a, a_uuid) = world.update("my-app", "1.0").await;
    let (b, b_uuid) = world.update("my-app", "1.0").await;
    let beta = ManifestRequest {
        channel: "beta",
        ..served(b_uuid, "e", "")
    };
    let android = ManifestRequest {
        platform: "android",
        ..served(b_uuid, "f", "")
    };
    world
        .ask(&[
            served(a_uuid, "d", ""),
            beta,
            android,
            running(a_uuid, "d", ""),
        ])
        .await;
    world.settle().await;
    let one = world
        .read(&format!("/insights/adoption?updateId={b}"))
        .await;
    assert_eq!(one["totalDownloads"], 2);
    assert_eq!(one["timeseries"].as_array().unwrap().len(), 1);
    assert_eq!(one["installs"], 0);
    assert_eq!(one["totalActiveDevices"], 3, "of all updates");
    assert_eq!(one["currentAdoption"].as_array().unwrap().len(), 2);
    assert_eq!(world.current("?channel=beta").await, (vec![(b, 1)], 1));
    assert_eq!(world.current("?platform=android").await, (vec![(b, 1)], 1));
    assert_eq!(world.current("").await, (vec![(b, 2), (a, 1)], 3));
    let beta = world.read("/insights/adoption?channel=beta").await;
    assert_eq!(beta["totalDownloads"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_the_device_else_its_client() {
    let mut world = World::start().await;
    let (a, a_uuid) = world.update("my-app", "1.0").await;
    let (b, b_uuid) = world.update("my-app", "1.0").await;
    world
        .ask(&[
            // Native code asks before JavaScript has set the device id.
            served(a_uuid, "", "x"),
            served(a_uuid, "d", "x"),
            // The client is known from another update.
            served(b_uuid, "", "x"),
            served(b_uuid, "d", ""),
            // Of a client that never had a device id.
            served(b_uuid, "", "y"),
            served(b_uuid, "", "y"),
            // Nobody.
            served(b_uuid, "", ""),
        ])
        .await;
    world.settle().await;
    assert_eq!(world.totals(a).await, [2, 1, 0]);
    assert_eq!(world.totals(b).await, [5, 2, 0]);
    assert_eq!(world.current("").await, (vec![(b, 2)], 2));
    // The same client in the hands of another device: the one last seen counts.
    let later = world.now - TimeDelta::minutes(2);
    world.ask_from(later, &[asks("e", "x")]).await;
    world.settle().await;
    assert_eq!(world.totals(a).await, [2, 2, 0], "d, and e by its client");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_health_and_manifests_is_ordered_by_time() {
    let mut world = World::start().await;
    let (a, a_uuid) = world.update("my-app", "1.0").await;
    let (b, b_uuid) = world.update("my-app", "1.0").await;
    let at = |minutes| world.now - TimeDelta::minutes(minutes);
    let (first, second, third) = (at(20), at(15), at(10));
    // One that runs A is served B while it asks; one runs B since; one is back on A.
    let served_b = |device| ManifestRequest {
        current: Some(a_uuid),
        ..served(b_uuid, device, "")
    };
    let requests = [served_b("d"), served_b("e"), served_b("f")];
    world.manifests_at("my-app", second, &requests).await;
    let upper_case = a_uuid.to_string().to_uppercase();
    world
        .send_at("my-app", first, &[launch("d", a_uuid), launch("e", a_uuid)])
        .await;
    world
        .send_at(
            "my-app",
            third,
            &[launch("e", b_uuid), launch("f", upper_case)],
        )
        .await;
    // One says nothing of what it runs, and one is on the bundle in its app.
    let embedded = launch("h", Uuid::from_u128(1));
    world
        .send_at(
            "my-app",
            third,
            &[launch("g", ()), embedded, launch("d", "none")],
        )
        .await;
    let sample = json!([{"type": "perf_sample", "name": "m", "tags": {"duration_ms": "5"}}]);
    world
        .send_at(
            "my-app",
            third,
            &[body("", json!([on("crash", 1)])), body("i", sample)],
        )
        .await;
    world.settle().await;
    assert_eq!(world.current("").await, (vec![(b, 2), (a, 1)], 5));
    assert_eq!(
        world.totals(a).await,
        [0, 0, 3],
        "d, e and f were seen on A"
    );
    assert_eq!(world.totals(b).await, [3, 3, 1]);
    let adoption = world.read("/insights/adoption").await;
    assert_eq!(
        adoption["installs"], 4,
        "the bundle in the app is no update"
    );
    world.replay();
    world.replay_manifests();
    world.settle().await;
    assert_eq!(world.read("/insights/adoption").await, adoption);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_window_is_looked_at() {
    let mut world = World::start().await;
    let (a, a_uuid) = world.update("my-app", "1.0").await;
    let (b, b_uuid) = world.update("my-app", "1.0").await;
    let midnight = world
        .now
        .date_naive()
        .and_time(chrono::NaiveTime::MIN)
        .and_utc();
    let of_7_days = midnight - TimeDelta::days(6);
    let before = of_7_days - TimeDelta::microseconds(1);
    let long_ago = world.now - TimeDelta::days(200);
    world.ask_from(long_ago, &[served(a_uuid, "old", "")]).await;
    world.ask_from(before, &[served(a_uuid, "d", "")]).await;
    world.ask_from(of_7_days, &[served(b_uuid, "e", "")]).await;
    world.settle().await;
    assert_eq!(world.current("?days=7").await, (vec![(b, 1)], 1));
    let week = world.read("/insights/adoption?period=7d").await;
    assert_eq!(week["totalDownloads"], 1);
    assert_eq!(world.current("?days=8").await, (vec![(b, 1), (a, 1)], 2));
    assert_eq!(world.totals(a).await, [2, 2, 0], "of all time");
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_of_the_time_series_are_first_served() {
    let mut world = World::start().await;
    let (_, a_uuid) = world.update("my-app", "1.0").await;
    let (_, b_uuid) = world.update("my-app", "1.0").await;
    let yesterday = world.now - TimeDelta::days(1);
    let beta = ManifestRequest {
        channel: "beta",
        ..served(b_uuid, "f", "")
    };
    world.ask_from(yesterday, &[served(a_uuid, "", "x")]).await;
    world
        .ask(&[
            // The same device, once it has its id, and the same again.
            served(a_uuid, "d", "x"),
            served(a_uuid, "d", "x"),
            served(b_uuid, "d", "x"),
            served(b_uuid, "e", ""),
            beta,
        ])
        .await;
    world.settle().await;
    let updates = async |query: &str| {
        let answer = world.read(&format!("/telemetry/timeseries{query}")).await;
        let points = answer["data"].as_array().unwrap().clone();
        let updates = points
            .iter()
            .map(|point| point["updates"].as_u64().unwrap());
        updates.collect::<Vec<_>>()
    };
    assert_eq!(updates("?days=2").await, [1, 3]);
    assert_eq!(updates("?days=2&channel=beta").await, [0, 1]);
    assert_eq!(updates("?days=2&platform=android").await, [0, 0]);
    assert_eq!(updates("?days=1").await, [3], "d was served A before");
    let hours = updates("?days=1&bucket=hour").await;
    assert_eq!(hours.iter().sum::<u64>(), 3);
    assert_eq!(hours[12], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_data_even_if_it_is_of_nobody() {
    let mut world = World::start().await;
    let (_, update) = world.update("my-app", "1.0").await;
    world.ask(&[served(update, "", "")]).await;
    world.settle().await;
    let answer = world.read("/telemetry/timeseries").await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_others_are_zeros_here() {
    let mut world = World::start().await;
    let (mine, _) = world.update("my-app", "1.0").await;
    let (theirs, uuid) = world.update("other", "1.0").await;
    let requests = [served(uuid, "d", "x"), running(uuid, "d", "x")];
    world.manifests_at("other", world.now, &requests).await;
    // The link between a client and a device is a project's own.
    let at = world.now - TimeDelta::minutes(1);
    let (_, my_uuid) = world.update("my-app", "1.0").await;
    world
        .manifests_at(
            "my-app",
            at,
            &[served(my_uuid, "d", ""), served(my_uuid, "", "x")],
        )
        .await;
    world.settle().await;
    assert_eq!(world.totals(theirs).await, [0, 0, 0]);
    assert_eq!(world.totals(mine).await, [0, 0, 0]);
    assert_eq!(world.read("/insights").await[0]["uniqueDevices"], 2);
    assert_eq!(world.read("/insights").await.as_array().unwrap().len(), 1);
    let (_, active) = world.current("").await;
    assert_eq!(active, 2);
    let foreign = format!("/insights/adoption?updateId={theirs}");
    assert_eq!(world.read(&foreign).await["timeseries"], json!([]));
    let other = world
        .get("/insights", "dsp_other_viewer", Some("other"))
        .await;
    let expected =
        json!([{"updateId": theirs, "totalDownloads": 1, "uniqueDevices": 1, "installs": 1}]);
    assert_eq!(other.json(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_update_is_shown_no_more() {
    let mut world = World::start().await;
    let (id, uuid) = world.update("my-app", "1.0").await;
    world.ask(&[served(uuid, "d", "")]).await;
    world
        .run(&format!("delete from updates where id = {id}"))
        .await;
    world.settle().await;
    assert_eq!(world.read("/insights").await, json!([]));
    assert_eq!(world.totals(id).await, [0, 0, 0]);
    assert_eq!(world.current("").await, (vec![], 1));
}
