//! What is counted of evaluations, and where it is shown.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluice_api::service;

use crate::world::{SLUG, World};

const BULK: &str = "/v1/ota/flag-evaluations-bulk";

async fn get(world: &World, path: &str) -> Value {
    let key = world.key("viewer").await;
    let authorization = format!("Bearer {key}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("x-project", SLUG),
    ];
    let answer = world.get(&format!("/v1/ota{path}"), &headers).await;
    world.run("delete from api_keys").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.json()
}

/// A bulk answer for one device.
async fn bulk(world: &World, channel: Option<&str>) {
    let body = json!({"projectSlug": SLUG, "deviceId": "device-1", "channel": channel});
    let answer = world.post(BULK, &[], &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

async fn report(world: &World, flag: &str, value: &str, channel: &str, count: u64) {
    let statement = format!(
        "INSERT INTO flag_evaluations (received_at, project_id, flag_key, value, channel, source, count) \
         SELECT now64(6), 1, '{flag}', '{value}', '{channel}', 'sdk', {count}"
    );
    world
        .state
        .clickhouse
        .query(&statement)
        .execute()
        .await
        .unwrap();
}

#[tokio::test]
async fn bulk_answers_are_counted_with_variation_and_channel() {
    let world = World::with_clickhouse().await;
    let checkout = world.flag("new-checkout").await;
    let force = json!({});
    world.rule(checkout, "force", force, json!(true)).await;
    world.flag("theme").await;
    world.flag("off").await;
    world
        .run("update flags set enabled = false where key = 'off'")
        .await;
    bulk(&world, Some("beta")).await;
    bulk(&world, Some("beta")).await;
    bulk(&world, None).await;
    service::finish(&world.state).await;

    let evaluations = get(&world, &format!("/flags/{checkout}/evaluations?days=1")).await;
    assert_eq!(evaluations["total"], json!(3));
    assert_eq!(evaluations["daily"].as_array().unwrap().len(), 1);
    let variations = evaluations["byVariation"].as_array().unwrap();
    let totals: Vec<_> = variations
        .iter()
        .map(|row| (row["variationName"].clone(), row["total"].clone()))
        .collect();
    assert_eq!(totals, [(json!("On"), json!(3)), (json!("Off"), json!(0))]);
    assert!(evaluations["lastEvaluatedAt"].is_string());

    let flags = get(&world, "/flags").await;
    let counts: Vec<_> = flags
        .as_array()
        .unwrap()
        .iter()
        .map(|flag| (&flag["key"], &flag["evalTotal7d"], &flag["evalByChannel7d"]))
        .collect();
    let (beta, none) = (json!({"beta": 2}), json!({}));
    assert_eq!(
        counts,
        [
            (&json!("new-checkout"), &json!(3), &beta),
            (&json!("off"), &json!(0), &none),
            (&json!("theme"), &json!(3), &beta),
        ]
    );
    let contexts = get(&world, "/contexts").await;
    assert_eq!(contexts["total"], json!(0), "bulk answers touch no context");
}

#[tokio::test]
async fn reports_are_shown_by_day_variation_and_channel() {
    let world = World::with_clickhouse().await;
    let flag = world.flag("new-checkout").await;
    let path = format!("/flags/{flag}/evaluations");
    let empty = get(&world, &path).await;
    assert_eq!((&empty["total"], &empty["daily"]), (&json!(0), &json!([])));
    assert_eq!(empty["lastEvaluatedAt"], json!(null));

    report(&world, "new-checkout", "true", "beta", 5).await;
    report(&world, "new-checkout", "\"false\"", "", 2).await;
    report(&world, "new-checkout", "\"gone\"", "", 1).await;
    report(&world, "unknown", "true", "", 100).await;
    let all = get(&world, &path).await;
    assert_eq!(all["total"], json!(8));
    let days = all["daily"].as_array().unwrap();
    let total: i64 = days.iter().map(|day| day["total"].as_i64().unwrap()).sum();
    assert_eq!((days.len(), total), (7, 8));
    let totals: Vec<_> = all["byVariation"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["variationName"].clone(), row["total"].clone()))
        .collect();
    let expected = [
        (json!("On"), json!(5)),
        (json!("Off"), json!(2)),
        (json!(null), json!(1)),
    ];
    assert_eq!(totals, expected);
    let beta = get(&world, &format!("{path}?channel=beta")).await;
    assert_eq!(beta["total"], json!(5));
    let other = get(&world, &format!("{path}?channel=other")).await;
    assert_eq!(other["lastEvaluatedAt"], json!(null));
}

#[tokio::test]
async fn nobody_sees_evaluations_of_a_flag_of_another_project() {
    let world = World::with_clickhouse().await;
    world
        .run(
            "insert into projects (name, slug) values ('Other', 'other');
             insert into flags (project_id, key, name, flag_type, default_value)
             select id, 'theirs', 'theirs', 'boolean', 'false' from projects where slug = 'other'",
        )
        .await;
    let query = "select id from flags where key = 'theirs'";
    let theirs: i64 = sqlx::query_scalar(query)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let key = world.key("viewer").await;
    let authorization = format!("Bearer {key}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("x-project", SLUG),
    ];
    let path = format!("/v1/ota/flags/{theirs}/evaluations");
    let answer = world.get(&path, &headers).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json()["error"], json!("Flag not found"));
    let answer = world.get(&format!("{path}?days=x"), &headers).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn flags_are_listed_while_nothing_can_be_counted() {
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    let flags = get(&world, "/flags").await;
    assert_eq!(flags[0]["id"], json!(flag));
    assert_eq!(flags[0]["evalTotal7d"], json!(0));
}
