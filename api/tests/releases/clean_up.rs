use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::json;

use crate::world::{OURS, Part, THEIRS, World};

const ADMIN: (&str, &str) = (OURS, "admin");

#[tokio::test]
async fn usage_counts_each_file_once() {
    let world = World::start().await;
    world.publish("production").await;
    world.build(b"another").await;
    world.asset("loose.js", b"loose", true).await;
    let usage = world
        .call_as((OURS, "viewer"), "GET", "/gc", None)
        .await
        .of(200);
    let expected = json!({"totalS3Objects": 3, "totalSizeBytes": 6 + 4 + 7, "updateAssets": 2, "buildAssets": 3});
    assert_eq!(usage, expected);
    let theirs = world
        .call_as((THEIRS, "viewer"), "GET", "/gc", None)
        .await
        .of(200);
    assert_eq!(theirs["totalS3Objects"], 0);
}

#[tokio::test]
async fn what_nothing_needs_goes_after_a_day_and_nothing_else() {
    let world = World::start().await;
    world.publish("production").await;
    let loose = world.asset("loose.js", b"loose", true).await;
    let theirs = world.asset_of(THEIRS, "loose.js", b"loose", true).await;
    world.advance(TimeDelta::hours(23));
    let fresh = world.asset("fresh.js", b"fresh!", true).await;
    let nothing = world.call_as(ADMIN, "POST", "/gc", None).await.of(200);
    assert_eq!(nothing, json!({"deletedObjects": 0, "freedBytes": 0}));
    world.advance(TimeDelta::hours(2));
    let collected = world.call_as(ADMIN, "POST", "/gc", None).await.of(200);
    assert_eq!(collected, json!({"deletedObjects": 1, "freedBytes": 5}));
    world
        .noted(
            (
                "gc.run",
                None,
                json!({"deletedObjects": 1, "freedBytes": 5}),
            ),
            None,
        )
        .await;
    let status = async |asset: &serde_json::Value| {
        world
            .fetch("GET", asset["s3Key"].as_str().unwrap(), &[])
            .await
            .status
            .as_u16()
    };
    assert_eq!(
        (
            status(&loose).await,
            status(&theirs).await,
            status(&fresh).await
        ),
        (404, 200, 200)
    );
    assert_eq!(world.files("assets").len(), 4);
    assert_eq!(
        world.value("select count(*) from unowned_objects").await,
        json!(0)
    );
    let gone = json!({"runtimeVersion": "1", "platform": "ios", "assets": [loose]});
    world.post("/updates", gone).await.refused(400, "s3Key");
    let again = world.asset("loose.js", b"loose", true).await;
    assert_ne!(
        again["s3Key"], loose["s3Key"],
        "a key that was removed is never used again"
    );
    assert_eq!(status(&again).await, 200);
}

#[tokio::test]
async fn devices_have_a_day_to_finish_what_they_were_loading() {
    let world = World::start().await;
    let update = world.publish("production").await;
    let build = world.value("select id from builds").await;
    world.advance(TimeDelta::days(30));
    world
        .call("DELETE", &format!("/updates/{update}"), None)
        .await
        .of(204);
    world
        .call("DELETE", &format!("/builds/{build}"), None)
        .await
        .of(204);
    let freed =
        async || world.call_as(ADMIN, "POST", "/gc", None).await.of(200)["deletedObjects"].clone();
    world.advance(TimeDelta::hours(23));
    assert_eq!(freed().await, 0);
    world.advance(TimeDelta::hours(2));
    assert_eq!(freed().await, 2);
    assert!(world.files("assets").is_empty());
}

#[tokio::test]
async fn an_upload_of_known_content_renews_it() {
    let world = World::start().await;
    let asset = world.asset("a.js", b"a", true).await;
    world.advance(TimeDelta::hours(25));
    assert_eq!(
        world.asset("a.js", b"a", true).await["s3Key"],
        asset["s3Key"]
    );
    let collected = world.call_as(ADMIN, "POST", "/gc", None).await.of(200);
    assert_eq!(collected["deletedObjects"], 0);
}

#[tokio::test]
async fn clean_ups_at_once_count_each_file_once() {
    let world = World::start().await;
    for index in 0..20_u8 {
        world.asset("a.js", &[index], true).await;
    }
    world.advance(TimeDelta::hours(25));
    let runs = join_all((0..8).map(|_| world.call_as(ADMIN, "POST", "/gc", None))).await;
    let freed: i64 = runs
        .iter()
        .map(|run| run.of(200)["freedBytes"].as_i64().unwrap())
        .sum();
    assert_eq!(freed, 20);
    assert!(world.files("assets").is_empty());
}

#[tokio::test]
async fn clean_up_and_publication_at_once_lose_nothing() {
    let world = World::start().await;
    let mut assets = Vec::new();
    for index in 0..20_u8 {
        assets.push(world.asset("a.js", &[index], true).await);
    }
    world.advance(TimeDelta::hours(25));
    let publish = assets.iter().map(|asset| {
        let body = json!({"runtimeVersion": "1", "platform": "ios", "assets": [asset]});
        world.post("/updates", body)
    });
    let clean = (0..5).map(|_| world.call_as(ADMIN, "POST", "/gc", None));
    let (published, cleaned) = tokio::join!(join_all(publish), join_all(clean));
    assert!(cleaned.iter().all(|run| run.status == 200));
    for (answer, asset) in published.iter().zip(&assets) {
        let served = world
            .fetch("GET", asset["s3Key"].as_str().unwrap(), &[])
            .await;
        let expected = if answer.status == 201 { 200 } else { 404 };
        assert!(answer.status == 201 || answer.status == 400, "{answer:?}");
        assert_eq!(served.status, expected);
    }
}

#[tokio::test]
async fn objects_of_a_deleted_project_and_of_failed_uploads_go_too() {
    let world = World::start().await;
    world.asset("a.js", b"a", true).await;
    world.asset_of(THEIRS, "b.js", b"b", true).await;
    // An upload that died between its objects and its rows.
    world.run("insert into unowned_objects (storage_key, delete_after)
               values ('assets/0/half', '2026-03-02T08:00:00Z'), ('assets/0/later', '2026-03-04T08:00:00Z')").await;
    std::fs::create_dir_all(world.dir.path().join("assets/0")).unwrap();
    for name in ["half", "later"] {
        std::fs::write(world.dir.path().join("assets/0").join(name), name).unwrap();
    }
    world
        .run("delete from projects where slug = 'theirs'")
        .await;
    assert_eq!(
        world.files("assets").len(),
        4,
        "the transaction touches no files"
    );
    world.advance(TimeDelta::hours(25));
    world
        .run("update blobs set needed_at = '2026-03-02T09:00:00Z'")
        .await;
    world.call_as(ADMIN, "POST", "/gc", None).await.of(200);
    let left = world.files("assets");
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().any(|path| path.ends_with("assets/0/later")));
}

#[tokio::test]
async fn what_cannot_be_removed_holds_up_nothing_else() {
    let world = World::start().await;
    world
        .run(
            "insert into unowned_objects (storage_key, delete_after)
             values ('assets/0/stuck', '-infinity'), ('assets/0/free', '2026-03-01T00:00:00Z')",
        )
        .await;
    // A directory in the place of an object cannot be removed as one.
    std::fs::create_dir_all(world.dir.path().join("assets/0/stuck/in")).unwrap();
    std::fs::write(world.dir.path().join("assets/0/free"), b"free").unwrap();
    world.call_as(ADMIN, "POST", "/gc", None).await.of(200);
    assert!(world.files("assets").is_empty());
    let left = world.value("select string_agg(storage_key, ',') from unowned_objects");
    assert_eq!(left.await, "assets/0/stuck");
}

/// A stored file and a later one that comes before it by content.
async fn pair_out_of_order(world: &World) -> (i64, i64) {
    let query = "select jsonb_build_array(early.id, late.id) from blobs early, blobs late
                 where early.id < late.id and late.sha256 < early.sha256
                   and early.project_id = late.project_id
                 order by 1 limit 1";
    let pair = world.value(query).await;
    (pair[0].as_i64().unwrap(), pair[1].as_i64().unwrap())
}

/// Whoever locks stored files goes by their content: others would deadlock.
#[tokio::test]
async fn stored_files_are_locked_in_the_order_of_their_content() {
    let world = World::start().await;
    let contents: Vec<[u8; 1]> = (0..6).map(|index| [index]).collect();
    let parts = || {
        let files = contents.iter().map(|bytes| Part::File("a.js", "", bytes));
        let texts = [
            Part::Text("runtimeVersion", "1"),
            Part::Text("platform", "ios"),
        ];
        texts.into_iter().chain(files).collect::<Vec<_>>()
    };
    for content in &contents {
        world.asset("a.js", content, true).await;
    }
    let build = world.upload("/builds", &parts()).await.of(201)["id"].clone();
    let path = format!("/builds/{build}");
    let published = world
        .post(&format!("{path}/publish"), json!({"channel": "c"}))
        .await
        .of(201);
    let update = &published["updateId"];
    let (early, late) = pair_out_of_order(&world).await;
    let operations: [(&str, String); 3] = [
        ("POST", "/builds".to_owned()),
        ("DELETE", format!("/updates/{update}")),
        ("DELETE", path),
    ];
    for (method, path) in operations {
        let mut other = world.pool.begin().await.unwrap();
        let lock = "select from blobs where id = $1 for update";
        sqlx::query(lock)
            .bind(late)
            .execute(&mut *other)
            .await
            .unwrap();
        let operation = async {
            if method == "POST" {
                world.upload(&path, &parts()).await
            } else {
                world.call(method, &path, None).await
            }
        };
        let check = async {
            let waiting = "select count(*) from pg_stat_activity
                           where datname = current_database() and wait_event_type = 'Lock'";
            while world.value(waiting).await == 0 {
                tokio::task::yield_now().await;
            }
            let lock = "select from blobs where id = $1 for update nowait";
            let locked = sqlx::query(lock).bind(early).execute(&mut *other).await;
            assert!(locked.is_ok(), "{method} {path}: {locked:?}");
            other.rollback().await.unwrap();
        };
        let (answer, ()) = tokio::join!(operation, check);
        assert!(answer.status.is_success(), "{answer:?}");
    }
}
