use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::world::{Part, THEIRS, World};

#[tokio::test]
async fn a_build_becomes_an_update() {
    let world = World::start().await;
    let build = world.build(b"bundle").await;
    let path = format!("/builds/{build}/publish");
    let body = json!({"channel": " production ", "rolloutPercentage": 5, "isCritical": true, "releaseMessage": "pay",
                      "groupId": "rel_2024_03_15", "branchName": "ignored"});
    let published = world.post(&path, body).await.of(201);
    let id = published["updateId"].as_i64().unwrap();
    assert_eq!(published["groupId"], "rel_2024_03_15");
    let details = json!({"updateId": id, "channel": "production", "rolloutPercentage": 5,
                         "runtimeVersion": "1.0.0", "platform": "ios"});
    let event = json!({"build_id": build, "update_id": id, "update_uuid": published["updateUuid"],
                       "group_id": "rel_2024_03_15", "channel": "production", "runtime_version": "1.0.0", "platform": "ios"});
    world
        .noted(
            ("build.published", Some(build), details),
            Some(("build.published", event)),
        )
        .await;
    let update = world.update(id).await;
    assert_eq!(update["updateUuid"], published["updateUuid"]);
    assert_eq!(
        (&update["branchName"], &update["rolloutPercentage"]),
        (&json!("main"), &json!(5))
    );
    assert_eq!(
        (&update["gitCommitHash"], &update["buildMessage"]),
        (&json!("c0ffee"), &json!("from CI"))
    );
    assert_eq!(
        (&update["assetCount"], &update["totalSize"]),
        (&json!(2), &json!(10))
    );
    assert_eq!(world.get("/builds").await.of(200)[0]["isPublished"], true);
    let implicit = world
        .post(&path, json!({"channel": "canary"}))
        .await
        .of(201);
    let implicit = world.update(implicit["updateId"].as_i64().unwrap()).await;
    assert_eq!(implicit["branchName"], "canary");
    assert_eq!(implicit["groupId"].as_str().unwrap().len(), 36);
}

#[tokio::test]
async fn a_bad_publication_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    let build = world.build(b"bundle").await;
    let path = format!("/builds/{build}/publish");
    let before = world.notes().await;
    let cases = [
        (json!({}), "channel"),
        (json!({"channel": " "}), "channel"),
        (
            json!({"channel": "c", "rolloutPercentage": -1}),
            "rolloutPercentage",
        ),
        (json!({"channel": "c", "groupId": ""}), "groupId"),
        (
            json!({"channel": "c", "groupId": "x".repeat(65)}),
            "groupId",
        ),
        (
            json!({"channel": "c", "releaseMessage": "x".repeat(10_001)}),
            "releaseMessage",
        ),
        (
            json!({"channel": "c", "linkedFlags": [{"flagId": 1}]}),
            "enabled",
        ),
    ];
    for (body, text) in cases {
        world.post(&path, body).await.refused(400, text);
    }
    let theirs = world.call_as(
        (THEIRS, "editor"),
        "POST",
        &path,
        Some(json!({"channel": "c"})),
    );
    theirs.await.refused(404, "build");
    world
        .post("/builds/999999/publish", json!({"channel": "c"}))
        .await
        .refused(404, "build");
    let images = [
        Part::Text("runtimeVersion", "1"),
        Part::Text("platform", "ios"),
        Part::File("a.png", "image/png", b"a"),
        Part::File("b.png", "image/png", b"b"),
    ];
    let images = world.upload("/builds", &images).await.of(201)["id"].clone();
    let answer = world
        .post(
            &format!("/builds/{images}/publish"),
            json!({"channel": "c"}),
        )
        .await;
    answer.refused(400, "starts the app");
    assert_eq!(world.value("select count(*) from updates").await, json!(0));
    assert_eq!(
        world.notes().await,
        (before.0 + 1, before.1 + 1),
        "only the upload"
    );
}

fn created_at(update: &Value) -> DateTime<Utc> {
    update["createdAt"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn fifty_publications_at_once_are_one_release_in_strict_order() {
    let world = World::start().await;
    let builds = [
        world.build_for("ios", b"i").await,
        world.build_for("android", b"a").await,
    ];
    world
        .run(
            "insert into flags (project_id, key, name, flag_type, default_value)
               select id, 'pay', 'Pay', 'boolean', 'false' from projects where slug = 'ours'",
        )
        .await;
    let flag = world.value("select id from flags").await;
    let publications = (0..50).map(|index| {
        let path = format!("/builds/{}/publish", builds[index % 2]);
        let body = json!({"channel": "production", "groupId": "release", "linkedFlags": [{"flagId": flag, "enabled": true}]});
        let world = &world;
        async move { world.post(&path, body).await.of(201) }
    });
    let published = join_all(publications).await;
    assert!(
        published
            .iter()
            .all(|answer| answer["groupId"] == "release")
    );
    let updates = world.get("/updates?limit=500").await.of(200);
    let updates = updates.as_array().unwrap();
    assert_eq!(updates.len(), 50);
    // Newest first, each a whole millisecond later than the one before.
    for pair in updates.windows(2) {
        assert!(created_at(&pair[0]) > created_at(&pair[1]), "{pair:?}");
        assert_eq!(created_at(&pair[0]).timestamp_subsec_micros() % 1000, 0);
    }
    let count = async |query: &str| world.value(query).await;
    assert_eq!(
        count("select count(*) from release_links").await,
        json!(1),
        "links of a release are merged"
    );
    assert_eq!(
        count("select count(*) from audit_log where action = 'build.published'").await,
        json!(50)
    );
    assert_eq!(
        count("select count(*) from webhook_deliveries where event = 'build.published'").await,
        json!(50)
    );
    assert_eq!(
        count("select count(*) from update_assets where is_launch_asset").await,
        json!(50)
    );
}

#[tokio::test]
async fn an_update_is_newer_than_all_on_its_branch_whatever_the_clock_says() {
    let world = World::start().await;
    let first = world.publish("production").await;
    world.advance(chrono::TimeDelta::hours(-1));
    let second = world.publish("production").await;
    let (first, second) = (world.update(first).await, world.update(second).await);
    assert_eq!(
        created_at(&second) - created_at(&first),
        chrono::TimeDelta::milliseconds(1)
    );
}

/// A flag of a project with these variations; the first is the default.
async fn flag(world: &World, slug: &str, kind: &str, variations: &[Value]) -> i64 {
    let flag: i64 = sqlx::query_scalar(
        "insert into flags (project_id, key, name, flag_type, default_value)
         select id, $2, $2, $2, $3 from projects where slug = $1 returning id",
    )
    .bind(slug)
    .bind(kind)
    .bind(&variations[0])
    .fetch_one(&world.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into flag_variations (project_id, flag_id, value, sort_order)
         select f.project_id, f.id, v.value, v.position from flags f, unnest($2::jsonb[]) with ordinality v (value, position)
         where f.id = $1",
    )
    .bind(flag)
    .bind(variations)
    .execute(&world.pool)
    .await
    .unwrap();
    flag
}

#[tokio::test]
async fn linked_flags_are_of_the_project_and_choose_a_variation() {
    let world = World::start().await;
    let build = world.build(b"bundle").await;
    let switch = flag(&world, "ours", "boolean", &[json!(true), json!(false)]).await;
    let text = flag(
        &world,
        "ours",
        "string",
        &[json!("a"), json!("b"), json!("c")],
    )
    .await;
    let foreign = flag(&world, "theirs", "string", &[json!("a"), json!("b")]).await;
    let variation = |flag: i64, value: &str| {
        format!("select id from flag_variations where flag_id = {flag} and value = '\"{value}\"'")
    };
    let (b, c) = (
        world.value(&variation(text, "b")).await,
        world.value(&variation(text, "c")).await,
    );
    let theirs = world.value(&variation(foreign, "b")).await;
    let publish = async |group: &str, link: Value| {
        let body = json!({"channel": "production", "groupId": group, "linkedFlags": [link]});
        world.post(&format!("/builds/{build}/publish"), body).await
    };
    for link in [
        json!({"flagId": foreign, "enabled": true}),
        json!({"flagId": text, "enabled": true, "variationId": theirs}),
        json!({"flagId": text, "enabled": true, "value": "z"}),
        json!({"flagId": text, "enabled": true, "linkType": "magic"}),
    ] {
        publish("bad", link).await.refused(400, "linkedFlags");
    }
    let stored = async |group: &str| {
        world
            .value(&format!(
                "select jsonb_build_array(flag_id, enabled, variation_id, link_type, channel)
                              from release_links where group_id = '{group}'"
            ))
            .await
    };
    let cases = [
        (
            json!({"flagId": switch, "enabled": true}),
            json!([switch, true, null, "kill_switch", "production"]),
        ),
        (
            json!({"flagId": text, "enabled": true}),
            json!([text, true, b, "kill_switch", "production"]),
        ),
        (
            json!({"flagId": text, "enabled": false}),
            json!([text, false, null, "kill_switch", "production"]),
        ),
        (
            json!({"flagId": text, "enabled": true, "variationId": c, "linkType": "gate"}),
            json!([text, true, c, "gate", "production"]),
        ),
        (
            json!({"flagId": text, "enabled": true, "value": "c", "linkType": "monitor"}),
            json!([text, true, c, "monitor", "production"]),
        ),
    ];
    for (index, (link, expected)) in cases.into_iter().enumerate() {
        let group = format!("g{index}");
        publish(&group, link).await.of(201);
        assert_eq!(stored(&group).await, expected);
    }
    assert_eq!(
        world.value("select count(*) from release_links").await,
        json!(5)
    );
}

#[tokio::test]
async fn whoever_comes_first_wins_and_nothing_dangles() {
    let world = World::start().await;
    for _ in 0..10 {
        let build = world.build(b"bundle").await;
        let path = format!("/builds/{build}");
        let publish = format!("{path}/publish");
        let (published, deleted) = tokio::join!(
            world.post(&publish, json!({"channel": "production"})),
            world.call("DELETE", &path, None)
        );
        let outcome = (published.status.as_u16(), deleted.status.as_u16());
        assert!(matches!(outcome, (201, 409) | (404, 204)), "{outcome:?}");
        if outcome.0 == 404 {
            continue;
        }
        let update = &published.of(201)["updateId"];
        let body = json!({"runtimeVersion": "1.0.0", "platform": "ios", "channel": "production",
                          "rollbackToUpdateId": update});
        let path = format!("/updates/{update}");
        let (back, deleted) = tokio::join!(
            world.post("/rollback", body),
            world.call("DELETE", &path, None)
        );
        let outcome = (back.status.as_u16(), deleted.status.as_u16());
        assert!(matches!(outcome, (201, 409) | (404, 204)), "{outcome:?}");
    }
}
