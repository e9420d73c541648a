//! A PATCH that changes nothing leaves nothing behind: no row in the log, no new
//! version, nothing to be told (management.md §1.1, §13.3: what changed).

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::flags::{boolean, made};
use crate::world::{EDITOR, VIEWER, World};

/// A path to change, one that shows it, and a body that changes it.
struct Subject {
    path: String,
    shown_at: String,
    body: Value,
    /// Another way to say the same.
    same: Value,
}

async fn subjects(world: &World) -> Vec<Subject> {
    let (flag, path) = boolean(world).await;
    let [on, off] = [&flag["variations"][0]["id"], &flag["variations"][1]["id"]];
    let rule = json!({ "ruleType": "percentage_rollout", "ruleConfig": { "percentage": 5 }, "variantValue": true });
    let rule = world
        .post(EDITOR, &format!("{path}/rules"), &rule)
        .await
        .expect(201);
    let number = json!({ "name": "n", "key": "n", "flagType": "number", "defaultValue": 1.5 });
    let number = format!("/flags/{}", made(world, &number).await["id"]);
    let segment = json!({ "name": "s", "matchType": "all", "conditions": [] });
    let segment = world.post(EDITOR, "/segments", &segment).await.expect(201);
    let segment = format!("/segments/{}", segment["id"]);
    let webhook = json!({ "url": "http://example.test/", "events": [] });
    let webhook = world.post(EDITOR, "/webhooks", &webhook).await.expect(201);
    let subject = |path: String, shown_at: &str, body: Value, same: Value| Subject {
        path,
        shown_at: shown_at.to_owned(),
        body,
        same,
    };
    vec![
        subject(
            path.clone(),
            &path,
            json!({ "name": "N", "description": "D", "defaultValue": true }),
            json!({ "name": " N ", "description": "D", "defaultValue": "true", "enabled": true }),
        ),
        subject(
            number.clone(),
            &number,
            json!({ "defaultValue": "1e2" }),
            json!({ "defaultValue": 100.0 }),
        ),
        subject(
            format!("{path}/rules/{}", rule["id"]),
            &path,
            json!({ "priority": 3, "variantValue": null, "ruleConfig": { "rollout": [
                { "variationId": on, "weight": 30 }, { "variationId": off, "weight": 70 }] } }),
            json!({ "priority": 3, "variantValue": null, "ruleConfig": { "rollout": [
                { "variantValue": "true", "weight": 30.0 }, { "variantValue": false, "weight": 70 }] } }),
        ),
        subject(
            format!("{path}/variations/{on}"),
            &path,
            json!({ "name": "Yes", "description": null }),
            json!({ "name": "Yes", "value": "true", "description": " " }),
        ),
        subject(
            format!("{path}/env/canary"),
            &path,
            json!({ "enabled": false, "defaultValue": true }),
            json!({ "enabled": false, "defaultValue": "true" }),
        ),
        subject(
            segment.clone(),
            &segment,
            json!({ "name": "T", "matchType": "any", "description": "d",
                    "conditions": [{ "attribute": "a", "operator": "in", "valuesJson": ["1", "x"] }] }),
            json!({ "name": "T", "matchType": "any", "description": "d",
                    "conditions": [{ "attribute": "a", "operator": "in", "values": [1, "x"] }] }),
        ),
        subject(
            format!("/webhooks/{}", webhook["id"]),
            "/webhooks",
            json!({ "url": "http://example.test/b", "events": ["branch.created"], "secret": "s" }),
            json!({ "url": "http://example.test/b", "isActive": true, "secret": "s",
                    "events": ["branch.created", "branch.created"] }),
        ),
        subject(
            "/channels/production".to_owned(),
            "/channels",
            json!({ "minRuntimeVersion": "2", "rolloutPercentage": 5 }),
            json!({ "minRuntimeVersion": " 2 ", "rolloutPercentage": 5, "branchName": "main" }),
        ),
    ]
}

#[tokio::test]
async fn a_patch_that_changes_nothing_leaves_nothing_behind() {
    let world = World::start().await;
    for subject in subjects(&world).await {
        let Subject {
            path,
            shown_at,
            body,
            same,
        } = subject;
        let audited = world.audit().await.len();
        let changed = world.patch(EDITOR, &path, &body).await;
        assert!(changed.status < 300, "{path}: {changed:?}");
        assert_eq!(world.audit().await.len(), audited + 1, "{path}");
        let before = world.get(VIEWER, &shown_at).await;
        world.wait(TimeDelta::hours(1));
        for nothing in [json!({}), json!({ "unknown": 1 }), body, same] {
            let answer = world.patch(EDITOR, &path, &nothing).await;
            assert_eq!(answer.status, changed.status, "{path} {nothing}");
            assert_eq!(answer.json, changed.json, "{path} {nothing}");
            assert_eq!(
                answer.headers.get("etag"),
                before.headers.get("etag"),
                "{path} {nothing}"
            );
            let after = world.get(VIEWER, &shown_at).await;
            assert_eq!(after.json, before.json, "{path} {nothing}");
            assert_eq!(after.headers.get("etag"), before.headers.get("etag"));
        }
        assert_eq!(world.audit().await.len(), audited + 1, "{path}");
    }
}

#[tokio::test]
async fn a_setting_that_says_nothing_is_not_stored() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    let setting = world
        .patch(EDITOR, &format!("{path}/env/canary"), &json!({}))
        .await
        .expect(200);
    assert_eq!(
        (&setting["id"], &setting["inherited"], &setting["enabled"]),
        (&json!(0), &json!(true), &flag["enabled"])
    );
    assert_eq!(world.get(VIEWER, &path).await.expect(200), flag);
}

/// When a channel and its flag were last switched.
async fn switched(world: &World) -> (DateTime<Utc>, DateTime<Utc>) {
    sqlx::query_as(
        "select s.enabled_changed_at, f.enabled_changed_at
         from flag_env_settings s join flags f on f.id = s.flag_id",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap()
}

/// flags.md §5: what a channel says counts if it is said after the flag's own
/// switch, so that saying it again is no idle repetition there.
#[tokio::test]
async fn a_channel_is_switched_on_again_after_the_flag_went_off() {
    let world = World::start().await;
    let (_, path) = boolean(&world).await;
    let (setting, on) = (format!("{path}/env/canary"), json!({ "enabled": true }));
    world.patch(EDITOR, &setting, &on).await.expect(200);
    world.wait(TimeDelta::minutes(1));
    let off = json!({ "enabled": false });
    world.patch(EDITOR, &path, &off).await.expect(200);
    let (channel, flag) = switched(&world).await;
    assert!(channel < flag, "off everywhere");
    world.wait(TimeDelta::minutes(1));
    world.patch(EDITOR, &setting, &on).await.expect(200);
    let (channel, flag) = switched(&world).await;
    assert!(channel > flag, "on in this channel");
    assert_eq!(world.last_audit().await.0, "env_setting.updated");
    let audited = world.audit().await.len();
    world.patch(EDITOR, &setting, &on).await.expect(200);
    assert_eq!(world.audit().await.len(), audited);
}

/// flags.md §8, scenario 8: an operator's off ends what a release does, also
/// where the channel was off already.
#[tokio::test]
async fn a_channel_is_switched_off_again_against_a_release() {
    let world = World::start().await;
    let (_, path) = boolean(&world).await;
    let (setting, off) = (format!("{path}/env/canary"), json!({ "enabled": false }));
    world.patch(EDITOR, &setting, &off).await.expect(200);
    let (first, _) = switched(&world).await;
    world.wait(TimeDelta::minutes(1));
    let released = world.now();
    world
        .run(&format!(
            "insert into release_links (project_id, group_id, channel, flag_id, enabled, created_at)
             select project_id, 'g', 'canary', id, true, '{}' from flags",
            released.to_rfc3339()
        ))
        .await;
    assert!(first < released);
    world.wait(TimeDelta::minutes(1));
    world.patch(EDITOR, &setting, &off).await.expect(200);
    let (again, _) = switched(&world).await;
    assert!(again > released);
    let audited = world.audit().await.len();
    world.patch(EDITOR, &setting, &off).await.expect(200);
    assert_eq!(switched(&world).await.0, again);
    assert_eq!(world.audit().await.len(), audited);

    // A later release that was reverted, or that only watches, overrules nothing.
    world.wait(TimeDelta::minutes(1));
    let later = world.now().to_rfc3339();
    for over in [
        "state = 'reverted'",
        "state = 'active', link_type = 'monitor'",
    ] {
        let update = format!("update release_links set created_at = '{later}', {over}");
        world.run(&update).await;
        world.patch(EDITOR, &setting, &off).await.expect(200);
        assert_eq!(switched(&world).await.0, again, "{over}");
    }
    assert_eq!(world.audit().await.len(), audited);
}

/// Several processes have several clocks, and who waits for another began before it.
#[tokio::test]
async fn what_is_changed_later_is_later_by_any_clock() {
    let world = World::start().await;
    let (_, path) = boolean(&world).await;
    let off = json!({ "enabled": false });
    let off = world.patch(EDITOR, &path, &off).await;
    let tag = off.headers["etag"].clone();
    world.wait(TimeDelta::seconds(-2));
    let setting = format!("{path}/env/canary");
    let on = world
        .patch(EDITOR, &setting, &json!({ "enabled": true }))
        .await;
    assert_ne!(on.headers["etag"], tag);
    let (channel, flag) = switched(&world).await;
    assert!(channel > flag, "it was switched on after the flag went off");
    let shown = world.get(VIEWER, &path).await.expect(200);
    let updated: DateTime<Utc> = shown["updatedAt"].as_str().unwrap().parse().unwrap();
    assert!(updated > world.now() + TimeDelta::seconds(2));

    let segment = json!({ "name": "s", "matchType": "all", "conditions": [] });
    let segment = world.post(EDITOR, "/segments", &segment).await.expect(201);
    let path = format!("/segments/{}", segment["id"]);
    let mut tags = Vec::new();
    for name in ["a", "b", "a"] {
        let body = json!({ "name": name });
        let answer = world.call(EDITOR, Method::PATCH, &path, Some(&body)).await;
        assert_eq!(answer.status, 200);
        tags.push(answer.headers["etag"].clone());
        world.wait(TimeDelta::seconds(-1));
    }
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2]);
}
