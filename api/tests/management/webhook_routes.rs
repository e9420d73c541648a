//! `/webhooks` (management.md §12.1–12.3): shapes, refusals, roles, audit.

use axum::http::Method;
use serde_json::{Value, json};
use sluice_api::state::Policy;

use crate::world::{ADMIN, BEGINNING, Caller, EDITOR, THEIR_ADMIN, VIEWER, World, keys};

const WEBHOOK: [&str; 8] = [
    "createdAt",
    "events",
    "hasSecret",
    "id",
    "isActive",
    "projectId",
    "secret",
    "url",
];

fn hook(url: &str) -> Value {
    json!({ "url": url, "events": ["branch.created"], "secret": "whsec_demo" })
}

async fn made(world: &World, caller: Caller) -> i64 {
    let made = world
        .post(caller, "/webhooks", &hook("https://example.test/a"))
        .await;
    made.expect(201)["id"].as_i64().unwrap()
}

#[tokio::test]
async fn a_webhook_shows_its_secret_once() {
    let world = World::start().await;
    let body = json!({
        "url": "https://example.test", "secret": "whsec_demo", "enabled": false,
        "events": ["branch.created", "build.uploaded", "branch.created"],
    });
    let made = world.post(EDITOR, "/webhooks", &body).await.expect(201);
    assert_eq!(keys(&made), WEBHOOK);
    assert_eq!(made["url"], "https://example.test");
    assert_eq!(made["events"], json!(["branch.created", "build.uploaded"]));
    assert_eq!(
        (&made["isActive"], &made["secret"]),
        (&json!(true), &json!("whsec_demo"))
    );
    assert_eq!(
        (&made["hasSecret"], &made["createdAt"]),
        (&json!(true), &json!(BEGINNING))
    );
    let audited = json!({ "url": made["url"], "events": made["events"], "isActive": true });
    let expected = (
        "webhook.created".to_owned(),
        made["id"].clone(),
        audited,
        json!("ours-editor"),
    );
    assert_eq!(world.last_audit().await, expected);

    let unsigned = json!({ "url": "http://example.test/b", "events": [], "secret": "" });
    let unsigned = world.post(EDITOR, "/webhooks", &unsigned).await.expect(201);
    assert_eq!(
        (&unsigned["secret"], &unsigned["hasSecret"]),
        (&Value::Null, &json!(false))
    );

    let list = world.get(VIEWER, "/webhooks").await.expect(200);
    assert_eq!(list[0]["id"], unsigned["id"], "newest first");
    assert_eq!(keys(&list[1]), WEBHOOK);
    assert_eq!(
        (&list[1]["secret"], &list[1]["hasSecret"]),
        (&Value::Null, &json!(true))
    );
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_audits_it_without_the_secret() {
    let world = World::start().await;
    let id = made(&world, EDITOR).await;
    let path = format!("/webhooks/{id}");
    let changes = [
        (json!({ "isActive": false }), json!({ "isActive": false })),
        (
            json!({ "url": "http://example.test/c" }),
            json!({ "url": "http://example.test/c" }),
        ),
        (
            json!({ "events": ["update.created"] }),
            json!({ "events": ["update.created"] }),
        ),
        (
            json!({ "secret": "whsec_new" }),
            json!({ "secretChanged": true }),
        ),
        (json!({ "secret": null }), json!({ "secretChanged": true })),
    ];
    for (body, details) in changes {
        world.patch(EDITOR, &path, &body).await.expect(204);
        let expected = (
            "webhook.updated".to_owned(),
            json!(id),
            details,
            json!("ours-editor"),
        );
        assert_eq!(world.last_audit().await, expected);
    }
    let list = world.get(VIEWER, "/webhooks").await.expect(200);
    assert_eq!(list[0]["url"], "http://example.test/c");
    assert_eq!(list[0]["events"], json!(["update.created"]));
    assert_eq!(
        (&list[0]["isActive"], &list[0]["hasSecret"]),
        (&json!(false), &json!(false))
    );

    let before = world.audit().await.len();
    world
        .patch(EDITOR, &path, &json!({ "enabled": true }))
        .await
        .expect(204);
    assert_eq!(
        world.audit().await.len(),
        before,
        "nothing changed, nothing audited"
    );
}

#[tokio::test]
async fn a_deleted_webhook_is_gone_with_its_deliveries() {
    let world = World::start().await;
    let path = format!("/webhooks/{}", made(&world, EDITOR).await);
    world
        .post(EDITOR, "/branches", &json!({ "name": "qa" }))
        .await
        .expect(201);
    assert_eq!(
        world
            .number("select count(*) from webhook_deliveries")
            .await,
        1
    );
    world.delete(EDITOR, &path).await.expect(204);
    assert_eq!(
        world
            .number("select count(*) from webhook_deliveries")
            .await,
        0
    );
    let (action, _, details, _) = world.last_audit().await;
    assert_eq!((action.as_str(), details), ("webhook.deleted", json!({})));
    world.delete(EDITOR, &path).await.expect(404);
    world
        .get(VIEWER, &format!("{path}/deliveries"))
        .await
        .expect(404);
}

#[tokio::test]
async fn wrong_bodies_are_refused_by_field_and_leave_nothing() {
    let world = World::start().await;
    let id = made(&world, EDITOR).await;
    let audited = world.audit().await.len();
    let long = format!("https://example.test/{}", "a".repeat(2048));
    let wrong = [
        ("url", json!("")),
        ("url", json!("/hook")),
        ("url", json!("example.test")),
        ("url", json!("ftp://example.test/")),
        ("url", json!("http:example.test")),
        ("url", json!("https:/example.test")),
        ("url", json!("https://u:p@example.test/")),
        ("url", json!("https://u@example.test/")),
        ("url", json!(long)),
        ("url", json!(7)),
        ("events", json!(["flag.created"])),
        ("events", json!("branch.created")),
        ("events", json!([1])),
        ("secret", json!("x".repeat(2049))),
        ("secret", json!(1)),
    ];
    for (field, value) in wrong {
        let mut body = hook("https://example.test/");
        body[field] = value.clone();
        let answer = world.post(EDITOR, "/webhooks", &body).await.expect(400);
        assert!(
            answer["error"].as_str().unwrap().contains(field),
            "{answer}"
        );
        let path = format!("/webhooks/{id}");
        let answer = world
            .patch(EDITOR, &path, &json!({ field: value }))
            .await
            .expect(400);
        assert!(
            answer["error"].as_str().unwrap().contains(field),
            "{answer}"
        );
    }
    for missing in ["url", "events"] {
        let mut body = hook("https://example.test/");
        body.as_object_mut().unwrap().remove(missing);
        let answer = world.post(EDITOR, "/webhooks", &body).await.expect(400);
        assert!(
            answer["error"].as_str().unwrap().contains(missing),
            "{answer}"
        );
    }
    for field in ["url", "events", "isActive"] {
        let body = json!({ field: null });
        world
            .patch(EDITOR, &format!("/webhooks/{id}"), &body)
            .await
            .expect(400);
    }
    world
        .get(VIEWER, "/webhooks/x/deliveries")
        .await
        .expect(400);
    assert_eq!(world.audit().await.len(), audited);
    assert_eq!(world.number("select count(*) from webhooks").await, 1);
}

#[tokio::test]
async fn a_project_has_fifty_webhooks_however_they_come() {
    let world = World::start().await;
    world
        .run(
            "insert into webhooks (project_id, url, events)
             select id, 'http://example.test/', '{}' from projects, generate_series(1, 45)
             where slug = 'ours'",
        )
        .await;
    let body = hook("https://example.test/");
    let answers = (0..10).map(|_| world.post(EDITOR, "/webhooks", &body));
    let answers = futures_util::future::join_all(answers).await;
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 5);
    assert_eq!(answers.iter().filter(|a| a.status == 400).count(), 5);
}

#[tokio::test]
async fn addresses_inside_the_network_are_refused_when_a_webhook_is_made() {
    let world = World::with_policy(Policy::default()).await;
    let id = made(&world, EDITOR).await;
    for url in [
        "http://127.0.0.1/",
        "http://localhost:8080/",
        "https://10.0.0.1/",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://168.63.129.16/machine?comp=goalstate",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.0.0.1./",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[2002:7f00:1::]/",
    ] {
        let answer = world
            .post(EDITOR, "/webhooks", &hook(url))
            .await
            .expect(400);
        assert!(
            answer["error"].as_str().unwrap().contains("public"),
            "{url}: {answer}"
        );
        let patch = world
            .patch(EDITOR, &format!("/webhooks/{id}"), &json!({ "url": url }))
            .await;
        patch.expect(400);
    }
    world
        .post(EDITOR, "/webhooks", &hook("http://8.8.8.8/"))
        .await
        .expect(201);
    world
        .post(EDITOR, "/webhooks", &hook("http://no-such-name.invalid/"))
        .await
        .expect(201);
}

#[tokio::test]
async fn viewers_read_and_editors_write() {
    let world = World::start().await;
    let id = made(&world, EDITOR).await;
    let one = format!("/webhooks/{id}");
    let list = format!("{one}/deliveries");
    let body = hook("https://example.test/");
    let routes: [(Method, &str, Option<&Value>); 5] = [
        (Method::GET, "/webhooks", None),
        (Method::GET, &list, None),
        (Method::POST, "/webhooks", Some(&body)),
        (Method::PATCH, &one, Some(&body)),
        (Method::DELETE, &one, None),
    ];
    for (method, path, body) in routes {
        let reads = method == Method::GET;
        for (token, is_editor) in [
            ("ours-viewer", false),
            ("key-ours-viewer", false),
            ("ours-editor", true),
            ("key-ours-editor", true),
            ("ours-admin", true),
        ] {
            // What is allowed to delete would leave nothing for the next.
            if method == Method::DELETE && is_editor {
                continue;
            }
            let caller = Caller {
                token,
                project: "ours",
            };
            let status = world.call(caller, method.clone(), path, body).await.status;
            let allowed = reads || is_editor;
            assert_eq!(status == 403, !allowed, "{token} {method} {path}: {status}");
        }
        for (token, project, expected) in [
            ("nobody", "ours", 401),
            ("ours-admin", "", 400),
            ("stranger", "ours", 404),
            ("key-theirs-editor", "ours", 404),
            ("key-ours-publishable", "ours", 403),
        ] {
            let answer = world
                .call(Caller { token, project }, method.clone(), path, body)
                .await;
            assert_eq!(answer.status, expected, "{token} {method} {path}");
        }
    }
}

#[tokio::test]
async fn another_projects_webhook_does_not_exist() {
    let world = World::start().await;
    let id = made(&world, THEIR_ADMIN).await;
    let path = format!("/webhooks/{id}");
    world
        .get(ADMIN, &format!("{path}/deliveries"))
        .await
        .expect(404);
    world
        .patch(ADMIN, &path, &json!({ "isActive": false }))
        .await
        .expect(404);
    // Not even to say what is wrong with the body.
    world
        .patch(ADMIN, &path, &json!({ "url": "x" }))
        .await
        .expect(404);
    world.delete(ADMIN, &path).await.expect(404);
    assert_eq!(world.get(ADMIN, "/webhooks").await.expect(200), json!([]));
    let theirs = world.get(THEIR_ADMIN, "/webhooks").await.expect(200);
    assert_eq!(
        (&theirs[0]["id"], &theirs[0]["isActive"]),
        (&json!(id), &json!(true))
    );
}
