//! Flags and what channels say about them (management.md §10.3–10.6).

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::table::{but, refuse, refuse_malformed};
use crate::world::{BEGINNING, EDITOR, VIEWER, World, keys, request};

const FLAG: [&str; 11] = [
    "createdAt",
    "createdByName",
    "defaultValue",
    "description",
    "enabled",
    "flagType",
    "id",
    "key",
    "name",
    "projectId",
    "updatedAt",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut keys = [&FLAG[..], more].concat();
    keys.sort_unstable();
    keys
}

pub(crate) async fn made(world: &World, body: &Value) -> Value {
    world.post(EDITOR, "/flags", body).await.expect(201)
}

pub(crate) async fn boolean(world: &World) -> (Value, String) {
    let flag = made(world, &json!({ "name": "Checkout", "key": "checkout" })).await;
    let path = format!("/flags/{}", flag["id"]);
    (flag, path)
}

#[tokio::test]
async fn a_flag_has_the_defaults_of_its_type() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    let detail = with(&["activeExecutions", "envSettings", "rules", "variations"]);
    assert_eq!(keys(&flag), detail);
    assert_eq!(
        (&flag["flagType"], &flag["defaultValue"]),
        (&json!("boolean"), &json!(false))
    );
    assert_eq!(
        (&flag["enabled"], &flag["createdByName"]),
        (&json!(true), &json!("ours-editor"))
    );
    assert_eq!(
        (&flag["createdAt"], &flag["updatedAt"]),
        (&json!(BEGINNING), &json!(BEGINNING))
    );
    let variations = flag["variations"].as_array().unwrap();
    assert_eq!(
        keys(&variations[0]),
        [
            "createdAt",
            "description",
            "flagId",
            "id",
            "name",
            "sortOrder",
            "value"
        ]
    );
    assert_eq!(
        (&variations[0]["value"], &variations[0]["name"]),
        (&json!(true), &json!("true"))
    );
    assert_eq!(
        (&variations[1]["value"], &variations[1]["sortOrder"]),
        (&json!(false), &json!(1))
    );
    let setting = &flag["envSettings"][0];
    let expected = [
        "channelName",
        "createdAt",
        "defaultValue",
        "enabled",
        "flagId",
        "id",
        "inherited",
    ];
    assert_eq!(keys(setting), expected);
    assert_eq!(
        (&setting["id"], &setting["channelName"]),
        (&json!(0), &json!("production"))
    );
    assert_eq!(
        (&setting["enabled"], &setting["inherited"]),
        (&json!(true), &json!(true))
    );
    let audited = json!({ "key": "checkout", "flagType": "boolean" });
    assert_eq!(
        world.last_audit().await,
        (
            "flag.created".to_owned(),
            flag["id"].clone(),
            audited,
            json!("ours-editor")
        )
    );
    assert_eq!(world.get(VIEWER, &path).await.expect(200), flag);
}

#[tokio::test]
async fn every_type_has_a_default_and_values_may_be_texts() {
    let world = World::start().await;
    boolean(&world).await;
    for (flag_type, zero) in [
        ("string", json!("")),
        ("number", json!(0)),
        ("json", json!({})),
    ] {
        let flag = made(
            &world,
            &json!({ "name": "x", "key": flag_type, "flagType": flag_type }),
        )
        .await;
        assert_eq!(
            (&flag["defaultValue"], &flag["variations"][0]["value"]),
            (&zero, &zero)
        );
        assert_eq!(flag["variations"].as_array().unwrap().len(), 1);
    }
    // Values may come as the texts of the public samples.
    let texts = json!({ "name": "x", "key": "texts", "defaultValue": "false",
        "variations": [{ "value": "true" }, { "value": "false", "name": "Off" }] });
    let texts = made(&world, &texts).await;
    assert_eq!(
        (&texts["defaultValue"], &texts["variations"][0]["value"]),
        (&json!(false), &json!(true))
    );
    let list = world.get(VIEWER, "/flags").await.expect(200);
    let listed: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["key"].as_str().unwrap())
        .collect();
    assert_eq!(listed, ["checkout", "json", "number", "string", "texts"]);
    assert_eq!(
        keys(&list[0]),
        with(&[
            "envSettings",
            "evalByChannel7d",
            "evalTotal7d",
            "rules",
            "variations"
        ])
    );
    assert_eq!(
        (&list[0]["evalTotal7d"], &list[0]["evalByChannel7d"]),
        (&json!(0), &json!({}))
    );
}

#[tokio::test]
async fn wrong_flags_are_refused() {
    let world = World::start().await;
    boolean(&world).await;
    let body = json!({ "name": "New", "key": "new" });
    refuse(
        &world,
        EDITOR,
        Method::POST,
        "/flags",
        &[
            (
                but(&body, &json!({ "key": "checkout" })),
                409,
                "already exists",
            ),
            (but(&body, &json!({ "key": null })), 400, "key"),
            (but(&body, &json!({ "key": "a b" })), 400, "key"),
            (but(&body, &json!({ "key": "ä" })), 400, "key"),
            (but(&body, &json!({ "key": "a".repeat(129) })), 400, "key"),
            (but(&body, &json!({ "name": " " })), 400, "name"),
            (but(&body, &json!({ "flagType": "bool" })), 400, "flagType"),
            (
                but(&body, &json!({ "defaultValue": "yes" })),
                400,
                "defaultValue",
            ),
            (
                but(
                    &body,
                    &json!({ "flagType": "number", "defaultValue": "1x" }),
                ),
                400,
                "defaultValue",
            ),
            (but(&body, &json!({ "variations": [] })), 400, "variations"),
            (
                but(
                    &body,
                    &json!({ "variations": [{ "value": true }, { "value": "true" }] }),
                ),
                400,
                "variations",
            ),
            (
                but(&body, &json!({ "variations": [{ "value": 3 }] })),
                400,
                "variations[0].value",
            ),
            (but(&body, &json!({ "enabled": "yes" })), 400, "enabled"),
        ],
    )
    .await;
    refuse_malformed(&world, EDITOR, Method::POST, "/flags").await;
    assert_eq!(world.number("select count(*) from flags").await, 1);
    assert_eq!(
        world.number("select count(*) from flag_variations").await,
        2
    );
}

#[tokio::test]
async fn a_flag_is_changed_toggled_and_deleted() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    world.wait(TimeDelta::minutes(1));
    let changed = world
        .patch(
            EDITOR,
            &path,
            &json!({ "enabled": false, "key": "x", "flagType": "string" }),
        )
        .await;
    let changed = changed.expect(200);
    assert_eq!(keys(&changed), FLAG);
    assert_eq!(
        (&changed["enabled"], &changed["key"], &changed["flagType"]),
        (&json!(false), &json!("checkout"), &json!("boolean"))
    );
    assert_ne!(changed["updatedAt"], flag["updatedAt"]);
    let (action, entity, details, _) = world.last_audit().await;
    assert_eq!((action.as_str(), &entity), ("flag.toggled", &flag["id"]));
    assert_eq!(details, json!({ "key": "checkout", "enabled": false }));
    let body = json!({ "enabled": true, "name": "N", "defaultValue": "true", "description": "D" });
    let changed = world.patch(EDITOR, &path, &body).await.expect(200);
    assert_eq!(
        (
            &changed["name"],
            &changed["defaultValue"],
            &changed["description"]
        ),
        (&json!("N"), &json!(true), &json!("D"))
    );
    let (action, _, details, _) = world.last_audit().await;
    assert_eq!(action, "flag.updated");
    assert_eq!(
        keys(&details),
        ["defaultValue", "description", "enabled", "key", "name"]
    );
    let cleared = world
        .patch(EDITOR, &path, &json!({ "description": null }))
        .await
        .expect(200);
    assert_eq!(cleared["description"], Value::Null);
    refuse(
        &world,
        EDITOR,
        Method::PATCH,
        &path,
        &[
            (json!({ "name": " " }), 400, "name"),
            (json!({ "name": null }), 400, "name"),
            (json!({ "enabled": null }), 400, "enabled"),
            (json!({ "defaultValue": "maybe" }), 400, "defaultValue"),
        ],
    )
    .await;
    let audited = world.audit().await.len();
    world
        .patch(EDITOR, &path, &json!({ "name": "N" }))
        .await
        .expect(200);
    assert_eq!(world.audit().await.len(), audited, "nothing changed");
    world
        .patch(EDITOR, "/flags/999999", &json!({ "name": "" }))
        .await
        .expect(404);
    world.get(VIEWER, "/flags/999999").await.expect(404);
    world.get(VIEWER, "/flags/x").await.expect(400);
    world.delete(EDITOR, &path).await.expect(204);
    let (action, _, details, _) = world.last_audit().await;
    assert_eq!(
        (action.as_str(), details),
        (
            "flag.deleted",
            json!({ "id": flag["id"], "key": "checkout" })
        )
    );
    world.delete(EDITOR, &path).await.expect(404);
    world.get(VIEWER, &path).await.expect(404);
}

#[tokio::test]
async fn settings_of_a_channel_are_stored_part_by_part() {
    let world = World::start().await;
    let (flag, path) = boolean(&world).await;
    // Any name will do, also one with a slash.
    let setting = world
        .patch(
            EDITOR,
            &format!("{path}/env/canary%2F1"),
            &json!({ "enabled": false }),
        )
        .await;
    let setting = setting.expect(200);
    assert_eq!(
        (&setting["channelName"], &setting["enabled"]),
        (&json!("canary/1"), &json!(false))
    );
    assert_eq!(
        (&setting["defaultValue"], &setting["inherited"]),
        (&json!(false), &json!(false))
    );
    assert_ne!(setting["id"], json!(0));
    let (action, entity, details, _) = world.last_audit().await;
    assert_eq!(
        (action.as_str(), &entity),
        ("env_setting.updated", &setting["id"])
    );
    let expected = json!({ "flagId": flag["id"], "channel": "canary/1", "enabled": false, "defaultValue": false });
    assert_eq!(details, expected);
    // What was never written goes on to follow the flag.
    world
        .patch(EDITOR, &path, &json!({ "defaultValue": true }))
        .await
        .expect(200);
    let detail = world.get(VIEWER, &path).await.expect(200);
    let channels: Vec<_> = detail["envSettings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["channelName"])
        .collect();
    assert_eq!(channels, ["canary/1", "production"]);
    assert_eq!(detail["envSettings"][0]["defaultValue"], true);
    let body = json!({ "defaultValue": "false" });
    let again = world
        .patch(EDITOR, &format!("{path}/env/canary%2F1"), &body)
        .await
        .expect(200);
    assert_eq!(
        (&again["id"], &again["enabled"], &again["defaultValue"]),
        (&setting["id"], &json!(false), &json!(false))
    );
    refuse(
        &world,
        EDITOR,
        Method::PATCH,
        &format!("{path}/env/x"),
        &[
            (json!({ "defaultValue": "variant-a" }), 400, "defaultValue"),
            (json!({ "enabled": 1 }), 400, "enabled"),
        ],
    )
    .await;
    world
        .patch(EDITOR, "/flags/999999/env/x", &json!({ "enabled": true }))
        .await
        .expect(404);
}

/// A number is stored and returned as that number (management.md §10.2), to the
/// last digit that a double has.
#[tokio::test]
async fn numbers_come_back_as_they_were_sent() {
    let world = World::start().await;
    let numbers = [
        "0.30000000000000004",
        "0.9900990099009901",
        "123456.78901234567",
        "5e-324",
        "1.7976931348623157e308",
        "-9007199254740993",
        "4.35",
    ];
    for (n, number) in numbers.into_iter().enumerate() {
        let body = format!(
            r#"{{"name":"n","key":"n{n}","flagType":"number","defaultValue":{number},
                 "variations":[{{"value":{number}}},{{"value":"7"}}]}}"#
        );
        let request = request(Method::POST, "/flags")
            .header("authorization", format!("Bearer {}", EDITOR.token))
            .header("x-project", EDITOR.project)
            .header("content-type", "application/json")
            .body(body.into());
        let flag = world.send(request.unwrap()).await.expect(201);
        let sent: f64 = number.parse().unwrap();
        let path = format!("/flags/{}", flag["id"]);
        for shown in [&flag, &world.get(VIEWER, &path).await.expect(200)] {
            for value in [&shown["defaultValue"], &shown["variations"][0]["value"]] {
                assert_eq!(
                    value.as_f64().map(f64::to_bits),
                    Some(sent.to_bits()),
                    "{number}: {value}"
                );
            }
        }
    }
}
