//! Workers of webhooks: what they give up, what they survive, how they share
//! (management.md §12.6–12.7).

use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sluice_api::service;
use sluice_api::webhooks::{Sender, deliver_due};
use sluice_service::admin::Readiness;
use tokio::sync::Notify;

use crate::receiver::{Receiver, Reply};
use crate::world::{EDITOR, THEIR_ADMIN, World};

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
    // It leaves nothing locked behind either.
    world
        .run("select from webhooks, webhook_deliveries for update nowait")
        .await;
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
async fn a_project_whose_endpoints_hang_does_not_hold_up_others() {
    let world = World::start().await;
    let (mut hanging, mut healthy) = (Receiver::start().await, Receiver::start().await);
    hanging.always(Reply::Silence);
    for _ in 0..12 {
        world.hook(&hanging.url).await;
    }
    for n in 0..4 {
        world.branch(&format!("b{n}")).await;
    }
    let theirs = json!({ "url": healthy.url, "events": ["branch.created"] });
    world
        .post(THEIR_ADMIN, "/webhooks", &theirs)
        .await
        .expect(201);
    let branch = json!({ "name": "last" });
    world
        .post(THEIR_ADMIN, "/branches", &branch)
        .await
        .expect(201);
    let worker = tokio::spawn({
        let state = world.state.clone();
        async move {
            deliver_due(&state, &Sender::new(true).unwrap())
                .await
                .unwrap()
        }
    });
    healthy.next().await;
    hanging.next().await;
    let claimed = "select count(*) from webhook_deliveries d join projects p on p.id = d.project_id
                   where p.slug = 'ours' and d.claimed_until is not null";
    assert_eq!(world.number(claimed).await, 16);
    assert_eq!(world.deliver().await, 0, "whoever asks");
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
