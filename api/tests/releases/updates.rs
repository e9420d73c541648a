use std::slice::from_ref;

use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::world::{THEIRS, World};

fn update_of(assets: &[Value]) -> Value {
    json!({"runtimeVersion": "1.0.0", "platform": "ios", "assets": assets})
}

/// A body with some of its fields replaced.
// By value, so that tests read as they do.
#[allow(clippy::needless_pass_by_value)]
fn with(mut body: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test]
async fn an_update_is_made_of_uploaded_files() {
    let world = World::start().await;
    let assets = [
        world.asset("entry.js", b"bundle", true).await,
        world.asset("logo.png", b"logo!", false).await,
    ];
    let body = with(
        update_of(&assets),
        json!({"expoConfig": {"name": "Demo"}, "rolloutPercentage": 25,
        "isCritical": true, "releaseMessage": "first"}),
    );
    let made = world.post("/updates", body).await.of(201);
    let id = made["id"].as_i64().unwrap();
    assert!(made["warning"].as_str().unwrap().contains("1.0.0"));
    let kind = json!({"runtimeVersion": "1.0.0", "platform": "ios", "channel": "production"});
    let event = json!({"update_id": id, "update_uuid": made["updateUuid"], "runtime_version": "1.0.0",
                       "platform": "ios", "channel": "production"});
    world
        .noted(
            ("update.created", Some(id), kind),
            Some(("update.created", event)),
        )
        .await;
    let update = world.update(id).await;
    let expected = json!({
        "id": id, "updateUuid": made["updateUuid"], "runtimeVersion": "1.0.0", "runtimeFingerprint": null,
        "platform": "ios", "channel": "production", "branchName": "main", "isRollback": false,
        "rollbackToUpdateId": null, "rolloutPercentage": 25, "isCritical": true, "isEnabled": true,
        "releaseMessage": "first", "expoConfig": {"name": "Demo"}, "groupId": update["groupId"],
        "assetCount": 2, "totalSize": 11, "totalDownloads": 0, "uniqueDevices": 0,
        "gitCommitHash": null, "gitBranch": null, "ciRunUrl": null, "buildMessage": null,
        "createdAt": "2026-03-01T08:00:00.123Z",
    });
    assert_eq!(update, expected);
    assert!(update["groupId"].is_string());
}

#[tokio::test]
async fn a_build_for_the_same_apps_silences_the_warning() {
    let world = World::start().await;
    world.build(b"bundle").await;
    let asset = world.asset("entry.js", b"bundle", true).await;
    let made = world
        .post("/updates", update_of(from_ref(&asset)))
        .await
        .of(201);
    assert!(made.get("warning").is_none());
    let android = with(update_of(&[asset]), json!({"platform": "android"}));
    assert!(world.post("/updates", android).await.of(201)["warning"].is_string());
}

#[tokio::test]
async fn the_servers_own_record_of_a_file_counts() {
    let world = World::start().await;
    let asset = world.asset("entry.js", b"bundle", true).await;
    let lie = with(
        asset,
        json!({"hashSha256": "AAAA", "hashMd5": "00", "fileSize": 1}),
    );
    let made = world.post("/updates", update_of(&[lie])).await.of(201);
    let update = world.update(made["id"].as_i64().unwrap()).await;
    assert_eq!(update["totalSize"], 6);
}

#[tokio::test]
async fn a_bad_update_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    let launch = world.asset("entry.js", b"bundle", true).await;
    let image = world.asset("logo.png", b"logo", false).await;
    let foreign = world.asset_of(THEIRS, "entry.js", b"theirs", true).await;
    let good = update_of(from_ref(&launch));
    let unhashed = {
        let mut asset = launch.clone();
        asset.as_object_mut().unwrap().remove("hashMd5");
        asset
    };
    let cases = [
        (json!({"runtimeVersion": " "}), "runtimeVersion"),
        (json!({"platform": "web"}), "platform"),
        (json!({"channel": ""}), "channel"),
        (json!({"expoConfig": []}), "expoConfig"),
        (
            json!({"expoConfig": {"a": "x".repeat(256 * 1024)}}),
            "expoConfig",
        ),
        // Small as sent, and a hundred times as large as stored.
        (
            json!({"expoConfig": {"a": vec![1e300; 5000]}}),
            "expoConfig",
        ),
        (json!({"rolloutPercentage": 101}), "rolloutPercentage"),
        (
            json!({"releaseMessage": "x".repeat(10_001)}),
            "releaseMessage",
        ),
        (json!({"assets": null}), "launch asset"),
        (json!({"assets": []}), "launch asset"),
        (json!({"assets": [image]}), "launch asset"),
        (json!({"assets": [launch, launch]}), "launch asset"),
        (json!({"assets": [unhashed]}), "hashMd5"),
        (json!({"assets": [foreign]}), "s3Key"),
        (
            json!({"assets": [with(launch.clone(), json!({"s3Key": "assets/none"}))]}),
            "s3Key",
        ),
        (
            json!({"assets": [with(launch.clone(), json!({"fileExtension": "js"}))]}),
            "fileExtension",
        ),
        (
            json!({"assets": [with(launch.clone(), json!({"contentType": "a\r\nb"}))]}),
            "contentType",
        ),
        (json!({"isRollback": true}), "empty"),
        (
            json!({"linkedFlags": [{"flagId": 99, "enabled": true}]}),
            "flag",
        ),
    ];
    for (fields, text) in cases {
        world
            .post("/updates", with(good.clone(), fields))
            .await
            .refused(400, text);
    }
    assert_eq!(world.notes().await, (0, 0));
    assert_eq!(world.value("select count(*) from updates").await, json!(0));
}

#[tokio::test]
async fn an_update_may_be_a_way_back_to_the_embedded_bundle() {
    let world = World::start().await;
    let body = json!({"runtimeVersion": "1.0.0", "platform": "ios", "isRollback": true});
    let id = world.post("/updates", body).await.of(201)["id"]
        .as_i64()
        .unwrap();
    let update = world.update(id).await;
    assert_eq!(
        (&update["isRollback"], &update["assetCount"]),
        (&json!(true), &json!(0))
    );
}

#[tokio::test]
async fn lists_are_filtered_ordered_and_bounded() {
    let world = World::start().await;
    let asset = world.asset("entry.js", b"bundle", true).await;
    for (index, channel) in ["production", "staging", "canary"].into_iter().enumerate() {
        let body = with(
            update_of(from_ref(&asset)),
            json!({"channel": channel,
            "releaseMessage": format!("100%_{index} Done"), "platform": (["ios", "android"][index % 2]),
            "runtimeVersion": format!("2.0.{index}")}),
        );
        world.post("/updates", body).await.of(201);
        world.advance(TimeDelta::seconds(1));
    }
    let build = world.publish("production").await;
    let channels = async |query: &str| -> Vec<String> {
        let list = world.get(&format!("/updates{query}")).await.of(200);
        let list = list.as_array().unwrap().iter();
        list.map(|update| update["channel"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        channels("").await,
        ["production", "canary", "staging", "production"]
    );
    assert_eq!(channels("?limit=2&offset=1").await, ["canary", "staging"]);
    assert_eq!(channels("?limit=1000&search=").await.len(), 4);
    assert_eq!(channels("?platform=android").await, ["staging"]);
    assert_eq!(channels("?channel=canary").await, ["canary"]);
    assert_eq!(channels("?branch=main").await, ["production", "production"]);
    assert_eq!(channels("?runtime_version=2.0.1").await, ["staging"]);
    assert_eq!(channels("?search=100%25_2%20dONE").await, ["canary"]);
    assert_eq!(
        channels("?search=%25").await.len(),
        3,
        "a percent sign is itself"
    );
    assert_eq!(
        channels("?search=_").await.len(),
        3,
        "and so is an underscore"
    );
    assert_eq!(channels("?search=C0FFEE").await, ["production"]);
    assert_eq!(channels("?search=feature/pay").await, ["production"]);
    let uuid = world.update(build).await["updateUuid"]
        .as_str()
        .unwrap()
        .to_uppercase();
    assert_eq!(
        channels(&format!("?search={}", &uuid[..13])).await,
        ["production"]
    );
    for query in ["?limit=0", "?limit=-1", "?offset=-1", "?limit=ten"] {
        world
            .get(&format!("/updates{query}"))
            .await
            .refused(400, "");
    }
    assert_eq!(
        world
            .call_as((THEIRS, "viewer"), "GET", "/updates", None)
            .await
            .of(200),
        json!([])
    );
}

#[tokio::test]
async fn a_list_has_a_hundred_unless_asked_for_more() {
    let world = World::start().await;
    world
        .run(
            "insert into updates (project_id, runtime_version, platform, channel, branch_name, group_id)
             select id, '1', 'ios', 'c', 'b', 'g' from projects, generate_series(1, 501) where slug = 'ours'",
        )
        .await;
    for (query, length) in [
        ("", 100),
        ("?limit=500", 500),
        ("?limit=501", 500),
        ("?offset=500", 1),
    ] {
        let list = world.get(&format!("/updates{query}")).await.of(200);
        assert_eq!(list.as_array().unwrap().len(), length, "{query}");
    }
    // A number is one, however large.
    let huge = "99999999999999999999";
    for (query, length) in [
        (format!("?limit={huge}"), 500),
        (format!("?offset={huge}"), 0),
        (format!("?limit={huge}&offset={huge}"), 0),
        (format!("?limit={0}&offset={0}", i64::MAX), 0),
    ] {
        let list = world.get(&format!("/updates{query}")).await.of(200);
        assert_eq!(list.as_array().unwrap().len(), length, "{query}");
    }
    for query in [format!("limit=-{huge}"), format!("offset=-{huge}")] {
        let answer = world.get(&format!("/updates?{query}")).await;
        answer.refused(400, query.split('=').next().unwrap());
    }
    let list = world.get("/updates?limit=3").await.of(200);
    let ids: Vec<_> = (0..3)
        .map(|index| list[index]["id"].as_i64().unwrap())
        .collect();
    assert!(
        ids[0] > ids[1] && ids[1] > ids[2],
        "equal times are ordered by id"
    );
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_notes_that_alone() {
    let world = World::start().await;
    let id = world.publish("production").await;
    let path = format!("/updates/{id}");
    let body = json!({"rolloutPercentage": 10, "isEnabled": false, "isCritical": false, "releaseMessage": "slow"});
    world.call("PATCH", &path, Some(body)).await.of(204);
    let changed = json!({"rolloutPercentage": 10, "isEnabled": false, "releaseMessage": "slow"});
    let event = json!({"update_id": id, "changes": {"rollout_percentage": 10, "is_enabled": false,
                       "is_critical": null, "release_message": "slow"}});
    world
        .noted(
            ("update.patched", Some(id), changed),
            Some(("update.patched", event)),
        )
        .await;
    let update = world.update(id).await;
    assert_eq!(
        (&update["rolloutPercentage"], &update["isEnabled"]),
        (&json!(10), &json!(false))
    );
    assert_eq!(
        (&update["isCritical"], &update["releaseMessage"]),
        (&json!(false), &json!("slow"))
    );
    let before = world.notes().await;
    for body in [
        json!({}),
        json!({"rolloutPercentage": 10, "isEnabled": false}),
        json!({"unknown": 1}),
    ] {
        world.call("PATCH", &path, Some(body)).await.of(204);
    }
    assert_eq!(
        world.notes().await,
        before,
        "what changes nothing is not noted"
    );
    for (body, text) in [
        (json!({"rolloutPercentage": 101}), "rolloutPercentage"),
        (json!({"rolloutPercentage": 1.5}), "rolloutPercentage"),
        (json!({"isEnabled": null}), "isEnabled"),
        (json!({"releaseMessage": null}), "releaseMessage"),
    ] {
        world
            .call("PATCH", &path, Some(body))
            .await
            .refused(400, text);
    }
    let theirs = world.call_as(
        (THEIRS, "editor"),
        "PATCH",
        &path,
        Some(json!({"isCritical": true})),
    );
    theirs.await.refused(404, "update");
    world
        .call("PATCH", "/updates/999999", Some(json!({})))
        .await
        .refused(404, "update");
    assert_eq!(world.notes().await, before);
}

#[tokio::test]
async fn an_update_goes_with_its_assets_unless_a_rollback_targets_it() {
    let world = World::start().await;
    let id = world.publish("production").await;
    let path = format!("/updates/{id}");
    let body = json!({"runtimeVersion": "1.0.0", "platform": "ios", "channel": "production", "rollbackToUpdateId": id});
    let rollback = world.post("/rollback", body).await.of(201)["id"].clone();
    let before = world.notes().await;
    world
        .call("DELETE", &path, None)
        .await
        .refused(409, &format!("rollback {rollback}"));
    assert_eq!(world.notes().await, before);
    world
        .call_as((THEIRS, "editor"), "DELETE", &path, None)
        .await
        .refused(404, "update");
    world
        .call("DELETE", &format!("/updates/{rollback}"), None)
        .await
        .of(204);
    world.call("DELETE", &path, None).await.of(204);
    let event = Some(("update.deleted", json!({"update_id": id})));
    world
        .noted(("update.deleted", Some(id), json!({})), event)
        .await;
    assert_eq!(
        world.value("select count(*) from update_assets").await,
        json!(0)
    );
    world
        .call("DELETE", &path, None)
        .await
        .refused(404, "update");
}

#[tokio::test]
async fn a_history_has_its_publication_and_outlives_the_update() {
    let world = World::start().await;
    let id = world.publish("production").await;
    let other = world.publish("production").await;
    let path = format!("/updates/{id}");
    world
        .call("PATCH", &path, Some(json!({"isCritical": true})))
        .await
        .of(204);
    world.call("DELETE", &path, None).await.of(204);
    let entries = world.get(&format!("{path}/history")).await.of(200);
    let actions: Vec<_> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].clone())
        .collect();
    assert_eq!(
        actions,
        ["update.deleted", "update.patched", "build.published"]
    );
    assert_eq!(entries[0]["actorName"], "editor");
    assert_eq!(
        world
            .get(&format!("/updates/{other}/history"))
            .await
            .of(200)
            .as_array()
            .unwrap()
            .len(),
        1
    );
    world
        .get("/updates/999999/history")
        .await
        .refused(404, "update");
    let history = format!("{path}/history");
    let theirs = world.call_as((THEIRS, "viewer"), "GET", &history, None);
    theirs.await.refused(404, "update");
    world.run("delete from audit_log").await;
    assert_eq!(
        world
            .get(&format!("/updates/{other}/history"))
            .await
            .of(200),
        json!([])
    );
    world.get(&history).await.refused(404, "update");
}

#[tokio::test]
async fn a_history_has_the_newest_fifty() {
    let world = World::start().await;
    let id = world.publish("production").await;
    world
        .run(&format!(
            "insert into audit_log (project_id, action, entity_type, entity_id, details)
             select id, 'update.patched', 'update', {id}, jsonb_build_object('n', n)
             from projects, generate_series(1, 60) n where slug = 'ours'"
        ))
        .await;
    let history = world.get(&format!("/updates/{id}/history")).await.of(200);
    assert_eq!(history.as_array().unwrap().len(), 50);
    assert_eq!(history[0]["details"]["n"], 60);
}

#[tokio::test]
async fn an_update_is_published_again_to_several_channels() {
    let world = World::start().await;
    let id = world.publish("production").await;
    let path = format!("/updates/{id}");
    world
        .call(
            "PATCH",
            &path,
            Some(json!({"isEnabled": false, "isCritical": true, "rolloutPercentage": 5})),
        )
        .await;
    let events = world.events().await.len();
    let body = json!({"channels": [" staging ", "production", "staging"]});
    let again = world.post(&format!("{path}/republish"), body).await.of(201);
    let group = &again["groupId"];
    assert_eq!(again["updates"].as_array().unwrap().len(), 2);
    let source = world.update(id).await;
    for (index, (channel, branch)) in [("staging", "staging"), ("production", "main")]
        .into_iter()
        .enumerate()
    {
        let made = &again["updates"][index];
        assert_eq!(made["channel"], channel);
        let copy = world.update(made["id"].as_i64().unwrap()).await;
        for field in [
            "runtimeVersion",
            "platform",
            "expoConfig",
            "assetCount",
            "totalSize",
            "gitCommitHash",
            "gitBranch",
            "buildMessage",
            "releaseMessage",
        ] {
            assert_eq!(copy[field], source[field], "{field}");
        }
        assert_eq!(
            (&copy["branchName"], &copy["groupId"]),
            (&json!(branch), group)
        );
        assert_eq!(
            (
                &copy["rolloutPercentage"],
                &copy["isEnabled"],
                &copy["isCritical"]
            ),
            (&json!(100), &json!(true), &json!(true))
        );
    }
    let last = &again["updates"][1];
    let details = json!({"sourceUpdateId": id, "channel": "production", "groupId": group});
    let event =
        json!({"source_update_id": id, "channels": ["staging", "production"], "group_id": group});
    world
        .noted(
            ("update.republished", last["id"].as_i64(), details),
            Some(("update.republished", event)),
        )
        .await;
    assert_eq!(
        world.events().await.len(),
        events + 1,
        "one event for the call"
    );
    assert_eq!(
        world.value("select count(*) from blobs").await,
        json!(2),
        "the same files"
    );
}

#[tokio::test]
async fn an_update_goes_to_its_own_channel_again_and_rollbacks_do_not() {
    let world = World::start().await;
    let id = world.publish("staging").await;
    let path = format!("/updates/{id}/republish");
    for channels in [json!(null), json!([])] {
        let body = json!({"channels": channels, "releaseMessage": "again"});
        let again = world.post(&path, body).await.of(201);
        let copy = world
            .update(again["updates"][0]["id"].as_i64().unwrap())
            .await;
        assert_eq!(
            (&copy["channel"], &copy["releaseMessage"]),
            (&json!("staging"), &json!("again"))
        );
    }
    world
        .post(&path, json!({"channels": [""]}))
        .await
        .refused(400, "channel");
    world
        .call_as((THEIRS, "editor"), "POST", &path, Some(json!({})))
        .await
        .refused(404, "update");
    let body = json!({"runtimeVersion": "1.0.0", "platform": "ios", "channel": "staging"});
    let rollback = world.post("/rollback", body).await.of(201)["id"].clone();
    world
        .post(&format!("/updates/{rollback}/republish"), json!({}))
        .await
        .refused(400, "rollback");
}

#[tokio::test]
async fn a_search_knows_the_cases_of_all_alphabets() {
    let world = World::start().await;
    let body = json!({"runtimeVersion": "1", "platform": "ios", "isRollback": true,
                      "releaseMessage": "Änderung für ΑΘΗΝΑ, 100%_ОК"});
    world.post("/updates", body).await.of(201);
    // änderung, FÜR, αθηνα, %_ок
    for (search, found) in [
        ("%C3%A4nderung", 1),
        ("F%C3%9CR", 1),
        ("%CE%B1%CE%B8%CE%B7%CE%BD%CE%B1", 1),
        ("%25_%D0%BE%D0%BA", 1),
        ("f_r", 0),
    ] {
        let list = world.get(&format!("/updates?search={search}")).await;
        assert_eq!(list.of(200).as_array().unwrap().len(), found, "{search}");
    }
}
