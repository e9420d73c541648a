//! What endpoints are sent, when, and what is kept of it (management.md
//! §12.4–12.7).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};
use sluice_api::change::Change;
use sluice_api::webhooks::{Event, Sender, deliver_due};
use sluice_schema::id::ProjectId;

use crate::receiver::{Received, Receiver, Reply, hmac_sha256};
use crate::world::{BEGINNING, EDITOR, THEIR_ADMIN, VIEWER, World, keys};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Seconds from a failure to the next attempt.
const DELAYS_S: [i64; 7] = [5, 25, 300, 1800, 7200, 21_600, 57_600];

impl World {
    /// A webhook for every event.
    pub(crate) async fn hook(&self, url: &str) -> i64 {
        let events: Vec<_> = Event::ALL.iter().map(|event| event.name()).collect();
        let body = json!({ "url": url, "events": events, "secret": SECRET });
        let made = self.post(EDITOR, "/webhooks", &body).await.expect(201);
        made["id"].as_i64().unwrap()
    }

    pub(crate) async fn branch(&self, name: &str) {
        let made = self
            .post(EDITOR, "/branches", &json!({ "name": name }))
            .await;
        made.expect(201);
    }

    /// Sends what is due now, to wherever it leads; how many.
    pub(crate) async fn deliver(&self) -> usize {
        deliver_due(&self.state, &Sender::new(true).unwrap())
            .await
            .unwrap()
    }

    pub(crate) async fn deliveries(&self, webhook: i64) -> Vec<Value> {
        let list = self
            .get(VIEWER, &format!("/webhooks/{webhook}/deliveries"))
            .await;
        list.expect(200).as_array().unwrap().clone()
    }

    pub(crate) async fn webhook(&self) -> Value {
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

/// Each PATCH lets the secret before it sign for 24 hours, whatever comes after.
#[tokio::test]
async fn a_secret_signs_for_its_day_however_often_it_is_replaced() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let webhook = world.hook(&receiver.url).await;
    let path = format!("/webhooks/{webhook}");
    let replace = async |secret: Value| {
        let body = json!({ "secret": secret });
        world.patch(EDITOR, &path, &body).await.expect(204);
    };
    let mut branches = 0;
    let mut signed_by = async |secrets: &[&[u8]]| {
        branches += 1;
        world.branch(&format!("b{branches}")).await;
        world.deliver().await;
        let request = receiver.next().await;
        let expected: Vec<_> = secrets
            .iter()
            .map(|secret| standard_signature(secret, &request))
            .collect();
        let signature = request.header("webhook-signature");
        assert_eq!(signature, expected.join(" "), "{branches}");
    };
    let first = decoded(SECRET);
    replace(json!("second")).await;
    world.wait(TimeDelta::hours(10));
    replace(json!("third")).await;
    signed_by(&[b"third", b"second", &first]).await;
    // Back to one that still signs: each signs once.
    replace(json!("second")).await;
    signed_by(&[b"second", b"third", &first]).await;
    world.wait(TimeDelta::hours(14));
    signed_by(&[b"second", b"third"]).await;
    world.wait(TimeDelta::hours(10));
    signed_by(&[b"second"]).await;
    replace(json!("third")).await;
    replace(json!(null)).await;
    signed_by(&[]).await;
    replace(json!("fourth")).await;
    signed_by(&[b"fourth"]).await;
    // A leak is answered at once, and headers stay short.
    for n in 0..20 {
        replace(json!(format!("s{n}"))).await;
    }
    let last: Vec<_> = (11..20).rev().map(|n| format!("s{n}")).collect();
    let last: Vec<_> = last.iter().map(String::as_bytes).collect();
    signed_by(&last).await;
}

#[tokio::test]
async fn the_time_of_an_event_is_told_as_it_is_stored() {
    let (world, mut receiver) = (World::start().await, Receiver::start().await);
    let webhook = world.hook(&receiver.url).await;
    world.wait(TimeDelta::nanoseconds(123_456_789));
    world.branch("qa").await;
    world.wait(TimeDelta::nanoseconds(1000));
    world.deliver().await;
    let body: Value = serde_json::from_str(&receiver.next().await.body).unwrap();
    assert_eq!(body["timestamp"], "2026-01-02T03:04:05.123456Z");
    let delivery = &world.deliveries(webhook).await[0];
    assert_eq!(delivery["createdAt"], body["timestamp"]);
}
