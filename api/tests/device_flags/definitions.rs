use axum::http::StatusCode;
use serde_json::json;

use crate::world::{SLUG, World, eventually};

const PATH: &str = "/v1/ota/flag-definitions/my-app";
const UPDATE: &str = "6f0c1b7a-0000-4000-8000-000000000001";

#[tokio::test]
async fn the_payload_is_what_published_clients_read() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    let off = world.flag("off").await;
    world
        .run(&format!(
            "update flags set enabled = false where id = {off}"
        ))
        .await;
    world
        .run(
            "insert into segments (project_id, key, name, match_type)
             select id, k, k, 'all' from projects, (values ('ios-pro'), ('unused')) v (k);
             insert into segment_conditions
                 (project_id, segment_id, attribute, operator, condition_values, sort_order)
             select project_id, id, 'plan', 'eq', array['pro'], 0 from segments",
        )
        .await;
    let rollout = json!({"rollout": [{"variationId": 1, "variantValue": true, "weight": 25},
                                     {"variationId": 2, "variantValue": false, "weight": 75}]});
    world
        .rule(flag, "percentage_rollout", rollout.clone(), json!(null))
        .await;
    world
        .rule(
            flag,
            "user_list",
            json!({"userIds": ["a", "b"]}),
            json!(true),
        )
        .await;
    world
        .rule(
            flag,
            "segment",
            json!({"segmentKey": "ios-pro"}),
            json!(true),
        )
        .await;
    let body = world.get(PATH, &[]).await.json();
    let rule = |id: i64, rule_type: &str, config, value| {
        json!({"id": id, "priority": 0, "ruleType": rule_type, "variantValue": value,
               "channelName": null, "ruleConfig": config})
    };
    let conditions = json!([{"attribute": "plan", "operator": "eq", "values": ["pro"]}]);
    let expected = json!({
        "flags": [{
            "key": "new-checkout", "flagType": "boolean", "defaultValue": false, "enabled": true,
            "rules": [
                rule(1, "percentage_rollout", rollout, json!(null)),
                rule(2, "user_list", json!({"userIds": "a,b"}), json!(true)),
                rule(3, "segment", json!({"segmentKey": "ios-pro"}), json!(true)),
            ],
            "variations": [{"id": 1, "value": true, "name": "On"}, {"id": 2, "value": false, "name": "Off"}],
        }],
        "segments": [{"key": "ios-pro", "matchType": "all", "conditions": conditions}],
    });
    assert_eq!(body, expected);
    let expanded = world
        .get(&format!("{PATH}?expand=segments"), &[])
        .await
        .json();
    assert_eq!(
        expanded["flags"][0]["rules"][2],
        rule(
            3,
            "attribute",
            json!({"conditions": conditions}),
            json!(true)
        )
    );
    assert_eq!(expanded["segments"], json!([]));
}

#[tokio::test]
async fn an_unchanged_payload_is_not_sent_again() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    let first = world.get(PATH, &[]).await;
    let etag = first.header("etag").to_owned();
    assert!(
        etag.starts_with('"') && etag.ends_with('"'),
        "strong: {etag}"
    );
    assert_eq!(
        first.header("cache-control"),
        "private, max-age=0, must-revalidate"
    );
    assert_eq!(first.header("content-type"), "application/json");
    for known in [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"x\", {etag}"),
        "*".to_owned(),
    ] {
        let again = world.get(PATH, &[("if-none-match", &known)]).await;
        assert_eq!(
            (again.status, again.body.as_str()),
            (StatusCode::NOT_MODIFIED, ""),
            "{known}"
        );
        assert_eq!(again.header("etag"), etag);
    }
    let other = world.get(PATH, &[("if-none-match", "\"x\"")]).await;
    assert_eq!(other.status, StatusCode::OK);

    world
        .run(&format!(
            "update flags set default_value = 'true' where id = {flag}"
        ))
        .await;
    eventually("the change", async || {
        let answer = world.get(PATH, &[("if-none-match", &etag)]).await;
        (answer.status == StatusCode::OK).then(|| answer.json())
    })
    .await;
}

#[tokio::test]
async fn channels_see_their_own_rules_and_switches() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world
        .run(&format!(
            "insert into flag_env_settings
                 (project_id, flag_id, channel_name, enabled, enabled_changed_at, default_value)
             select project_id, id, 'staging', false, now(), null from flags where id = {flag};
             insert into flag_env_settings (project_id, flag_id, channel_name, default_value)
             select project_id, id, 'canary', 'true' from flags where id = {flag};"
        ))
        .await;
    let default_in = async |channel: &str| {
        let body = world
            .get(&format!("{PATH}?channel={channel}"), &[])
            .await
            .json();
        body["flags"][0]["defaultValue"].clone()
    };
    assert_eq!(default_in("staging").await, json!(null));
    assert_eq!(default_in("canary").await, json!(true));
    assert_eq!(default_in("production").await, json!(false));
    assert_eq!(default_in("").await, json!(false));
}

#[tokio::test]
async fn a_release_overrides_on_the_devices_that_run_it() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world
        .run(&format!(
            "update flags set enabled = false where id = {flag}"
        ))
        .await;
    world.update(UPDATE, "group").await;
    let link = format!(
        "insert into release_links (project_id, group_id, channel, flag_id, enabled)
         select project_id, 'group', 'production', id, true from flags where id = {flag}"
    );
    world.run(&link).await;
    let on_update = format!("{PATH}?updateId={}", UPDATE.to_uppercase());
    let body = world.get(&on_update, &[]).await.json();
    let emitted = &body["flags"][0];
    assert_eq!(emitted["defaultValue"], json!(true));
    assert_eq!(emitted["enabled"], json!(true));
    assert_eq!(emitted["rules"], json!([]));
    let by_release = json!({"reason": "RELEASE_OVERRIDE", "updateGroupId": "group"});
    assert_eq!(emitted["override"], by_release);
    assert_eq!(world.get(PATH, &[]).await.json()["flags"], json!([]));

    world.run("update updates set is_enabled = false").await;
    eventually("the end of the override", async || {
        let body = world.get(&on_update, &[]).await.json();
        (body["flags"] == json!([])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_project_is_found_by_slug_and_uuid_as_soon_as_it_exists() {
    let world = World::start().await;
    let unknown = world.get("/v1/ota/flag-definitions/other", &[]).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.json()["error"], "Project not found");
    world
        .run("insert into projects (name, slug) values ('Other', 'other')")
        .await;
    eventually("the new project", async || {
        let answer = world.get("/v1/ota/flag-definitions/other", &[]).await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    let uuid: String = sqlx::query_scalar("select uuid::text from projects where slug = $1")
        .bind(SLUG)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let path = format!("/v1/ota/flag-definitions/{}", uuid.to_uppercase());
    assert_eq!(world.get(&path, &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_was_read_once_is_answered_without_postgres() {
    let world = World::start().await;
    world.flag("new-checkout").await;
    let before = world.get(PATH, &[]).await;
    world.cut_postgres().await;
    let after = world.get(PATH, &[]).await;
    assert_eq!((after.status, after.body), (StatusCode::OK, before.body));
    let bulk = json!({"projectSlug": SLUG, "deviceId": "d"});
    assert_eq!(
        world
            .post("/v1/ota/flag-evaluations-bulk", &[], &bulk)
            .await
            .status,
        StatusCode::OK
    );
    let unknown = world.get("/v1/ota/flag-definitions/never-seen", &[]).await;
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// Clients send a token, now and then a wrong one.
#[tokio::test]
async fn a_wrong_token_is_nobody_s_business() {
    let world = World::start().await;
    world.flag("new-checkout").await;
    for path in [PATH, "/v1/ota/flag-stream/my-app?deviceId=d"] {
        let request = http::Request::get(path).header("authorization", "Bearer wrong");
        let answer = world.send(request.body(axum::body::Body::empty()).unwrap());
        assert_eq!(answer.await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_segment_of_any_condition_becomes_a_rule_for_each() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world
        .run(
            "insert into segments (project_id, key, name, match_type)
             select id, 's', 's', 'any' from projects;
             insert into segment_conditions
                 (project_id, segment_id, attribute, operator, condition_values, sort_order)
             select project_id, id, 'plan', 'eq', array['pro'], 0 from segments
             union all select project_id, id, 'beta', 'exists', array[]::text[], 1 from segments",
        )
        .await;
    world
        .rule(flag, "segment", json!({"segmentKey": "s"}), json!(true))
        .await;
    let rules_of = async |query: &str| {
        let body = world.get(&format!("{PATH}{query}"), &[]).await.json();
        (body["flags"][0]["rules"].clone(), body["segments"].clone())
    };
    let (rules, segments) = rules_of("").await;
    assert_eq!(rules[0]["ruleType"], "segment");
    assert_eq!(segments[0]["matchType"], "any");
    let (rules, segments) = rules_of("?expand=segments").await;
    let expected = [
        json!({"attribute": "plan", "operator": "eq", "values": ["pro"]}),
        json!({"attribute": "beta", "operator": "exists", "values": []}),
    ];
    for (rule, condition) in rules.as_array().unwrap().iter().zip(&expected) {
        assert_eq!(rule["ruleType"], "attribute");
        assert_eq!(rule["priority"], json!(0));
        assert_eq!(rule["ruleConfig"]["conditions"], json!([condition]));
    }
    assert_eq!((rules.as_array().unwrap().len(), segments), (2, json!([])));
}

/// Every variant has a tag of its own, because a client keeps one answer for each.
#[tokio::test]
async fn channel_update_and_form_each_have_their_own_answer() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world.update(UPDATE, "group").await;
    world
        .run(&format!(
            "insert into release_links (project_id, group_id, channel, flag_id, enabled)
             select project_id, 'group', 'production', id, true from flags where id = {flag};
             insert into flag_rules (project_id, flag_id, rule_type, rule_config, variant_value,
                                     channel_name)
             select project_id, id, 'segment', '{{\"segmentKey\": \"s\"}}', 'true', 'beta'
             from flags where id = {flag};
             insert into segments (project_id, key, name, match_type)
             select id, 's', 's', 'all' from projects;
             insert into segment_conditions
                 (project_id, segment_id, attribute, operator, condition_values, sort_order)
             select project_id, id, 'plan', 'exists', array[]::text[], 0 from segments"
        ))
        .await;
    let mut tags = Vec::new();
    for query in [
        String::new(),
        "?channel=beta".to_owned(),
        "?channel=beta&expand=segments".to_owned(),
        format!("?updateId={UPDATE}"),
    ] {
        let answer = world.get(&format!("{PATH}{query}"), &[]).await;
        tags.push(answer.header("etag").to_owned());
    }
    let without_channel = world.get(PATH, &[]).await.json();
    assert_eq!(without_channel["flags"][0]["rules"], json!([]));
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4);
}

/// A slug may look like a UUID.
#[tokio::test]
async fn a_slug_of_hexadecimal_digits_is_a_slug() {
    let world = World::start().await;
    let slug = "0123456789abcdef0123456789abcdef";
    world
        .run(&format!(
            "insert into projects (name, slug) values ('Hex', '{slug}')"
        ))
        .await;
    eventually("the project", async || {
        let path = format!("/v1/ota/flag-definitions/{slug}");
        (world.get(&path, &[]).await.status == StatusCode::OK).then_some(())
    })
    .await;
}

/// Even buckets are for server-side modes only (flags.md §7.2): a client that
/// evaluates itself would compute others, so it is not told of such a rule.
#[tokio::test]
async fn devices_are_not_told_of_rules_in_even_buckets() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    let even = json!({"bucketing": "v2", "rollout": [{"variationId": 1, "weight": 100}]});
    world
        .rule(flag, "percentage_rollout", even, json!(null))
        .await;
    let list = json!({"userIds": ["user-1"]});
    world.rule(flag, "user_list", list, json!(true)).await;
    let definitions = world.get(PATH, &[]).await.json();
    let rules = definitions["flags"][0]["rules"].as_array().unwrap();
    let types: Vec<_> = rules.iter().map(|rule| &rule["ruleType"]).collect();
    assert_eq!(types, ["user_list"]);
    let bulk = json!({"projectSlug": SLUG, "deviceId": "user-2"});
    let served = world
        .post("/v1/ota/flag-evaluations-bulk", &[], &bulk)
        .await;
    assert_eq!(served.json()["flags"]["new-checkout"]["reason"], "SPLIT");
}

/// An operator that nobody knows is true of nobody (flags.md §6): it must not
/// widen a segment of all conditions.
#[tokio::test]
async fn an_unknown_operator_of_a_segment_is_true_of_nobody() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world
        .run(
            "insert into segments (project_id, key, name, match_type)
             select id, 's', 's', 'all' from projects;
             insert into segment_conditions
                 (project_id, segment_id, attribute, operator, condition_values, sort_order)
             select project_id, id, 'platform', 'eq', array['ios'], 0 from segments
             union all select project_id, id, 'platform', 'resembles', array['ios'], 1 from segments",
        )
        .await;
    world
        .rule(flag, "segment", json!({"segmentKey": "s"}), json!(true))
        .await;
    let bulk = json!({"projectSlug": SLUG, "deviceId": "d", "platform": "ios"});
    let served = world
        .post("/v1/ota/flag-evaluations-bulk", &[], &bulk)
        .await;
    assert_eq!(served.json()["flags"]["new-checkout"]["reason"], "DEFAULT");
}
