use serde_json::{Value, json};

use crate::world::{THEIRS, World};

fn back(channel: &str, to: Option<i64>) -> Value {
    json!({"runtimeVersion": "1.0.0", "platform": "ios", "channel": channel, "rollbackToUpdateId": to})
}

#[tokio::test]
async fn a_rollback_is_the_newest_row_of_the_channels_branch() {
    let world = World::start().await;
    let target = world.publish("production").await;
    let newest = world.publish("production").await;
    for to in [None, Some(target)] {
        let made = world
            .post("/rollback", back("production", to))
            .await
            .of(201);
        let id = made["id"].as_i64().unwrap();
        let details = json!({"runtimeVersion": "1.0.0", "platform": "ios", "channel": "production", "rollbackToUpdateId": to});
        let event = json!({"update_id": id, "update_uuid": made["updateUuid"], "rollback_to_update_id": to,
                           "runtime_version": "1.0.0", "platform": "ios", "channel": "production"});
        world
            .noted(
                ("update.rollback", Some(id), details),
                Some(("rollback.created", event)),
            )
            .await;
        let row = world.update(id).await;
        assert_eq!(
            (&row["isRollback"], &row["rollbackToUpdateId"]),
            (&json!(true), &json!(to))
        );
        assert_eq!(
            (&row["branchName"], &row["isEnabled"]),
            (&json!("main"), &json!(true))
        );
        assert_eq!(
            (&row["rolloutPercentage"], &row["assetCount"]),
            (&json!(100), &json!(0))
        );
        assert!(row["groupId"].is_string() && row["updateUuid"] == made["updateUuid"]);
        assert_eq!(world.get("/updates?limit=1").await.of(200)[0]["id"], id);
    }
    assert_eq!(
        world.update(newest).await["isEnabled"],
        true,
        "nothing else changed"
    );
    let implicit = world.post("/rollback", back("canary", None)).await.of(201)["id"]
        .as_i64()
        .unwrap();
    assert_eq!(world.update(implicit).await["branchName"], "canary");
}

#[tokio::test]
async fn devices_on_a_rollout_branch_go_back_too() {
    let world = World::start().await;
    world
        .run(
            "insert into branches (project_id, name) select id, 'next' from projects;
               update channels set rollout_branch_name = 'next', rollout_percentage = 20",
        )
        .await;
    let made = world
        .post("/rollback", back("production", None))
        .await
        .of(201);
    let rows = world.get("/updates").await.of(200);
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(
        (&rows[0]["groupId"], &rows[1]["groupId"]),
        (&made["groupId"], &made["groupId"])
    );
    let primary = world.update(made["id"].as_i64().unwrap()).await;
    assert_eq!(primary["branchName"], "main");
    let branches = world
        .value("select array_agg(branch_name order by branch_name) from updates")
        .await;
    assert_eq!(branches, json!(["main", "next"]));
    assert_eq!(world.events().await.len(), 1);
    world
        .run("update channels set rollout_percentage = 0")
        .await;
    world
        .post("/rollback", back("production", None))
        .await
        .of(201);
    assert_eq!(
        world.value("select count(*) from updates").await,
        json!(3),
        "nobody is on the rollout branch"
    );
}

#[tokio::test]
async fn a_target_must_be_an_enabled_update_for_the_same_apps() {
    let world = World::start().await;
    let target = world.publish("production").await;
    let rollback = world
        .post("/rollback", back("production", None))
        .await
        .of(201)["id"]
        .as_i64();
    let before = world.notes().await;
    let with = |field: &str, value: &str| {
        let mut body = back("production", Some(target));
        body[field] = json!(value);
        body
    };
    for (body, text) in [
        (with("platform", "android"), "platform"),
        (with("runtimeVersion", "2.0.0"), "runtime version"),
        (back("production", rollback), "rollback"),
        (with("platform", "web"), "platform"),
        (with("runtimeVersion", ""), "runtimeVersion"),
        (with("channel", " "), "channel"),
        (
            json!({"runtimeVersion": "1.0.0", "platform": "ios"}),
            "channel",
        ),
    ] {
        world.post("/rollback", body).await.refused(400, text);
    }
    world
        .post("/rollback", back("production", Some(999_999)))
        .await
        .refused(404, "update");
    let theirs = world.call_as(
        (THEIRS, "editor"),
        "POST",
        "/rollback",
        Some(back("production", Some(target))),
    );
    theirs.await.refused(404, "update");
    assert_eq!(world.notes().await, before);
    world
        .run(&format!(
            "update updates set runtime_fingerprint = 'f00d' where id = {target}"
        ))
        .await;
    world
        .post("/rollback", with("runtimeVersion", "f00d"))
        .await
        .of(201);
    world
        .run(&format!(
            "update updates set is_enabled = false where id = {target}"
        ))
        .await;
    world
        .post("/rollback", back("production", Some(target)))
        .await
        .refused(400, "disabled");
}
