//! Branches, channels and user overrides (management.md §8, 9, 15).

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::table::{but, refuse, refuse_malformed};
use crate::world::{ADMIN, BEGINNING, EDITOR, VIEWER, World, keys};

#[tokio::test]
async fn branches_are_made_listed_and_deleted_when_nothing_uses_them() {
    let world = World::start().await;
    let made = world
        .post(EDITOR, "/branches", &json!({ "name": " hotfix/pay " }))
        .await
        .expect(201);
    assert_eq!(keys(&made), ["createdAt", "id", "name", "projectId"]);
    assert_eq!(
        (&made["name"], &made["createdAt"]),
        (&json!("hotfix/pay"), &json!(BEGINNING))
    );
    let audited = (
        "branch.created".to_owned(),
        made["id"].clone(),
        json!({ "name": "hotfix/pay" }),
        json!("ours-editor"),
    );
    assert_eq!(world.last_audit().await, audited);
    let list = world.get(VIEWER, "/branches").await.expect(200);
    assert_eq!(
        (&list[0]["name"], &list[1]["name"]),
        (&json!("hotfix/pay"), &json!("main"))
    );
    refuse(
        &world,
        EDITOR,
        Method::POST,
        "/branches",
        &[
            (json!({ "name": "hotfix/pay" }), 409, "already exists"),
            (json!({ "name": "  " }), 400, "name"),
            (json!({}), 400, "name"),
            (json!({ "name": 5 }), 400, "name"),
            (json!({ "name": "a".repeat(201) }), 400, "name"),
        ],
    )
    .await;
    refuse_malformed(&world, EDITOR, Method::POST, "/branches").await;
    refuse(
        &world,
        VIEWER,
        Method::POST,
        "/branches",
        &[(json!({ "name": "x" }), 403, "editor")],
    )
    .await;

    let path = "/branches/hotfix%2Fpay";
    let uses = [
        (
            "/channels",
            json!({ "name": "beta", "branchName": "hotfix/pay" }),
            "/channels/beta".to_owned(),
        ),
        (
            "/user-overrides",
            json!({ "userId": "u", "branchName": "hotfix/pay" }),
            String::new(),
        ),
    ];
    for (route, body, used_by) in uses {
        let made = world.post(EDITOR, route, &body).await.expect(201);
        world.delete(EDITOR, path).await.expect(409);
        let used_by = if used_by.is_empty() {
            format!("{route}/{}", made["id"])
        } else {
            used_by
        };
        world.delete(EDITOR, &used_by).await.expect(204);
    }
    let rollout = json!({ "rolloutBranchName": "hotfix/pay" });
    world
        .patch(EDITOR, "/channels/production", &rollout)
        .await
        .expect(204);
    world.delete(EDITOR, path).await.expect(409);
    world
        .patch(
            EDITOR,
            "/channels/production",
            &json!({ "rolloutBranchName": "" }),
        )
        .await
        .expect(204);
    world.delete(EDITOR, path).await.expect(204);
    let (action, entity, details, _) = world.last_audit().await;
    assert_eq!((action.as_str(), &entity), ("branch.deleted", &made["id"]));
    assert_eq!(details, json!({ "name": "hotfix/pay" }));
    world.delete(EDITOR, path).await.expect(404);
}

#[tokio::test]
async fn channels_point_at_branches_that_exist() {
    let world = World::start().await;
    world
        .post(EDITOR, "/branches", &json!({ "name": "qa" }))
        .await
        .expect(201);
    let body = json!({ "name": " beta/1 ", "branchName": " qa " });
    let made = world.post(EDITOR, "/channels", &body).await.expect(201);
    let expected = [
        "branchName",
        "createdAt",
        "id",
        "minRuntimeVersion",
        "name",
        "projectId",
        "rolloutBranchName",
        "rolloutPercentage",
    ];
    assert_eq!(keys(&made), expected);
    assert_eq!(
        (&made["name"], &made["branchName"]),
        (&json!("beta/1"), &json!("qa"))
    );
    assert_eq!(
        (&made["rolloutBranchName"], &made["rolloutPercentage"]),
        (&Value::Null, &json!(0))
    );
    let audited = json!({ "name": "beta/1", "branchName": "qa" });
    assert_eq!(
        world.last_audit().await,
        (
            "channel.created".to_owned(),
            made["id"].clone(),
            audited,
            json!("ours-editor")
        )
    );
    refuse(
        &world,
        EDITOR,
        Method::POST,
        "/channels",
        &[
            (
                json!({ "name": "beta/1", "branchName": "qa" }),
                409,
                "already exists",
            ),
            (
                json!({ "name": "x", "branchName": "none" }),
                400,
                "branchName",
            ),
            (json!({ "name": " ", "branchName": "qa" }), 400, "name"),
            (json!({ "name": "x", "branchName": "" }), 400, "branchName"),
            (json!({ "name": "x" }), 400, "branchName"),
        ],
    )
    .await;
}

#[tokio::test]
async fn channels_are_changed_field_by_field_and_deleted() {
    let world = World::start().await;
    world
        .post(EDITOR, "/branches", &json!({ "name": "qa" }))
        .await
        .expect(201);
    let body = json!({ "name": "beta/1", "branchName": "qa" });
    let made = world.post(EDITOR, "/channels", &body).await.expect(201);
    let path = "/channels/beta%2F1";
    let channel = async || world.get(VIEWER, "/channels").await.expect(200)[0].clone();
    let changes = [
        (
            json!({ "branchName": "main" }),
            json!({ "branchName": "main" }),
        ),
        (
            json!({ "rolloutBranchName": "qa", "rolloutPercentage": 30 }),
            json!({ "rolloutBranchName": "qa", "rolloutPercentage": 30 }),
        ),
        (
            json!({ "minRuntimeVersion": "1.2" }),
            json!({ "minRuntimeVersion": "1.2" }),
        ),
        (
            json!({ "rolloutBranchName": "" }),
            json!({ "rolloutBranchName": null, "rolloutPercentage": 0 }),
        ),
        (
            json!({ "rolloutBranchName": null, "rolloutPercentage": 7 }),
            json!({ "rolloutPercentage": 7 }),
        ),
        (
            json!({ "minRuntimeVersion": "" }),
            json!({ "minRuntimeVersion": null }),
        ),
    ];
    for (change, fields) in changes {
        world.patch(EDITOR, path, &change).await.expect(204);
        let (action, entity, details, _) = world.last_audit().await;
        assert_eq!((action.as_str(), &entity), ("channel.updated", &made["id"]));
        assert_eq!(
            details,
            {
                let mut d = fields.clone();
                d["name"] = json!("beta/1");
                d
            },
            "{change}"
        );
        let now = channel().await;
        for (field, value) in fields.as_object().unwrap() {
            assert_eq!(&now[field], value, "{field} after {change}");
        }
    }
    let audited = world.audit().await.len();
    for nothing in [
        json!({}),
        json!({ "branchName": "main", "rolloutPercentage": 7 }),
    ] {
        world.patch(EDITOR, path, &nothing).await.expect(204);
    }
    assert_eq!(world.audit().await.len(), audited);
    refuse(
        &world,
        EDITOR,
        Method::PATCH,
        path,
        &[
            (json!({ "branchName": "none" }), 400, "branchName"),
            (json!({ "branchName": null }), 400, "branchName"),
            (
                json!({ "rolloutBranchName": "none" }),
                400,
                "rolloutBranchName",
            ),
            (
                json!({ "rolloutPercentage": 101 }),
                400,
                "rolloutPercentage",
            ),
            (json!({ "rolloutPercentage": -1 }), 400, "rolloutPercentage"),
            (
                json!({ "rolloutPercentage": 1.5 }),
                400,
                "rolloutPercentage",
            ),
        ],
    )
    .await;
    let wrong = json!({ "rolloutPercentage": 101 });
    let unknown = world.patch(EDITOR, "/channels/none", &wrong).await;
    unknown.expect(404);
    world.delete(EDITOR, path).await.expect(204);
    let (action, entity, details, _) = world.last_audit().await;
    assert_eq!(
        (action.as_str(), &entity, details),
        ("channel.deleted", &made["id"], json!({ "name": "beta/1" }))
    );
    world.delete(EDITOR, path).await.expect(404);
}

#[tokio::test]
async fn an_override_is_one_per_user() {
    let world = World::start().await;
    world
        .post(EDITOR, "/branches", &json!({ "name": "qa" }))
        .await
        .expect(201);
    let body = json!({ "userId": " u1 ", "branchName": "qa", "note": "tester" });
    let made = world
        .post(EDITOR, "/user-overrides", &body)
        .await
        .expect(201);
    assert_eq!(
        keys(&made),
        [
            "branchName",
            "createdAt",
            "id",
            "note",
            "projectId",
            "userId"
        ]
    );
    assert_eq!(
        (&made["userId"], &made["note"]),
        (&json!("u1"), &json!("tester"))
    );
    let details = json!({ "userId": "u1", "branchName": "qa", "note": "tester" });
    assert_eq!(
        world.last_audit().await,
        (
            "user_override.created".to_owned(),
            made["id"].clone(),
            details,
            json!("ours-editor")
        )
    );
    world.wait(TimeDelta::hours(1));
    let again = json!({ "userId": "u1", "branchName": "main" });
    let again = world
        .post(EDITOR, "/user-overrides", &again)
        .await
        .expect(201);
    assert_eq!(
        (&again["id"], &again["createdAt"]),
        (&made["id"], &made["createdAt"])
    );
    assert_eq!(
        (&again["branchName"], &again["note"]),
        (&json!("main"), &Value::Null)
    );
    assert_eq!(
        world.get(VIEWER, "/user-overrides").await.expect(200),
        json!([again])
    );
    refuse(
        &world,
        EDITOR,
        Method::POST,
        "/user-overrides",
        &[
            (but(&body, &json!({ "userId": " " })), 400, "userId"),
            (but(&body, &json!({ "userId": "none" })), 400, "userId"),
            (but(&body, &json!({ "userId": null })), 400, "userId"),
            (
                but(&body, &json!({ "branchName": "no" })),
                400,
                "branchName",
            ),
            (but(&body, &json!({ "branchName": "" })), 400, "branchName"),
            (
                but(&body, &json!({ "note": "a".repeat(2001) })),
                400,
                "note",
            ),
        ],
    )
    .await;
    let path = format!("/user-overrides/{}", made["id"]);
    world.delete(EDITOR, &path).await.expect(204);
    let (action, _, details, _) = world.last_audit().await;
    assert_eq!(action, "user_override.deleted");
    assert_eq!(
        (&details["userId"], &details["branchName"]),
        (&json!("u1"), &json!("main"))
    );
    world.delete(EDITOR, &path).await.expect(404);
    world.delete(EDITOR, "/user-overrides/x").await.expect(400);
}

#[tokio::test]
async fn the_audit_log_is_filtered_and_paged_by_id() {
    let world = World::start().await;
    for n in 0..230 {
        world
            .post(EDITOR, "/branches", &json!({ "name": format!("b{n}") }))
            .await
            .expect(201);
    }
    let flag = world
        .post(EDITOR, "/flags", &json!({ "name": "f", "key": "f" }))
        .await
        .expect(201);
    let get = async |query: &str| {
        let answer = world
            .get(VIEWER, &format!("/audit-log?{query}"))
            .await
            .expect(200);
        answer.as_array().unwrap().clone()
    };
    let all = get("").await;
    assert_eq!(all.len(), 200);
    let expected = [
        "action",
        "actorName",
        "actorType",
        "createdAt",
        "details",
        "entityId",
        "entityType",
        "id",
    ];
    assert_eq!(keys(&all[0]), expected);
    assert_eq!(
        (&all[0]["action"], &all[0]["entityType"]),
        (&json!("flag.created"), &json!("flag"))
    );
    assert_eq!(all[0]["actorType"], "user");
    let ids: Vec<_> = all
        .iter()
        .map(|entry| entry["id"].as_i64().unwrap())
        .collect();
    assert!(ids.is_sorted_by(|a, b| a > b));
    let rest = get(&format!("before={}", ids[199])).await;
    assert_eq!(rest.len(), 31);
    assert!(rest[0]["id"].as_i64().unwrap() < ids[199]);
    assert_eq!(get("limit=101").await.len(), 101);
    assert_eq!(get("limit=900").await.len(), 200);
    assert_eq!(get("action=flag.created").await.len(), 1);
    assert_eq!(get("entity_type=feature_flag").await.len(), 1);
    assert_eq!(
        get(&format!("entity_type=flag&entity_id={}", flag["id"]))
            .await
            .len(),
        1
    );
    assert_eq!(get("entity_type=flag&action=branch.created").await.len(), 0);
    assert_eq!(get("action=&entity_id=&limit=3").await.len(), 3);
    for query in ["limit=0", "limit=-1", "limit=x", "before=x", "entity_id=x"] {
        world
            .get(VIEWER, &format!("/audit-log?{query}"))
            .await
            .expect(400);
    }
    world.get(ADMIN, "/audit-log?unknown=1").await.expect(200);
}
