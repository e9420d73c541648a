//! What endpoints are sent, when, and what is kept of it (management.md
//! §12.4–12.7).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};
use sluice_api::change::Change;
use sluice_api::service;
use sluice_api::webhooks::{Event, Sender, deliver_due};
use sluice_schema::id::ProjectId;
use sluice_service::admin::Readiness;
use tokio::sync::Notify;

use crate::receiver::{Received, Receiver, Reply, hmac_sha256};
use crate::world::{BEGINNING, EDITOR, THEIR_ADMIN, VIEWER, World, keys};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Seconds from a failure to the next attempt.
const DELAYS_S: [i64; 7] = [5, 25, 300, 1800, 7200, 21_600, 57_600];

impl World {
    /// A webhook for every event.
    async fn hook(&self, url: &str) -> i64 {
        let events: Vec<_> = Event::ALL.iter().map(|event| event.name()).collect();
        let body = json!({ "url": url, "events": events, "secret": SECRET });
        let made = self.post(EDITOR, "/webhooks", &body).await.expect(201);
        made["id"].as_i64().unwrap()
    }

    async fn branch(&self, name: &str) {
        let made = self
            .post(EDITOR, "/branches", &json!({ "name": name }))
            .await;
        made.expect(201);
    }

    /// Sends what is due now, to wherever it leads; how many.
    async fn deliver(&self) -> usize {
        deliver_due(&self.state, &Sender::new(true).unwrap())
            .await
            .unwrap()
    }

    async fn deliveries(&self, webhook: i64) -> Vec<Value> {
        let list = self
            .get(VIEWER, &format!("/webhooks/{webhook}/deliveries"))
            .await;
        list.expect(200).as_array().unwrap().clone()
    }

    async fn webhook(&self) -> Value {
        self.get(VIEWER, "/webhooks").await.expect(200)[0].clone()
    }

    async fn emit(&self, event: Event, data: Value) {
        let ours = self
            .number("select id from projects where slug = 'ours'")
            .await;
        let mut change = Change::begin_by_system(&self.state, ProjectId(ours))
            .await
            .unwrap();
        change.emit(event, data).await.unwrap();
        change.commit().await.unwrap();
    }
}

fn original_signature(secret: &str, request: &Received) -> String {
    let mac = hmac_sha256(secret.as_bytes(), request.body.as_bytes());
    format!("sha256={}", hex::encode(mac))
}

fn standard_signature(key: &[u8], request: &Received) -> String {
    let (id, timestamp) = (
        request.header("webhook-id"),
        request.header("webhook-timestamp"),
    );
    let signed = format!("{id}.{timestamp}.{}", request.body);
    format!(
        "v1,{}",
        STANDARD.encode(hmac_sha256(key, signed.as_bytes()))
    )
}

fn decoded(secret: &str) -> Vec<u8> {
    STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap()
}

#[tokio::test]
async fn every_event_arrives_signed_in_both_ways() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let webhook = world.hook(&receiver.url).await;
    for event in Event::ALL {
        world.emit(event, json!({ "of": event.name() })).await;
        world.deliver().await;
        let request = receiver.next().await;
        let name = event.name();
        let body =
            format!(r#"{{"data":{{"of":"{name}"}},"event":"{name}","timestamp":"{BEGINNING}"}}"#);
        assert_eq!(request.body, body);
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("x-dispatch-event"), name);
        assert!(request.header("user-agent").starts_with("Sluice/"));
        assert_eq!(
            request.header("x-dispatch-signature"),
            original_signature(SECRET, &request)
        );
        let standard = standard_signature(&decoded(SECRET), &request);
        assert_eq!(request.header("webhook-signature"), standard);
        assert_eq!(
            request.header("webhook-timestamp"),
            world.now().timestamp().to_string()
        );
        let delivery = &world.deliveries(webhook).await[0];
        assert_eq!(request.header("webhook-id"), delivery["id"].to_string());
        assert_eq!(
            request.header("x-dispatch-delivery"),
            delivery["id"].to_string()
        );
        assert_eq!(
            (&delivery["status"], &delivery["event"]),
            (&json!("success"), &json!(name))
        );
    }
    assert_eq!(world.deliver().await, 0, "each of them once");
}

#[tokio::test]
async fn changes_tell_what_changed() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    world.hook(&receiver.url).await;
    world.branch("qa").await;
    let channel = json!({ "name": "beta", "branchName": "qa" });
    world.post(EDITOR, "/channels", &channel).await.expect(201);
    let change = json!({ "rolloutBranchName": "main", "rolloutPercentage": 5 });
    world
        .patch(EDITOR, "/channels/beta", &change)
        .await
        .expect(204);
    world.delete(EDITOR, "/channels/beta").await.expect(204);
    world.delete(EDITOR, "/branches/qa").await.expect(204);
    // What fails is not told.
    world.delete(EDITOR, "/branches/qa").await.expect(404);
    world.delete(EDITOR, "/branches/main").await.expect(409);
    while world.deliver().await > 0 {}
    let told: Vec<Value> = receiver
        .all()
        .iter()
        .map(|r| serde_json::from_str(&r.body).unwrap())
        .collect();
    let data = |event: &str| {
        let of_event: Vec<_> = told.iter().filter(|told| told["event"] == event).collect();
        assert_eq!(of_event.len(), 1, "{event}");
        of_event[0]["data"].clone()
    };
    assert_eq!(told.len(), 5);
    assert_eq!(data("branch.created"), json!({ "name": "qa" }));
    assert_eq!(
        data("channel.created"),
        json!({ "name": "beta", "branch_name": "qa" })
    );
    let expected = json!({ "name": "beta", "branch_name": null, "rollout_branch_name": "main",
                           "rollout_percentage": 5, "min_runtime_version": null });
    assert_eq!(data("channel.updated"), expected);
    assert_eq!(data("channel.deleted"), json!({ "name": "beta" }));
    assert_eq!(data("branch.deleted"), json!({ "name": "qa" }));
}

#[tokio::test]
async fn only_webhooks_that_want_it_and_are_on_and_are_ours_are_told() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let wanted = json!({ "url": receiver.url, "events": ["branch.created"] });
    let other = json!({ "url": receiver.url, "events": ["branch.deleted"] });
    let off = world.post(EDITOR, "/webhooks", &wanted).await.expect(201)["id"].clone();
    world
        .patch(
            EDITOR,
            &format!("/webhooks/{off}"),
            &json!({ "isActive": false }),
        )
        .await
        .expect(204);
    world.post(EDITOR, "/webhooks", &other).await.expect(201);
    world
        .post(THEIR_ADMIN, "/webhooks", &wanted)
        .await
        .expect(201);
    world.branch("qa").await;
    assert_eq!(world.deliver().await, 0);
    world.post(EDITOR, "/webhooks", &wanted).await.expect(201);
    world.branch("qb").await;
    assert_eq!(world.deliver().await, 1);
    let request = receiver.next().await;
    assert_eq!(
        request.header("webhook-signature"),
        "",
        "no secret, no signature"
    );
    assert_eq!(request.header("x-dispatch-signature"), "");
    assert_ne!(request.header("webhook-id"), "");
    assert_ne!(request.header("webhook-timestamp"), "");
}

#[tokio::test]
async fn failures_are_tried_again_on_schedule_with_the_same_bytes() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    receiver.fail();
    let webhook = world.hook(&receiver.url).await;
    world.branch("qa").await;
    let first = &world.deliveries(webhook).await[0];
    assert_eq!(
        (&first["status"], &first["attempt"]),
        (&json!("pending"), &json!(0))
    );
    assert_eq!(
        (&first["nextRetryAt"], &first["maxAttempts"]),
        (&Value::Null, &json!(8))
    );
    let mut requests = Vec::new();
    for (done, delay_s) in DELAYS_S.into_iter().enumerate() {
        assert_eq!(world.deliver().await, 1, "attempt {}", done + 1);
        requests.push(receiver.next().await);
        let delivery = &world.deliveries(webhook).await[0];
        assert_eq!(delivery["status"], "pending");
        assert_eq!(delivery["attempt"], json!(done + 1));
        assert_eq!(
            (&delivery["httpStatus"], &delivery["responseBody"]),
            (&json!(503), &json!("down"))
        );
        assert_eq!(
            (&delivery["errorMessage"], &delivery["completedAt"]),
            (&json!("HTTP 503"), &Value::Null)
        );
        let next: DateTime<chrono::Utc> =
            delivery["nextRetryAt"].as_str().unwrap().parse().unwrap();
        let (pause, planned) = (next - world.now(), TimeDelta::seconds(delay_s));
        assert!(
            pause >= planned && pause <= planned * 11 / 10,
            "{pause} for {planned}"
        );
        world.wait(pause - TimeDelta::milliseconds(1));
        assert_eq!(world.deliver().await, 0, "not before its time");
        world.wait(TimeDelta::milliseconds(1));
    }
    assert_eq!(world.deliver().await, 1);
    requests.push(receiver.next().await);
    let last = &world.deliveries(webhook).await[0];
    assert_eq!(
        (&last["status"], &last["attempt"]),
        (&json!("failed"), &json!(8))
    );
    assert_eq!(last["nextRetryAt"], Value::Null);
    let completed: DateTime<chrono::Utc> = last["completedAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(completed, world.now());
    world.wait(TimeDelta::days(2));
    assert_eq!(world.deliver().await, 0, "eight attempts in all");
    for later in &requests[1..] {
        assert_eq!(later.body, requests[0].body);
        assert_eq!(later.header("webhook-id"), requests[0].header("webhook-id"));
        assert_ne!(
            later.header("webhook-timestamp"),
            requests[0].header("webhook-timestamp")
        );
        assert_eq!(
            later.header("webhook-signature"),
            standard_signature(&decoded(SECRET), later)
        );
    }
}

#[tokio::test]
async fn a_success_clears_what_failed_before() {
    let (world, receiver) = (World::start().await, Receiver::start().await);
    receiver.once(Reply::Status(500, String::new()));
    receiver.always(Reply::Status(204, String::new()));
    let webhook = world.hook(&receiver.url).await;
    world.branch("qa").await;
    world.deliver().await;
    world.wait(TimeDelta::seconds(6));
    world.deliver().await;
    let delivery = &world.deliveries(webhook).await[0];
    let expected = [
        "attempt",
        "completedAt",
        "createdAt",
        "errorMessage",
        "event",
        "httpStatus",
        "id",
        "maxAttempts",
        "nextRetryAt",
        "payload",
        "responseBody",
        "status",
        "webhookId",
    ];
    assert_eq!(keys(delivery), expected);
    assert_eq!(
        (&delivery["status"], &delivery["attempt"]),
        (&json!("success"), &json!(2))
    );
    assert_eq!(
        (&delivery["errorMessage"], &delivery["nextRetryAt"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(
        (&delivery["httpStatus"], &delivery["webhookId"]),
        (&json!(204), &json!(webhook))
    );
    let payload =
        json!({ "data": { "name": "qa" }, "event": "branch.created", "timestamp": BEGINNING });
    assert_eq!(delivery["payload"], payload);
}

#[tokio::test]
async fn history_is_the_newest_fifty_with_the_beginning_of_each_answer() {
    let (world, receiver) = (World::start().await, Receiver::start().await);
    receiver.always(Reply::Status(200, "x\0".repeat(4000)));
    let webhook = world.hook(&receiver.url).await;
    for n in 0..60 {
        world.branch(&format!("b{n}")).await;
        world.wait(TimeDelta::seconds(1));
    }
    while world.deliver().await > 0 {}
    let deliveries = world.deliveries(webhook).await;
    assert_eq!(deliveries.len(), 50);
    assert_eq!(deliveries[0]["payload"]["data"]["name"], "b59");
    assert_eq!(deliveries[49]["payload"]["data"]["name"], "b10");
    let body = deliveries[0]["responseBody"].as_str().unwrap();
    assert_eq!(body.chars().count(), 4096);
    assert_eq!(
        world
            .number("select count(*) from webhook_deliveries where status = 'success'")
            .await,
        60
    );
}

#[tokio::test]
async fn redirects_are_failures_and_are_not_followed() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let mut target = Receiver::start().await;
    receiver.always(Reply::Redirect(target.url.clone()));
    let webhook = world.hook(&receiver.url).await;
    world.branch("qa").await;
    world.deliver().await;
    receiver.next().await;
    let delivery = &world.deliveries(webhook).await[0];
    assert_eq!(
        (&delivery["status"], &delivery["errorMessage"]),
        (&json!("pending"), &json!("HTTP 302"))
    );
    assert!(target.arrived().is_none());
}

#[tokio::test]
async fn what_was_allowed_once_is_still_checked_when_it_is_sent() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let by_name = receiver.url.replace("127.0.0.1", "localhost");
    let mapped = receiver.url.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let hooks = [
        world.hook(&receiver.url).await,
        world.hook(&by_name).await,
        world.hook(&mapped).await,
    ];
    world.branch("qa").await;
    let strict = Sender::new(false).unwrap();
    assert_eq!(deliver_due(&world.state, &strict).await.unwrap(), 3);
    for hook in hooks {
        let delivery = &world.deliveries(hook).await[0];
        assert_eq!(
            (&delivery["status"], &delivery["attempt"]),
            (&json!("pending"), &json!(1))
        );
        assert_eq!(
            (&delivery["httpStatus"], &delivery["responseBody"]),
            (&Value::Null, &Value::Null)
        );
        assert!(
            delivery["errorMessage"]
                .as_str()
                .unwrap()
                .contains("public"),
            "{delivery}"
        );
    }
    assert!(receiver.arrived().is_none());
    // The very same arrive where the operator allows it.
    world.wait(TimeDelta::seconds(6));
    assert_eq!(world.deliver().await, 3);
    assert!(receiver.all().len() >= 2, "by address and by name");
}

#[tokio::test]
async fn two_secrets_sign_for_a_day_after_a_rotation() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let webhook = world.hook(&receiver.url).await;
    let path = format!("/webhooks/{webhook}");
    world
        .patch(EDITOR, &path, &json!({ "secret": "a plain one" }))
        .await
        .expect(204);
    // The same again is no rotation.
    world.wait(TimeDelta::hours(1));
    world
        .patch(EDITOR, &path, &json!({ "secret": "a plain one" }))
        .await
        .expect(204);
    world.branch("qa").await;
    world.deliver().await;
    let request = receiver.next().await;
    let newest = standard_signature(b"a plain one", &request);
    let both = format!(
        "{newest} {}",
        standard_signature(&decoded(SECRET), &request)
    );
    assert_eq!(request.header("webhook-signature"), both);
    assert_eq!(
        request.header("x-dispatch-signature"),
        original_signature("a plain one", &request)
    );

    world.wait(TimeDelta::hours(23));
    world.branch("qb").await;
    world.deliver().await;
    let request = receiver.next().await;
    let newest = standard_signature(b"a plain one", &request);
    assert_eq!(request.header("webhook-signature"), newest);

    world
        .patch(EDITOR, &path, &json!({ "secret": null }))
        .await
        .expect(204);
    world.branch("qc").await;
    world.deliver().await;
    assert_eq!(receiver.next().await.header("webhook-signature"), "");
}

#[tokio::test]
async fn an_endpoint_that_fails_for_five_days_is_switched_off_by_the_system() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    receiver.fail();
    let webhook = world.hook(&receiver.url).await;
    // A delivery every day; each is given up after a little more than a day.
    for hour in 0..24 * 7 {
        if hour % 24 == 0 {
            world.branch(&format!("day-{}", hour / 24)).await;
        }
        while world.deliver().await > 0 {}
        let is_active = world.webhook().await["isActive"] == true;
        if !is_active {
            assert!(hour >= 24 * 5, "after {hour} hours");
            break;
        }
        world.wait(TimeDelta::hours(1));
    }
    assert_eq!(world.webhook().await["isActive"], false);
    let entry = world.audit().await.remove(0);
    assert_eq!(
        (&entry["action"], &entry["entityId"]),
        (&json!("webhook.updated"), &json!(webhook))
    );
    assert_eq!(
        (&entry["actorType"], &entry["details"]["isActive"]),
        (&Value::Null, &json!(false))
    );
    let pending = "select count(*) from webhook_deliveries where status = 'pending'";
    assert_eq!(world.number(pending).await, 0, "nothing is left to be sent");

    // Switched on again, its past is forgotten.
    world
        .patch(
            EDITOR,
            &format!("/webhooks/{webhook}"),
            &json!({ "isActive": true }),
        )
        .await
        .expect(204);
    world.branch("again").await;
    world.deliver().await;
    assert_eq!(world.webhook().await["isActive"], true);
    receiver.all();
}

#[tokio::test]
async fn one_success_in_five_days_keeps_an_endpoint_on() {
    let (world, receiver) = (World::start().await, Receiver::start().await);
    receiver.fail();
    world.hook(&receiver.url).await;
    for hour in 0..24 * 8 {
        if hour % 24 == 0 {
            world.branch(&format!("day-{}", hour / 24)).await;
        }
        if hour == 24 * 4 {
            receiver.once(Reply::Status(200, String::new()));
        }
        while world.deliver().await > 0 {}
        world.wait(TimeDelta::hours(1));
    }
    assert_eq!(world.webhook().await["isActive"], true);
}

#[tokio::test]
async fn switching_off_gives_up_what_was_to_be_sent() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    receiver.fail();
    let webhook = world.hook(&receiver.url).await;
    world.branch("qa").await;
    world.deliver().await;
    world.branch("qb").await;
    world
        .patch(
            EDITOR,
            &format!("/webhooks/{webhook}"),
            &json!({ "isActive": false }),
        )
        .await
        .expect(204);
    for delivery in world.deliveries(webhook).await {
        assert_eq!(
            (&delivery["status"], &delivery["nextRetryAt"]),
            (&json!("failed"), &Value::Null)
        );
        assert!(delivery["completedAt"].is_string());
    }
    receiver.all();
    world.wait(TimeDelta::days(1));
    assert_eq!(world.deliver().await, 0);
    assert!(receiver.arrived().is_none());
}

#[tokio::test]
async fn switching_off_in_the_middle_of_everything_leaves_nothing_to_be_sent() {
    let (world, receiver) = (World::start().await, Receiver::start().await);
    receiver.fail();
    let webhook = world.hook(&receiver.url).await;
    let path = format!("/webhooks/{webhook}");
    for round in 0..25 {
        world.branch(&format!("a{round}")).await;
        world.branch(&format!("b{round}")).await;
        let late = (0..4).map(|n| {
            let world = &world;
            async move { world.branch(&format!("c{round}-{n}")).await }
        });
        let off = json!({ "isActive": false });
        let (_, off, _) = tokio::join!(
            world.deliver(),
            world.patch(EDITOR, &path, &off),
            futures_util::future::join_all(late)
        );
        off.expect(204);
        let pending = "select count(*) from webhook_deliveries where status = 'pending'";
        assert_eq!(world.number(pending).await, 0, "round {round}");
        let on = world
            .patch(EDITOR, &path, &json!({ "isActive": true }))
            .await;
        on.expect(204);
    }
}

#[tokio::test]
async fn a_worker_that_dies_in_the_middle_loses_nothing() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    receiver.once(Reply::Silence);
    let webhook = world.hook(&receiver.url).await;
    world.branch("qa").await;
    let worker = tokio::spawn({
        let state = world.state.clone();
        async move {
            deliver_due(&state, &Sender::new(true).unwrap())
                .await
                .unwrap()
        }
    });
    let first = receiver.next().await;
    let under_way = &world.deliveries(webhook).await[0];
    assert_eq!(
        (&under_way["status"], &under_way["attempt"]),
        (&json!("pending"), &json!(1))
    );
    worker.abort();
    worker.await.unwrap_err();

    world.wait(TimeDelta::seconds(29));
    assert_eq!(world.deliver().await, 0, "it might still be alive");
    world.wait(TimeDelta::seconds(2));
    assert_eq!(world.deliver().await, 1);
    let second = receiver.next().await;
    assert_eq!(second.body, first.body);
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    let delivery = &world.deliveries(webhook).await[0];
    assert_eq!(
        (&delivery["status"], &delivery["attempt"]),
        (&json!("success"), &json!(1))
    );
}

#[tokio::test]
async fn a_worker_that_was_taken_for_dead_has_no_say() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let letting_go = Arc::new(Notify::new());
    receiver.once(Reply::Held(Arc::clone(&letting_go)));
    let webhook = world.hook(&receiver.url).await;
    world.branch("qa").await;
    let deliver = || {
        let state = world.state.clone();
        async move {
            deliver_due(&state, &Sender::new(true).unwrap())
                .await
                .unwrap()
        }
    };
    let slow = tokio::spawn(deliver());
    receiver.next().await;
    world.wait(TimeDelta::seconds(31));
    deliver().await;
    let settled = world.deliveries(webhook).await;
    assert_eq!(settled[0]["status"], "success");
    letting_go.notify_one();
    assert_eq!(slow.await.unwrap(), 1);
    assert_eq!(world.deliveries(webhook).await, settled);
}

#[tokio::test]
async fn workers_side_by_side_share_the_work() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    for _ in 0..10 {
        world.hook(&receiver.url).await;
    }
    world.branch("qa").await;
    let sent = futures_util::future::join_all((0..4).map(|_| world.deliver())).await;
    assert_eq!(sent.iter().sum::<usize>(), 10);
    let mut ids: Vec<_> = receiver
        .all()
        .iter()
        .map(|r| r.header("webhook-id").to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 10, "each of them once");
}

#[tokio::test]
async fn an_endpoint_that_hangs_does_not_hold_up_others() {
    let world = World::start().await;
    let (mut hanging, mut healthy) = (Receiver::start().await, Receiver::start().await);
    hanging.always(Reply::Silence);
    world.hook(&hanging.url).await;
    for n in 0..40 {
        world.branch(&format!("b{n}")).await;
    }
    world.hook(&healthy.url).await;
    world.branch("last").await;
    let worker = tokio::spawn({
        let state = world.state.clone();
        async move {
            deliver_due(&state, &Sender::new(true).unwrap())
                .await
                .unwrap()
        }
    });
    healthy.next().await;
    for _ in 0..4 {
        hanging.next().await;
    }
    assert_eq!(world.deliver().await, 0, "four at a time, whoever asks");
    worker.abort();
}

#[tokio::test]
async fn the_service_delivers_and_purges_by_itself() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    world.hook(&receiver.url).await;
    world.branch("long-ago").await;
    world.deliver().await;
    receiver.next().await;
    world.wait(TimeDelta::days(31));
    let readiness = Readiness::new();
    let workers = tokio::spawn({
        let (state, readiness) = (world.state.clone(), readiness.clone());
        async move { service::run_workers(state, &readiness).await }
    });
    world.branch("qa").await;
    assert!(receiver.next().await.body.contains("qa"));
    let old = "select count(*) from webhook_deliveries where created_at < '2026-01-03'";
    for _ in 0..1000 {
        if world.number(old).await == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(world.number(old).await, 0);
    workers.abort();
}
