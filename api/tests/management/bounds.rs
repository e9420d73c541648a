//! What is bounded (management.md §1.4): how many, how long, how deep. Beyond it
//! is 400, and nothing is stored.

use axum::http::Method;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::flags::{boolean, made};
use crate::table::refuse;
use crate::world::{EDITOR, VIEWER, World};

/// Sends what there is room for once, several times at once.
async fn fills_up(world: &World, path: &str, body: impl Fn(usize) -> Value, most: &str) {
    let bodies: Vec<_> = (0..4).map(body).collect();
    let answers = bodies.iter().map(|body| world.post(EDITOR, path, body));
    let answers = join_all(answers).await;
    let made = answers.iter().filter(|a| a.status == 201).count();
    assert_eq!(made, 1, "{path}: {answers:?}");
    for refused in answers.into_iter().filter(|a| a.status != 201) {
        let refused = refused.expect(400);
        assert!(
            refused["error"].as_str().unwrap().contains(most),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_project_has_so_many_of_each_however_they_come() {
    let world = World::start().await;
    world
        .run(
            "insert into channels (project_id, name, branch_name)
             select id, 'c' || n, 'main' from projects, generate_series(1, 498) n where slug = 'ours';
             insert into flags (project_id, key, name, flag_type, default_value)
             select id, 'f' || n, 'f', 'boolean', 'true' from projects, generate_series(1, 4999) n
             where slug = 'ours';
             insert into segments (project_id, key, name, match_type)
             select id, 's' || n, 's', 'all' from projects, generate_series(1, 999) n where slug = 'ours'",
        )
        .await;
    let channel = |n| json!({ "name": format!("new-{n}"), "branchName": "main" });
    fills_up(&world, "/channels", channel, "500 channels").await;
    let flag = |n| json!({ "name": "new", "key": format!("new-{n}") });
    fills_up(&world, "/flags", flag, "5000 flags").await;
    let segment = |_| json!({ "name": "new", "matchType": "all", "conditions": [] });
    fills_up(&world, "/segments", segment, "1000 segments").await;
}

#[tokio::test]
async fn a_flag_has_so_many_rules_and_settings() {
    let world = World::start().await;
    let (_, path) = boolean(&world).await;
    world
        .run(
            "insert into flag_rules (project_id, flag_id, rule_type, variant_value)
             select project_id, id, 'force', 'true' from flags, generate_series(1, 499);
             insert into flag_env_settings (project_id, flag_id, channel_name, enabled)
             select project_id, id, 'c' || n, true from flags, generate_series(1, 499) n",
        )
        .await;
    let rule = |_| json!({ "ruleType": "force", "variantValue": true });
    fills_up(&world, &format!("{path}/rules"), rule, "500 rules").await;
    let switch = json!({ "enabled": false });
    let setting = |channel: &str| format!("{path}/env/{channel}");
    for (channel, status) in [("new-1", 200), ("new-2", 400), ("new-1", 200), ("c7", 200)] {
        let answer = world.patch(EDITOR, &setting(channel), &switch).await;
        assert_eq!(answer.status, status, "{channel}: {}", answer.json);
    }
    let settings = world.number("select count(*) from flag_env_settings").await;
    assert_eq!(settings, 500);
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Values stand inside of rules and of the log, and no parser reads to any depth:
/// what can be written must not make them unreadable.
#[tokio::test]
async fn values_are_nested_only_so_deep() {
    let world = World::start().await;
    let body = json!({ "name": "j", "key": "j", "flagType": "json", "defaultValue": nested(64),
        "variations": [{ "value": nested(64) }, { "value": 1 }] });
    let flag = made(&world, &body).await;
    let path = format!("/flags/{}", flag["id"]);
    let rule = json!({ "ruleType": "percentage_rollout", "ruleConfig": { "rollout": [
        { "variationId": flag["variations"][0]["id"], "weight": 100 }] } });
    let rules = format!("{path}/rules");
    world.post(EDITOR, &rules, &rule).await.expect(201);
    let variation = format!("{path}/variations/{}", flag["variations"][0]["id"]);
    let setting = format!("{path}/env/canary");
    for levels in [65, 120, 127] {
        let (text, list): (_, Value) = (
            nested(levels),
            serde_json::from_str(&nested(levels)).unwrap(),
        );
        for deep in [json!(text), list] {
            for (path, field) in [
                (&path, "defaultValue"),
                (&variation, "value"),
                (&setting, "defaultValue"),
            ] {
                let body = json!({ field: deep });
                let answer = world.patch(EDITOR, path, &body).await;
                assert_eq!(answer.status, 400, "{levels} {field}: {}", answer.json);
            }
        }
    }
    let own = json!({ "defaultValue": nested(63) });
    world.patch(EDITOR, &path, &own).await.expect(200);
    world.patch(EDITOR, &setting, &own).await.expect(200);
    let other = json!({ "value": nested(62) });
    world.patch(EDITOR, &variation, &other).await.expect(200);
    for path in ["/audit-log", "/flags", &path] {
        world.get(VIEWER, path).await.expect(200);
    }
}

#[tokio::test]
async fn a_rollout_is_no_way_to_write_a_value_many_times() {
    let world = World::start().await;
    let body = json!({ "name": "t", "key": "t", "flagType": "string", "defaultValue": "a",
        "variations": [{ "value": "a" }, { "value": "b".repeat(200 * 1024) }] });
    let flag = made(&world, &body).await;
    let path = format!("/flags/{}", flag["id"]);
    let [small, large] = [&flag["variations"][0]["id"], &flag["variations"][1]["id"]];
    let rollout = |id: &Value, slices: usize| {
        let weight = 100.0 / slices as f64;
        json!({ "ruleType": "percentage_rollout", "ruleConfig": {
            "rollout": vec![json!({ "variationId": id, "weight": weight }); slices] } })
    };
    let rules = format!("{path}/rules");
    refuse(
        &world,
        EDITOR,
        Method::POST,
        &rules,
        &[
            (rollout(small, 101), 400, "100 entries"),
            (rollout(large, 3), 400, "ruleConfig"),
            (rollout(large, 100), 400, "ruleConfig"),
        ],
    )
    .await;
    let rule = rollout(large, 2);
    let rule = world.post(EDITOR, &rules, &rule).await.expect(201);
    let one = format!("{rules}/{}", rule["id"]);
    let grown = [(rollout(large, 3), 400, "ruleConfig")];
    refuse(&world, EDITOR, Method::PATCH, &one, &grown).await;
    let moved = json!({ "priority": 7 });
    world.patch(EDITOR, &one, &moved).await.expect(200);

    // Nor is its value changed to one that would be too long there.
    let many = rollout(small, 100);
    world.post(EDITOR, &rules, &many).await.expect(201);
    let before = world.get(VIEWER, &path).await.expect(200);
    let grown = [(json!({ "value": "c".repeat(6 * 1024) }), 400, "ruleConfig")];
    let variation = format!("{path}/variations/{small}");
    refuse(&world, EDITOR, Method::PATCH, &variation, &grown).await;
    assert_eq!(world.get(VIEWER, &path).await.expect(200), before);
    let fits = json!({ "value": "c".repeat(4 * 1024) });
    world.patch(EDITOR, &variation, &fits).await.expect(200);
}

#[tokio::test]
async fn long_parts_are_refused_by_name() {
    let world = World::start().await;
    let variation = |field: &str, chars: usize| {
        json!({ "name": "f", "key": "f", "flagType": "string",
                "variations": [{ "value": "a" }, { "value": "b", field: "x".repeat(chars) }] })
    };
    refuse(
        &world,
        EDITOR,
        Method::POST,
        "/flags",
        &[
            (variation("name", 201), 400, "variations[1].name"),
            (
                variation("description", 2001),
                400,
                "variations[1].description",
            ),
        ],
    )
    .await;
    let condition = |values: Value| {
        json!({ "name": "s", "matchType": "any",
                "conditions": [{ "attribute": "a", "operator": "in", "valuesJson": values }] })
    };
    let long = condition(json!(vec!["x".repeat(1024); 300]));
    let rows = [(long, 400, "conditions")];
    refuse(&world, EDITOR, Method::POST, "/segments", &rows).await;
    let fits = condition(json!(vec!["x".repeat(1024); 200]));
    world.post(EDITOR, "/segments", &fits).await.expect(201);
}
