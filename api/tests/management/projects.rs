//! Projects and their API keys (management.md §4–5).

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::accounts::{KEY, holder};
use crate::table::refuse;
use crate::world::{ADMIN, BEGINNING, Caller, EDITOR, THEIR_ADMIN, VIEWER, World, hash, keys};

#[tokio::test]
async fn api_keys_are_shown_once_used_and_ended() {
    let world = World::start().await;
    let made = world
        .post(ADMIN, "/auth/api-keys", &json!({ "name": " CI " }))
        .await
        .expect(201);
    assert_eq!(keys(&made), ["id", "key", "keyPrefix", "name"]);
    let key = made["key"].as_str().unwrap();
    assert_eq!((key.len(), &made["name"]), (68, &json!("CI")));
    assert!(key.starts_with("dsp_") && key.starts_with(made["keyPrefix"].as_str().unwrap()));
    let (action, entity, details, _) = world.last_audit().await;
    assert_eq!((action.as_str(), &entity), ("api_key.created", &made["id"]));
    assert_eq!(details["name"], "CI");
    let caller = holder(key, "ours");
    let shown = async || {
        let list = world.get(ADMIN, "/auth/api-keys").await.expect(200);
        let mut keys = list.as_array().unwrap().iter();
        keys.find(|key| key["id"] == made["id"]).unwrap().clone()
    };
    let before = shown().await;
    assert_eq!(
        keys(&before),
        [
            "createdAt",
            "id",
            "isActive",
            "keyPrefix",
            "lastUsedAt",
            "name"
        ]
    );
    assert_eq!(before["lastUsedAt"], Value::Null);
    // An editor unless something else was asked for.
    world
        .post(caller, "/branches", &json!({ "name": "by-key" }))
        .await
        .expect(201);
    assert_eq!(world.last_audit().await.3, "CI");
    world.get(caller, "/auth/api-keys").await.expect(403);
    assert_eq!(shown().await["lastUsedAt"], BEGINNING);
    // About a minute exact, so that not every read is a write.
    for (seconds, last) in [(59, BEGINNING), (1, "2026-01-02T03:05:05Z")] {
        world.wait(TimeDelta::seconds(seconds));
        world.get(caller, "/branches").await.expect(200);
        assert_eq!(shown().await["lastUsedAt"], last);
    }
    world
        .get(
            Caller {
                project: "theirs",
                ..caller
            },
            "/branches",
        )
        .await
        .expect(404);
    world
        .get(
            Caller {
                project: "",
                ..caller
            },
            "/branches",
        )
        .await
        .expect(400);

    let path = format!("/auth/api-keys/{}", made["id"]);
    let revoke = format!("{path}/revoke");
    world
        .call(ADMIN, Method::POST, &revoke, None)
        .await
        .expect(204);
    assert_eq!(world.last_audit().await.0, "api_key.revoked");
    world.get(caller, "/branches").await.expect(401);
    world
        .call(ADMIN, Method::POST, &revoke, None)
        .await
        .expect(404);
    assert_eq!(shown().await["isActive"], false);
    world.delete(ADMIN, &path).await.expect(204);
    assert_eq!(world.last_audit().await.0, "api_key.deleted");
    world.delete(ADMIN, &path).await.expect(404);
    let by_key = world
        .audit()
        .await
        .into_iter()
        .find(|e| e["action"] == "branch.created")
        .unwrap();
    assert_eq!(
        (&by_key["actorName"], &by_key["actorType"]),
        (&json!("CI"), &json!("api_key"))
    );
}

#[tokio::test]
async fn wrong_api_keys_are_refused() {
    let world = World::start().await;
    refuse(
        &world,
        ADMIN,
        Method::POST,
        "/auth/api-keys",
        &[
            (json!({}), 400, "name"),
            (json!({ "name": " " }), 400, "name"),
            (json!({ "name": "x", "role": "owner" }), 400, "role"),
        ],
    )
    .await;
    // Only the hash is stored.
    assert_eq!(
        world
            .number(&format!(
                "select count(*) from api_keys where key_hash = '{}'",
                hash("key-ours-editor")
            ))
            .await,
        1
    );
}

#[tokio::test]
async fn a_projects_log_begins_with_its_creation() {
    let world = World::start().await;
    let body = json!({ "name": "Second", "slug": "second-app" });
    let made = world.post(ADMIN, "/projects", &body).await.expect(201);
    let second = Caller {
        project: "second-app",
        ..ADMIN
    };
    let log = world.get(second, "/audit-log").await.expect(200);
    assert_eq!(log.as_array().unwrap().len(), 1);
    assert_eq!(
        (&log[0]["action"], &log[0]["entityType"]),
        (&json!("project.created"), &json!("project"))
    );
    assert_eq!(
        (&log[0]["entityId"], &log[0]["details"]),
        (&made["id"], &body)
    );
}

#[tokio::test]
async fn projects_are_made_and_deleted_by_their_own_admins() {
    let world = World::start().await;
    let body = json!({ "name": "Second", "slug": " Second-App " });
    let made = world.post(ADMIN, "/projects", &body).await.expect(201);
    assert_eq!(keys(&made), ["createdAt", "id", "name", "slug", "uuid"]);
    assert_eq!(made["slug"], "second-app");
    let second = Caller {
        project: "second-app",
        ..ADMIN
    };
    assert_eq!(
        world.get(second, "/channels").await.expect(200)[0]["branchName"],
        "main"
    );
    let listed = world.get(ADMIN, "/projects").await.expect(200);
    assert_eq!(
        (&listed[0]["slug"], &listed[1]["slug"]),
        (&json!("ours"), &json!("second-app"))
    );
    let of_key = world.get(KEY, "/projects").await.expect(200);
    assert_eq!(
        (of_key.as_array().unwrap().len(), &of_key[0]["slug"]),
        (1, &json!("ours"))
    );
    refuse(
        &world,
        ADMIN,
        Method::POST,
        "/projects",
        &[
            (json!({ "name": "x", "slug": "theirs" }), 409, "slug"),
            (json!({ "name": "", "slug": "x" }), 400, "name"),
            (json!({ "name": "x", "slug": "a b" }), 400, "slug"),
            (json!({ "name": "x", "slug": "-a" }), 400, "slug"),
            (json!({ "name": "x", "slug": "a".repeat(64) }), 400, "slug"),
            (json!({ "name": "x" }), 400, "slug"),
        ],
    )
    .await;
    refuse(
        &world,
        KEY,
        Method::POST,
        "/projects",
        &[(body, 403, "session")],
    )
    .await;

    // X-Project plays no part: the role in the path's project decides.
    world.delete(ADMIN, "/projects/theirs").await.expect(404);
    world.delete(EDITOR, "/projects/ours").await.expect(403);
    world.delete(KEY, "/projects/ours").await.expect(403);
    for (path, body) in [
        ("/flags", json!({ "name": "f", "key": "f" })),
        (
            "/segments",
            json!({ "name": "s", "matchType": "all", "conditions": [] }),
        ),
        ("/contexts", json!({ "kind": "user", "targetingKey": "u" })),
        (
            "/user-overrides",
            json!({ "userId": "u", "branchName": "main" }),
        ),
        (
            "/webhooks",
            json!({ "url": "http://example.test/", "events": ["branch.created"] }),
        ),
        ("/branches", json!({ "name": "qa" })),
        ("/auth/api-keys", json!({ "name": "k" })),
    ] {
        world.post(second, path, &body).await.expect(201);
    }
    world
        .delete(ADMIN, "/projects/second-app")
        .await
        .expect(204);
    world
        .delete(ADMIN, "/projects/second-app")
        .await
        .expect(404);
    world.get(second, "/branches").await.expect(404);
    let audited: (String, Value) =
        sqlx::query_as("select action, details from audit_log where project_id = $1")
            .bind(made["id"].as_i64().unwrap())
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(
        audited,
        (
            "project.deleted".to_owned(),
            json!({ "name": "Second", "slug": "second-app" })
        )
    );
    world.delete(ADMIN, "/projects/ours").await.expect(409);
}

/// Telemetry.md §2.9: off by default, and a project's own.
#[tokio::test]
async fn admins_say_what_the_default_channel_is_treated_as() {
    const FIELD: &str = "treatDefaultChannelAs";
    let world = World::start().await;
    let set = |value: Value| json!({ FIELD: value });
    let path = "/projects/ours";
    let plain = world.get(VIEWER, "/projects").await.expect(200)[0].clone();
    assert_eq!(keys(&plain), ["createdAt", "id", "name", "slug", "uuid"]);
    let rows = [
        (set(json!("default")), 400, FIELD),
        (set(json!(" default ")), 400, FIELD),
        (set(json!("x".repeat(201))), 400, FIELD),
        (set(json!(true)), 400, FIELD),
        (set(json!(["production"])), 400, FIELD),
        (json!([]), 400, "object"),
    ];
    refuse(&world, ADMIN, Method::PATCH, path, &rows).await;

    // X-Project plays no part: the role in the path's project decides.
    let elsewhere = Caller {
        project: "theirs",
        ..ADMIN
    };
    let set_to = async |caller, path, value| world.patch(caller, path, &set(value)).await;
    let production = || json!("production");
    for (caller, status) in [(EDITOR, 403), (VIEWER, 403), (KEY, 403), (THEIR_ADMIN, 404)] {
        set_to(caller, path, production()).await.expect(status);
    }
    set_to(ADMIN, "/projects/theirs", production())
        .await
        .expect(404);
    set_to(ADMIN, "/projects/nobodys", production())
        .await
        .expect(404);
    let audited = world.audit().await.len();
    let with_it = set_to(elsewhere, path, json!(" production "))
        .await
        .expect(200);
    let mut expected = plain.clone();
    expected[FIELD] = production();
    assert_eq!(with_it, expected);
    let (action, entity, details, actor) = world.last_audit().await;
    assert_eq!(
        (action.as_str(), &entity),
        ("project.updated", &plain["id"])
    );
    assert_eq!(details, json!({ "slug": "ours", FIELD: "production" }));
    assert_eq!(actor, "ours-admin");
    assert_eq!(world.audit().await.len(), audited + 1);

    // What changes nothing leaves nothing.
    for same in [set(production()), json!({}), json!({ "name": "ignored" })] {
        let answer = world.patch(ADMIN, path, &same).await;
        assert_eq!(answer.expect(200), expected, "{same}");
    }
    assert_eq!(world.audit().await.len(), audited + 1);
    for caller in [VIEWER, KEY] {
        let listed = world.get(caller, "/projects").await.expect(200);
        assert_eq!(listed, json!([expected]));
    }
    let theirs = world.get(THEIR_ADMIN, "/projects").await.expect(200);
    assert_eq!(theirs[0].get(FIELD), None);

    for (n, nothing) in (2..).zip([Value::Null, json!(" ")]) {
        let off = set_to(ADMIN, path, nothing).await.expect(200);
        assert_eq!(off, plain);
        let details = world.last_audit().await.2;
        assert_eq!(details, json!({ "slug": "ours", FIELD: null }));
        assert_eq!(world.audit().await.len(), audited + 2 * n - 2);
        set_to(ADMIN, path, json!("beta")).await.expect(200);
    }
    // Nor does anybody else store what means nothing.
    for wrong in ["default", "", " \t"] {
        let update = "update projects set treat_default_channel_as = $1";
        let stored = sqlx::query(update).bind(wrong).execute(&world.pool).await;
        assert!(stored.is_err(), "{wrong:?}");
    }
}
