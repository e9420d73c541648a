//! Rules and variations of flags (management.md §10.7–10.8).

use axum::http::Method;
use serde_json::{Value, json};

use crate::flags::{boolean, made};
use crate::table::refuse;
use crate::world::{EDITOR, VIEWER, World, keys};

#[tokio::test]
async fn rules_are_kept_in_canonical_form() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    let [on, off] = [&flag["variations"][0]["id"], &flag["variations"][1]["id"]];
    let rules = format!("{path}/rules");
    let slices = json!([{ "variationId": on, "variantValue": true, "weight": 30 },
                        { "variationId": off, "variantValue": false, "weight": 70 }]);
    let good = [
        (
            "user_list",
            json!({ "userIds": "a, b ,," }),
            json!(["a", "b"]),
            "userIds",
        ),
        (
            "user_list",
            json!({ "userIds": [" a ", ""] }),
            json!(["a"]),
            "userIds",
        ),
        (
            "percentage_rollout",
            json!({ "rollout": [{ "variationId": on, "weight": 30 }, { "variationId": off, "weight": 70 }] }),
            slices.clone(),
            "rollout",
        ),
        (
            "percentage_rollout",
            json!({ "rollout": [{ "variantValue": "true", "weight": 30 }, { "variantValue": false, "weight": 70 }] }),
            slices,
            "rollout",
        ),
        (
            "segment",
            json!({ "segmentKey": "not-yet" }),
            json!("not-yet"),
            "segmentKey",
        ),
        (
            "ota_update",
            json!({ "matchBy": "branch", "branch": "main" }),
            json!("main"),
            "branch",
        ),
        (
            "ota_update",
            json!({ "matchBy": "branch", "value": "main" }),
            json!("main"),
            "branch",
        ),
        (
            "ota_update",
            json!({ "matchBy": "runtime_version", "value": "1.2.0", "comparison": "lt" }),
            json!("semver_lt"),
            "operator",
        ),
        (
            "ota_update",
            json!({ "matchBy": "runtime_version", "version": "1.2.0" }),
            json!("gte"),
            "comparison",
        ),
        (
            "ota_update",
            json!({ "matchBy": "updated_since", "withinDays": 7 }),
            json!(7),
            "withinDays",
        ),
    ];
    for (rule_type, config, stored, key) in good {
        let value = if rule_type == "percentage_rollout" {
            Value::Null
        } else {
            json!("true")
        };
        let body = json!({ "ruleType": rule_type, "ruleConfig": config, "variantValue": value });
        let rule = world.post(EDITOR, &rules, &body).await.expect(201);
        assert_eq!(
            keys(&rule),
            [
                "channelName",
                "createdAt",
                "flagId",
                "id",
                "priority",
                "ruleConfig",
                "ruleType",
                "variantValue"
            ]
        );
        assert_eq!(rule["ruleConfig"][key], stored, "{rule}");
        assert_eq!(
            (&rule["priority"], &rule["channelName"]),
            (&json!(0), &Value::Null)
        );
    }
}

#[tokio::test]
async fn a_forced_rule_keeps_its_configuration_and_null_is_absent() {
    let world = World::start().await;
    let (_, path) = boolean(&world).await;
    let condition =
        json!({ "attribute": "a", "operator": "eq", "values": null, "valuesJson": [1] });
    let stored = json!({ "attribute": "a", "operator": "eq", "values": ["1"] });
    for (rule_type, config, stored) in [
        (
            "force",
            json!({ "ticket": { "id": 7 } }),
            json!({ "ticket": { "id": 7 } }),
        ),
        ("force", Value::Null, json!({})),
        (
            "attribute",
            json!({ "conditions": [condition] }),
            json!({ "conditions": [stored] }),
        ),
    ] {
        let body = json!({ "ruleType": rule_type, "ruleConfig": config, "variantValue": true });
        let rule = world
            .post(EDITOR, &format!("{path}/rules"), &body)
            .await
            .expect(201);
        assert_eq!(rule["ruleConfig"], stored, "{rule}");
    }
}

#[tokio::test]
async fn a_rule_is_changed_and_deleted_under_its_flag_alone() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    let rules = format!("{path}/rules");
    let condition = json!({ "attribute": "country", "operator": "in", "values": ["de", 7] });
    let body = json!({ "ruleType": "attribute", "variantValue": true, "priority": 5, "channelName": "beta",
                       "ruleConfig": { "conditions": [condition] } });
    let rule = world.post(EDITOR, &rules, &body).await.expect(201);
    assert_eq!(
        rule["ruleConfig"]["conditions"][0]["values"],
        json!(["de", "7"])
    );
    let audited =
        json!({ "flagId": flag["id"], "ruleType": "attribute", "priority": 5, "channel": "beta" });
    assert_eq!(
        world.last_audit().await,
        (
            "rule.created".to_owned(),
            rule["id"].clone(),
            audited,
            json!("ours-editor")
        )
    );

    let one = format!("{rules}/{}", rule["id"]);
    let change = json!({ "priority": 1, "variantValue": "false", "ruleType": "segment", "channelName": "x" });
    let changed = world.patch(EDITOR, &one, &change).await.expect(200);
    assert_eq!(
        (&changed["priority"], &changed["variantValue"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(
        (&changed["ruleType"], &changed["channelName"]),
        (&json!("attribute"), &json!("beta"))
    );
    let (action, _, details, _) = world.last_audit().await;
    assert_eq!(
        (action.as_str(), details),
        (
            "rule.updated",
            json!({ "flagId": flag["id"], "ruleId": rule["id"] })
        )
    );
    refuse(
        &world,
        EDITOR,
        Method::PATCH,
        &one,
        &[
            (
                json!({ "ruleConfig": { "conditions": [] } }),
                400,
                "conditions",
            ),
            (json!({ "variantValue": "x" }), 400, "variantValue"),
            (json!({ "variantValue": null }), 400, "variantValue"),
        ],
    )
    .await;
    let other = made(&world, &json!({ "name": "o", "key": "other" })).await;
    let astray = format!("/flags/{}/rules/{}", other["id"], rule["id"]);
    world
        .patch(EDITOR, &astray, &json!({ "priority": 2 }))
        .await
        .expect(404);
    world.delete(EDITOR, &astray).await.expect(404);
    world.delete(EDITOR, &one).await.expect(204);
    assert_eq!(world.last_audit().await.0, "rule.deleted");
    world.delete(EDITOR, &one).await.expect(404);
}

#[tokio::test]
async fn wrong_rules_are_refused() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    let on = &flag["variations"][0]["id"];
    let rule = |rule_type: &str, config: Value| json!({ "ruleType": rule_type, "variantValue": true, "ruleConfig": config });
    let rollout = |slices: Value| rule("percentage_rollout", json!({ "rollout": slices }));
    let condition = |attribute: &str, operator: &str, values: Value| {
        rule(
            "attribute",
            json!({ "conditions": [{ "attribute": attribute, "operator": operator, "values": values }] }),
        )
    };
    refuse(&world, EDITOR, Method::POST, &format!("{path}/rules"), &[
        (json!({ "variantValue": true }), 400, "ruleType"),
        (rule("magic", json!({})), 400, "ruleType"),
        (json!({ "ruleType": "user_list", "ruleConfig": { "userIds": ["a"] } }), 400, "variantValue"),
        (json!({ "ruleType": "user_list", "variantValue": "x", "ruleConfig": { "userIds": ["a"] } }), 400, "variantValue"),
        (rule("user_list", json!({})), 400, "userIds"),
        (rule("user_list", json!({ "userIds": ["a,b"] })), 400, "userIds"),
        (rollout(json!([])), 400, "rollout"),
        (rollout(json!([{ "variationId": on, "weight": 99 }])), 400, "100"),
        (rollout(json!([{ "variationId": on, "weight": -1 }])), 400, "weight"),
        (rollout(json!([{ "variationId": 999_999, "weight": 100 }])), 400, "variation"),
        (rule("percentage_rollout", json!({ "percentage": 101 })), 400, "percentage"),
        (rule("attribute", json!({ "conditions": [] })), 400, "conditions"),
        (condition("", "eq", json!(["a"])), 400, "attribute"),
        (condition("a", "like", json!(["a"])), 400, "operator"),
        (condition("a", "eq", json!("a")), 400, "values"),
        (condition("a", "eq", json!([])), 400, "values"),
        (rule("segment", json!({ "segmentKey": " " })), 400, "segmentKey"),
        (rule("ota_update", json!({ "matchBy": "branch", "branch": "" })), 400, "branch"),
        (rule("ota_update", json!({ "matchBy": "runtime_version", "version": "" })), 400, "version"),
        (rule("ota_update", json!({ "matchBy": "runtime_version", "version": "1", "operator": "eq" })), 400, "operator"),
        (rule("ota_update", json!({ "matchBy": "updated_since", "withinDays": 0 })), 400, "withinDays"),
        (rule("ota_update", json!({ "matchBy": "moon" })), 400, "matchBy"),
    ]).await;
    world
        .post(EDITOR, "/flags/999999/rules", &rule("magic", json!({})))
        .await
        .expect(404);
    assert_eq!(world.number("select count(*) from flag_rules").await, 0);
}

#[tokio::test]
async fn a_variations_new_value_takes_the_old_ones_place_everywhere() {
    let world = World::start().await;
    let body = json!({ "name": "Colour", "key": "colour", "flagType": "string", "defaultValue": "red",
                       "variations": [{ "value": "red" }, { "value": "blue" }] });
    let flag = made(&world, &body).await;
    let path = format!("/flags/{}", flag["id"]);
    let [red, blue] = [&flag["variations"][0]["id"], &flag["variations"][1]["id"]];
    world
        .patch(
            EDITOR,
            &format!("{path}/env/beta"),
            &json!({ "defaultValue": "red" }),
        )
        .await
        .expect(200);
    let list = json!({ "ruleType": "user_list", "variantValue": "red", "ruleConfig": { "userIds": ["a"] } });
    world
        .post(EDITOR, &format!("{path}/rules"), &list)
        .await
        .expect(201);
    let rollout = json!({ "ruleType": "percentage_rollout", "ruleConfig": { "rollout": [
        { "variantValue": "red", "weight": 50 }, { "variantValue": "blue", "weight": 50 }] } });
    world
        .post(EDITOR, &format!("{path}/rules"), &rollout)
        .await
        .expect(201);
    let change = json!({ "value": "green", "name": "Green" });
    let changed = world
        .patch(EDITOR, &format!("{path}/variations/{red}"), &change)
        .await
        .expect(200);
    assert_eq!(
        (&changed["value"], &changed["name"]),
        (&json!("green"), &json!("Green"))
    );
    let (action, entity, details, _) = world.last_audit().await;
    assert_eq!((action.as_str(), &entity), ("variation.updated", red));
    assert_eq!(details, json!({ "flagId": flag["id"], "variationId": red }));
    let detail = world.get(VIEWER, &path).await.expect(200);
    assert_eq!(
        (
            &detail["defaultValue"],
            &detail["envSettings"][0]["defaultValue"]
        ),
        (&json!("green"), &json!("green"))
    );
    assert_eq!(detail["rules"][0]["variantValue"], "green");
    let slices = &detail["rules"][1]["ruleConfig"]["rollout"];
    assert_eq!(
        (&slices[0]["variantValue"], &slices[1]["variantValue"]),
        (&json!("green"), &json!("blue"))
    );
    refuse(
        &world,
        EDITOR,
        Method::PATCH,
        &format!("{path}/variations/{blue}"),
        &[
            (json!({ "value": "green" }), 400, "value"),
            (json!({ "value": { "a": 1 } }), 400, "value"),
        ],
    )
    .await;
    let (_, other) = boolean(&world).await;
    world
        .patch(
            EDITOR,
            &format!("{other}/variations/{red}"),
            &json!({ "name": "x" }),
        )
        .await
        .expect(404);
}
