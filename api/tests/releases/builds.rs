use chrono::TimeDelta;
use serde_json::json;

use crate::world::{OURS, Part, THEIRS, World, form_request};

const RUNTIME: Part<'_> = Part::Text("runtimeVersion", "1.0.0");
const IOS: Part<'_> = Part::Text("platform", "ios");
const BUNDLE: Part<'_> = Part::File("entry.hbc", "application/javascript", b"bundle");

#[tokio::test]
async fn an_upload_makes_a_build_whatever_the_order_of_its_parts() {
    let world = World::start().await;
    let parts = [
        BUNDLE,
        Part::Text("gitBranch", "feature/pay"),
        Part::File("assets/logo.png", "image/png", b"logo"),
        IOS,
        Part::Text("expoConfig", r#"{"name":"Demo"}"#),
        RUNTIME,
    ];
    let build = world.upload("/builds", &parts).await.of(201);
    let id = build["id"].as_i64().unwrap();
    world
        .noted(
            (
                "build.uploaded",
                Some(id),
                json!({"runtimeVersion": "1.0.0", "platform": "ios", "gitBranch": "feature/pay"}),
            ),
            Some((
                "build.uploaded",
                json!({"build_id": id, "build_uuid": build["buildUuid"], "runtime_version": "1.0.0",
                       "platform": "ios", "git_branch": "feature/pay"}),
            )),
        )
        .await;
    let list = world.get("/builds").await.of(200);
    let expected = json!([{
        "id": id, "buildUuid": build["buildUuid"], "runtimeVersion": "1.0.0", "platform": "ios",
        "gitCommitHash": null, "gitBranch": "feature/pay", "ciRunUrl": null, "message": "",
        "createdAt": "2026-03-01T08:00:00.123456Z", "assetCount": 2, "isPublished": false,
    }]);
    assert_eq!(list, expected);
    assert_eq!(
        world
            .call_as((THEIRS, "viewer"), "GET", "/builds", None)
            .await
            .of(200),
        json!([])
    );
    let launch =
        world.value("select string_agg(file_name, ',') from build_assets where is_launch_asset");
    assert_eq!(launch.await, "entry.hbc");
}

#[tokio::test]
async fn a_bad_upload_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    let long = "x".repeat(300_000);
    let cases: [(&[Part<'_>], &str); 10] = [
        (&[IOS, BUNDLE], "runtimeVersion"),
        (
            &[Part::Text("runtimeVersion", "  "), IOS, BUNDLE],
            "runtimeVersion",
        ),
        (&[RUNTIME, BUNDLE], "platform"),
        (
            &[RUNTIME, Part::Text("platform", "web"), BUNDLE],
            "platform",
        ),
        (
            &[RUNTIME, IOS, Part::Text("expoConfig", "{"), BUNDLE],
            "expoConfig",
        ),
        (
            &[RUNTIME, IOS, Part::Text("expoConfig", "[]"), BUNDLE],
            "expoConfig",
        ),
        (&[RUNTIME, IOS], "no file"),
        (
            &[RUNTIME, IOS, BUNDLE, Part::Text("assets", "no filename")],
            "filename",
        ),
        (&[RUNTIME, IOS, Part::File("../..", "", b"")], "filename"),
        (
            &[RUNTIME, IOS, BUNDLE, Part::Text("message", &long)],
            "message",
        ),
    ];
    for (parts, text) in cases {
        world.upload("/builds", parts).await.refused(400, text);
    }
    assert_eq!(world.notes().await, (0, 0));
    assert_eq!(world.value("select count(*) from blobs").await, json!(0));
    assert!(world.files("staging").is_empty() && world.files("assets").is_empty());
}

#[tokio::test]
async fn a_body_that_is_no_form_is_refused() {
    let world = World::start().await;
    let answer = world.post("/builds", json!({})).await;
    answer.refused(415, "multipart/form-data");
    let cut = form_request((OURS, "editor"), "/builds", "--b0undary\r\n".into());
    assert_eq!(world.send(cut).await.status, 400);
}

#[tokio::test]
async fn the_export_says_which_file_starts_the_app() {
    let world = World::start().await;
    let metadata = br#"{"version":0,"fileMetadata":{"ios":{"bundle":"_expo/b.hbc",
        "assets":[{"path":"assets/4f1c","ext":"png"}]}}}"#;
    let parts = [
        RUNTIME,
        IOS,
        Part::File("_expo/a.hbc", "application/javascript", b"a"),
        Part::File("_expo/b.hbc", "application/javascript", b"b"),
        Part::File("assets/4f1c", "image/png", b"image"),
        Part::File("metadata.json", "application/json", metadata),
    ];
    world.upload("/builds", &parts).await.of(201);
    let launch =
        world.value("select string_agg(file_name, ',') from build_assets where is_launch_asset");
    assert_eq!(launch.await, "_expo/b.hbc");
    let extension =
        world.value("select file_extension from build_assets where file_name = 'assets/4f1c'");
    assert_eq!(extension.await, ".png");
}

#[tokio::test]
async fn a_build_goes_unless_an_update_came_from_it() {
    let world = World::start().await;
    let build = world.build(b"bundle").await;
    let path = format!("/builds/{build}");
    world
        .call_as((THEIRS, "editor"), "DELETE", &path, None)
        .await
        .refused(404, "build");
    let published = world
        .post(&format!("{path}/publish"), json!({"channel": "production"}))
        .await;
    let update = published.of(201)["updateId"].clone();
    let before = world.notes().await;
    world
        .call("DELETE", &path, None)
        .await
        .refused(409, "published from this build");
    assert_eq!(world.notes().await, before);
    world
        .call("DELETE", &format!("/updates/{update}"), None)
        .await
        .of(204);
    world.call("DELETE", &path, None).await.of(204);
    world
        .noted(
            ("build.deleted", Some(build), json!({})),
            Some(("build.deleted", json!({"build_id": build}))),
        )
        .await;
    world
        .call("DELETE", &path, None)
        .await
        .refused(404, "build");
    world
        .call("DELETE", "/builds/seven", None)
        .await
        .refused(400, "path");
}

#[tokio::test]
async fn the_newest_hundred_are_listed() {
    let world = World::start().await;
    for index in 0..101 {
        world.advance(TimeDelta::seconds(1));
        let name = format!("1.0.{index}");
        let parts = [Part::Text("runtimeVersion", &name), IOS, BUNDLE];
        world.upload("/builds", &parts).await.of(201);
    }
    let list = world.get("/builds").await.of(200);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 100);
    assert_eq!(
        (&list[0]["runtimeVersion"], &list[99]["runtimeVersion"]),
        (&json!("1.0.100"), &json!("1.0.1"))
    );
}
