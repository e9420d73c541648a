//! What is kept of a build, and what of it goes with updates.

use serde_json::{Value, json};

use crate::world::{Part, World};

const CONFIG: &str = r#"{"name":"Demo","extra":{"eas":{"id":7}}}"#;

/// With every part that a client may send.
async fn full_build(world: &World, platform: &str) -> i64 {
    let parts = [
        Part::Text("runtimeVersion", "1.0.0"),
        Part::Text("platform", platform),
        Part::Text("message", "from CI"),
        Part::Text("expoConfig", CONFIG),
        Part::Text("gitCommitHash", "c0ffee"),
        Part::Text("gitBranch", "feature/pay"),
        Part::Text("ciRunUrl", "https://ci.test/runs/7"),
        Part::Text("runtimeFingerprint", "f1n9e4"),
        Part::Named("assets", "main.js", b"javascript"),
        Part::Named("files[]", "entry.hbc", b"bytecode"),
        Part::Named("whatever", "logo.png", b"logo"),
    ];
    let build = world.upload("/builds", &parts).await.of(201);
    build["id"].as_i64().unwrap()
}

fn config() -> Value {
    serde_json::from_str(CONFIG).unwrap()
}

/// The files of an update: content, extension, type, whether it starts the app.
async fn files_of(world: &World, update: i64) -> Value {
    let query = format!(
        "select jsonb_agg(jsonb_build_array(b.size_bytes, a.file_extension, a.content_type, a.is_launch_asset)
                          order by a.id)
         from update_assets a join blobs b on b.id = a.blob_id where a.update_id = {update}"
    );
    world.value(&query).await
}

#[tokio::test]
async fn a_build_keeps_every_part() {
    let world = World::start().await;
    let id = full_build(&world, "ios").await;
    let build = world.get("/builds").await.of(200)[0].take();
    let expected = json!({
        "id": id, "buildUuid": build["buildUuid"], "runtimeVersion": "1.0.0", "platform": "ios",
        "gitCommitHash": "c0ffee", "gitBranch": "feature/pay", "ciRunUrl": "https://ci.test/runs/7",
        "message": "from CI", "createdAt": "2026-03-01T08:00:00.123456Z", "assetCount": 3,
        "isPublished": false,
    });
    assert_eq!(build, expected);
}

#[tokio::test]
async fn an_update_takes_all_of_its_build_and_a_copy_all_of_that() {
    let world = World::start().await;
    let build = full_build(&world, "ios").await;
    let path = format!("/builds/{build}/publish");
    let published = world
        .post(&path, json!({"channel": "production", "isCritical": true}))
        .await
        .of(201);
    let fields: Vec<_> = published.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["groupId", "updateId", "updateUuid"]);
    let first = published["updateId"].as_i64().unwrap();
    let again = world
        .post(&format!("/updates/{first}/republish"), json!({}))
        .await
        .of(201);
    let fields: Vec<_> = again.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["groupId", "updates"]);
    let second = again["updates"][0]["id"].as_i64().unwrap();
    for id in [first, second] {
        let update = world.update(id).await;
        let expected = json!({
            "id": id, "updateUuid": update["updateUuid"], "runtimeVersion": "1.0.0",
            "runtimeFingerprint": "f1n9e4", "platform": "ios", "channel": "production",
            "branchName": "main", "isRollback": false, "rollbackToUpdateId": null,
            "rolloutPercentage": 100, "isCritical": true, "isEnabled": true, "releaseMessage": "",
            "expoConfig": config(), "groupId": update["groupId"], "assetCount": 3,
            "totalSize": 10 + 8 + 4, "totalDownloads": 0, "uniqueDevices": 0,
            "gitCommitHash": "c0ffee", "gitBranch": "feature/pay",
            "ciRunUrl": "https://ci.test/runs/7", "buildMessage": "from CI",
            "createdAt": update["createdAt"],
        });
        assert_eq!(update, expected);
        // Bytecode starts the app, though a script was uploaded before it.
        let stream = "application/octet-stream";
        let files = json!([
            [10, ".js", stream, false],
            [8, ".hbc", stream, true],
            [4, ".png", stream, false]
        ]);
        assert_eq!(files_of(&world, id).await, files);
    }
    let (first, second) = (world.update(first).await, world.update(second).await);
    assert_ne!(first["groupId"], second["groupId"]);
    assert_ne!(first["updateUuid"], second["updateUuid"]);
}

#[tokio::test]
async fn a_fingerprint_serves_for_a_runtime_version() {
    let world = World::start().await;
    let build = full_build(&world, "ios").await;
    let asset = world.asset("entry.js", b"bundle", true).await;
    let update = |platform: &str| {
        let asset = &asset;
        json!({"runtimeVersion": "f1n9e4", "platform": platform, "assets": [asset]})
    };
    let made = world.post("/updates", update("ios")).await.of(201);
    let fields: Vec<_> = made.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["id", "updateUuid"], "there is a build for it");
    let made = world.post("/updates", update("android")).await.of(201);
    assert!(made["warning"].is_string());
    let body = json!({"channel": "staging"});
    world
        .post(&format!("/builds/{build}/publish"), body)
        .await
        .of(201);
    let found = world.get("/updates?runtime_version=f1n9e4").await.of(200);
    assert_eq!(found.as_array().unwrap().len(), 3);
    let found = world.get("/updates?runtime_version=1.0.0").await.of(200);
    assert_eq!(found[0]["channel"], "staging");
    assert_eq!(found.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn builds_of_one_moment_are_ordered_by_id() {
    let world = World::start().await;
    let ids = [
        full_build(&world, "ios").await,
        full_build(&world, "android").await,
        full_build(&world, "ios").await,
    ];
    let list = world.get("/builds").await.of(200);
    let listed: Vec<_> = (0..3).map(|n| list[n]["id"].as_i64().unwrap()).collect();
    assert_eq!(listed, [ids[2], ids[1], ids[0]]);
}

#[tokio::test]
async fn what_an_upload_returns_is_what_an_update_takes() {
    let world = World::start().await;
    let name = format!("entry.{}", "x".repeat(200));
    let asset = world.asset(&name, b"bundle", true).await;
    assert_eq!(asset["fileExtension"].as_str().unwrap().len(), 201);
    let body = json!({"runtimeVersion": "1.0.0", "platform": "ios", "assets": [asset]});
    world.post("/updates", body).await.of(201);
}
