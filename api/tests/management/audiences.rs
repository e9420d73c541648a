//! Segments and contexts (management.md §11, 16).

use std::time::Duration;

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sluice_api::service;
use sluice_service::admin::Readiness;

use crate::table::{but, refuse, refuse_malformed};
use crate::world::{BEGINNING, EDITOR, VIEWER, World, keys};

const SEGMENT: [&str; 10] = [
    "conditions",
    "createdAt",
    "description",
    "estimatedDevices",
    "id",
    "key",
    "matchType",
    "name",
    "projectId",
    "updatedAt",
];

fn segment() -> Value {
    json!({ "name": "Beta Testers", "matchType": "all",
            "conditions": [{ "attribute": "plan", "operator": "in", "valuesJson": ["pro", 7] }] })
}

#[tokio::test]
async fn segments_have_keys_conditions_and_references() {
    let world = World::start().await;
    let made = world
        .post(EDITOR, "/segments", &segment())
        .await
        .expect(201);
    assert_eq!(keys(&made), SEGMENT);
    assert_eq!(
        (&made["key"], &made["description"]),
        (&json!("beta-testers"), &json!(""))
    );
    let condition = &made["conditions"][0];
    assert_eq!(
        keys(condition),
        [
            "attribute",
            "id",
            "operator",
            "segmentId",
            "sortOrder",
            "valuesJson"
        ]
    );
    assert_eq!(condition["valuesJson"], json!(["pro", "7"]));
    assert_eq!(
        world.last_audit().await,
        (
            "segment.created".to_owned(),
            made["id"].clone(),
            json!({ "key": "beta-testers" }),
            json!("ours-editor")
        )
    );
    let second = world
        .post(EDITOR, "/segments", &segment())
        .await
        .expect(201);
    assert_eq!(second["key"], "beta-testers-2");
    let aliased = json!({ "name": "x", "key": "by_alias", "matchType": "any",
        "conditions": [{ "attribute": "plan", "operator": "exists", "values": [] }] });
    world.post(EDITOR, "/segments", &aliased).await.expect(201);
    let list = world.get(VIEWER, "/segments").await.expect(200);
    assert_eq!(
        (&list[0]["key"], &list[1]["key"]),
        (&json!("by_alias"), &json!("beta-testers-2"))
    );
}

#[tokio::test]
async fn wrong_segments_are_refused() {
    let world = World::start().await;
    let first = but(&segment(), &json!({ "key": "beta-testers" }));
    world.post(EDITOR, "/segments", &first).await.expect(201);
    let body = segment();
    let condition = |operator: &str, values: Value| json!({ "conditions": [{ "attribute": "a", "operator": operator, "valuesJson": values }] });
    refuse(&world, EDITOR, Method::POST, "/segments", &[
        (but(&body, &json!({ "key": "beta-testers" })), 409, "already exists"),
        (but(&body, &json!({ "key": "a b" })), 400, "key"),
        (but(&body, &json!({ "name": " " })), 400, "name"),
        (but(&body, &json!({ "matchType": null })), 400, "matchType"),
        (but(&body, &json!({ "matchType": "none" })), 400, "matchType"),
        (but(&body, &json!({ "conditions": null })), 400, "conditions"),
        (but(&body, &condition("like", json!(["x"]))), 400, "conditions[0]"),
        (but(&body, &condition("eq", json!([]))), 400, "conditions[0]"),
        (but(&body, &condition("eq", json!("x"))), 400, "conditions[0]"),
        (but(&body, &json!({ "conditions": [{ "attribute": "", "operator": "eq", "valuesJson": ["a"] }] })), 400, "conditions[0]"),
    ]).await;
    refuse_malformed(&world, EDITOR, Method::POST, "/segments").await;
}

#[tokio::test]
async fn segments_are_changed_but_for_their_keys() {
    let world = World::start().await;
    let made = world
        .post(EDITOR, "/segments", &segment())
        .await
        .expect(201);
    let path = format!("/segments/{}", made["id"]);
    world.wait(TimeDelta::minutes(1));
    let change = json!({ "name": "Others", "description": "d", "matchType": "any", "key": "x", "conditions": [] });
    let changed = world.patch(EDITOR, &path, &change).await.expect(200);
    assert_eq!(keys(&changed), SEGMENT);
    assert_eq!(
        (&changed["name"], &changed["key"], &changed["conditions"]),
        (&json!("Others"), &json!("beta-testers"), &json!([]))
    );
    assert_eq!(world.last_audit().await.0, "segment.updated");
    let cleared = world
        .patch(EDITOR, &path, &json!({ "description": null }))
        .await
        .expect(200);
    assert_eq!(cleared["description"], "");
    refuse(
        &world,
        EDITOR,
        Method::PATCH,
        &path,
        &[
            (json!({ "name": "" }), 400, "name"),
            (json!({ "matchType": null }), 400, "matchType"),
            (json!({ "conditions": [{}] }), 400, "conditions[0]"),
        ],
    )
    .await;
    refuse(
        &world,
        EDITOR,
        Method::PATCH,
        "/segments/999999",
        &[(json!({ "name": "" }), 404, "segment")],
    )
    .await;
}

#[tokio::test]
async fn a_segment_that_rules_use_is_not_deleted() {
    let world = World::start().await;
    let made = world
        .post(EDITOR, "/segments", &segment())
        .await
        .expect(201);
    let path = format!("/segments/{}", made["id"]);
    // Two rules of one flag are one reference, and block.
    let flag = world
        .post(EDITOR, "/flags", &json!({ "name": "F", "key": "f" }))
        .await
        .expect(201);
    let rule = json!({ "ruleType": "segment", "variantValue": true, "ruleConfig": { "segmentKey": "beta-testers" } });
    for _ in 0..2 {
        world
            .post(EDITOR, &format!("/flags/{}/rules", flag["id"]), &rule)
            .await
            .expect(201);
    }
    let detail = world.get(VIEWER, &path).await.expect(200);
    assert_eq!(
        detail["referencedBy"],
        json!([{ "flagId": flag["id"], "flagKey": "f", "flagName": "F" }])
    );
    let refused = world.delete(EDITOR, &path).await.expect(409);
    assert!(
        refused["error"].as_str().unwrap().contains(": f"),
        "{refused}"
    );
    world
        .delete(EDITOR, &format!("/flags/{}", flag["id"]))
        .await
        .expect(204);
    world.delete(EDITOR, &path).await.expect(204);
    assert_eq!(world.last_audit().await.0, "segment.deleted");
    world.delete(EDITOR, &path).await.expect(404);
    world.get(VIEWER, &path).await.expect(404);
}

#[tokio::test]
async fn contexts_are_upserted_searched_and_deleted() {
    let world = World::start().await;
    let body = json!({ "kind": "user", "targetingKey": " u1 ", "name": "Kim", "attributes": { "plan": "100%_pro" } });
    let made = world.post(EDITOR, "/contexts", &body).await.expect(201);
    let expected = [
        "attributes",
        "evaluationCount",
        "firstSeenAt",
        "id",
        "kind",
        "lastSeenAt",
        "name",
        "projectId",
        "targetingKey",
    ];
    assert_eq!(keys(&made), expected);
    assert_eq!(
        (&made["targetingKey"], &made["evaluationCount"]),
        (&json!("u1"), &json!(0))
    );
    let details = json!({ "kind": "user", "targetingKey": "u1" });
    assert_eq!(
        world.last_audit().await,
        (
            "context.created".to_owned(),
            made["id"].clone(),
            details,
            json!("ours-editor")
        )
    );
    world.wait(TimeDelta::hours(1));
    let again = world
        .post(
            EDITOR,
            "/contexts",
            &json!({ "kind": "user", "targetingKey": "u1" }),
        )
        .await
        .expect(201);
    assert_eq!(
        (&again["id"], &again["name"], &again["attributes"]),
        (&made["id"], &made["name"], &made["attributes"])
    );
    assert_eq!(again["firstSeenAt"], BEGINNING);
    assert_ne!(again["lastSeenAt"], BEGINNING);
    world
        .post(
            EDITOR,
            "/contexts",
            &json!({ "kind": "device", "targetingKey": "u1" }),
        )
        .await
        .expect(201);
    refuse(
        &world,
        EDITOR,
        Method::POST,
        "/contexts",
        &[
            (but(&body, &json!({ "kind": "planet" })), 400, "kind"),
            (but(&body, &json!({ "kind": null })), 400, "kind"),
            (
                but(&body, &json!({ "targetingKey": " " })),
                400,
                "targetingKey",
            ),
            (but(&body, &json!({ "attributes": [1] })), 400, "attributes"),
            (
                but(
                    &body,
                    &json!({ "attributes": { "a": "x".repeat(257 * 1024) } }),
                ),
                400,
                "attributes",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn contexts_are_searched_and_paged() {
    let world = World::start().await;
    let body = json!({ "kind": "user", "targetingKey": "u1", "name": "Kim", "attributes": { "plan": "100%_pro" } });
    let made = world.post(EDITOR, "/contexts", &body).await.expect(201);
    let device = json!({ "kind": "device", "targetingKey": "u1" });
    world.post(EDITOR, "/contexts", &device).await.expect(201);
    for (query, total, shown) in [
        ("", 2, 2),
        ("kind=user", 1, 1),
        ("search=KIM", 1, 1),
        ("search=100%25_", 1, 1),
        ("search=plan", 1, 1),
        ("search=%25%25", 0, 0),
        ("search=u_", 0, 0),
        ("search=u1&limit=1", 2, 1),
        ("limit=1&offset=1", 2, 1),
        ("offset=5", 2, 0),
        ("kind=&search=&limit=500", 2, 2),
    ] {
        let page = world
            .get(VIEWER, &format!("/contexts?{query}"))
            .await
            .expect(200);
        assert_eq!(keys(&page), ["contexts", "total"]);
        let got = (&page["total"], page["contexts"].as_array().unwrap().len());
        assert_eq!(got, (&json!(total), shown), "{query}");
    }
    for query in ["limit=0", "offset=-1", "limit=x"] {
        world
            .get(VIEWER, &format!("/contexts?{query}"))
            .await
            .expect(400);
    }
    let kinds = world.get(VIEWER, "/contexts/kinds").await.expect(200);
    assert_eq!(
        kinds,
        json!(["user", "device", "organization", "service", "environment"])
    );
    let path = format!("/contexts/{}", made["id"]);
    let detail = world.get(VIEWER, &path).await.expect(200);
    assert_eq!(
        (&detail["context"]["id"], &detail["evaluations"]),
        (&made["id"], &json!([]))
    );
    world.delete(EDITOR, &path).await.expect(204);
    assert_eq!(world.last_audit().await.0, "context.deleted");
    world.delete(EDITOR, &path).await.expect(404);
    world.get(VIEWER, &path).await.expect(404);
    world.get(VIEWER, "/contexts/x").await.expect(400);
}

#[tokio::test]
async fn a_number_in_a_query_is_one_however_large() {
    let world = World::start().await;
    let huge = "99999999999999999999";
    for path in [
        format!("/contexts?limit={huge}"),
        format!("/contexts?offset={huge}"),
        format!("/audit-log?limit={huge}"),
    ] {
        world.get(VIEWER, &path).await.expect(200);
    }
    for path in [
        format!("/contexts?limit=-{huge}"),
        format!("/contexts?offset=-{huge}"),
        format!("/audit-log?limit=-{huge}"),
        "/contexts?limit=x".to_owned(),
        "/audit-log?limit=1e3".to_owned(),
    ] {
        world.get(VIEWER, &path).await.expect(400);
    }
}

#[tokio::test]
async fn a_search_finds_letters_of_all_alphabets() {
    let world = World::start().await;
    let body = json!({ "kind": "user", "targetingKey": "u1", "name": "ÄRGER Ωmega" });
    world.post(EDITOR, "/contexts", &body).await.expect(201);
    for search in [
        "%C3%84RGER",
        "%C3%A4rger",
        "%CE%A9mega",
        "%CF%89MEGA",
        "rger",
    ] {
        let path = format!("/contexts?search={search}");
        let page = world.get(VIEWER, &path).await.expect(200);
        assert_eq!(page["total"], 1, "{search}");
    }
}

#[tokio::test]
async fn a_segment_knows_how_many_recent_contexts_it_matches() {
    let world = World::start().await;
    let context = async |key: &str, plan: &str| {
        let body = json!({ "kind": "user", "targetingKey": key, "attributes": { "plan": plan } });
        world.post(EDITOR, "/contexts", &body).await.expect(201);
    };
    context("long-ago", "pro").await;
    world.wait(TimeDelta::days(30));
    for (key, plan) in [("a", "pro"), ("b", "pro"), ("c", "free")] {
        context(key, plan).await;
    }
    let made = world
        .post(EDITOR, "/segments", &segment())
        .await
        .expect(201);
    let nobody = but(&segment(), &json!({ "key": "nobody", "conditions": [] }));
    world.post(EDITOR, "/segments", &nobody).await.expect(201);
    let readiness = Readiness::new();
    let workers = tokio::spawn({
        let state = world.state.clone();
        async move { service::run_workers(state, &readiness).await }
    });
    let sizes = async || {
        let list = world.get(VIEWER, "/segments").await.expect(200);
        let list = list.as_array().unwrap().iter();
        list.map(|segment| segment["estimatedDevices"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    until(async || sizes().await == [0, 2]).await;
    // A write counts again.
    let change = json!({ "conditions": [{ "attribute": "plan", "operator": "eq", "valuesJson": ["free"] }] });
    let path = format!("/segments/{}", made["id"]);
    world.patch(EDITOR, &path, &change).await.expect(200);
    until(async || sizes().await == [0, 1]).await;
    workers.abort();
}

async fn until(holds: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never");
}
