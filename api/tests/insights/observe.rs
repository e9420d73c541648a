use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::world::{World, body, on, with};

fn ids(answer: &Value) -> Vec<u64> {
    let events = answer["events"].as_array().unwrap();
    events
        .iter()
        .map(|event| event["id"].as_u64().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_types_are_counted_where_they_belong() {
    let mut world = World::start().await;
    let nothing = json!({"events": [], "total": 0, "nextCursor": null});
    assert_eq!(world.read("/observe/events").await, nothing);
    let groups = json!({"groups": [], "total": 0});
    assert_eq!(world.read("/observe/events?group_by=message").await, groups);

    let crash = json!({
        "type": "crash", "count": 4, "message": "boom", "flagStates": {"new-cart": true, "theme": {"a": 1}},
        "stackTrace": "Error: boom\n    at f", "errorName": "TypeError", "componentStack": "in App",
        "isFatal": true, "tags": {"screen": "cart", "items": 3, "note": "3", "more": [true, null]},
    });
    let sample =
        json!({"type": "perf_sample", "name": "startup_cold", "tags": {"duration_ms": "812"}});
    let events = json!([on("app_launch", 1), on("js_error", 2), crash, {"type": "custom", "name": "buy"}, sample]);
    let update = json!({"updateUuid": "ABCD"});
    world.send(&[with(body("device-1", events), update)]).await;
    world.settle().await;

    let all = world.read("/observe/events").await;
    assert_eq!(all["total"], 3);
    let types: Vec<&Value> = all["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["eventType"])
        .collect();
    assert_eq!(types, ["custom", "crash", "js_error"], "newest first");
    let id = &all["events"][1]["id"];
    assert_eq!(
        all["events"][1],
        json!({
            "id": id, "updateUuid": "ABCD", "deviceId": "device-1", "channelName": "production",
            "platform": "ios", "runtimeVersion": "1.0", "eventType": "crash", "eventName": null,
            "eventMessage": "boom", "count": 4, "flagStates": {"new-cart": true, "theme": {"a": 1}},
            "stackTrace": "Error: boom\n    at f", "errorName": "TypeError", "componentStack": "in App",
            "isFatal": true, "tags": {"screen": "cart", "items": 3, "note": "3", "more": [true, null]}, "receivedAt": world.now,
        })
    );
    for (query, total) in [
        ("type=app_launch", 1),
        ("type=perf_sample", 0),
        ("eventType=crash,custom", 2),
        ("type=", 3),
        ("update_uuid=abcd", 3),
        ("updateUuid=none", 0),
        ("device_id=device-1", 3),
        ("device_id=x", 0),
        ("runtime_version=1.0", 3),
        ("runtimeVersion=2", 0),
        ("platform=ios&channel=production", 3),
        ("error_name=TypeError", 1),
        ("flag_key=theme", 1),
        ("flagKey=new-cart", 2),
        ("flag_key=x", 0),
        ("search=OOM", 1),
        ("search=bu", 1),
        ("search=b%25", 0),
        ("search=b_y", 0),
    ] {
        for limit in ["", "&limit=0"] {
            let answer = world.read(&format!("/observe/events?{query}{limit}")).await;
            assert_eq!(answer["total"], total, "{query}{limit}");
            let listed = if limit.is_empty() { total } else { 0 };
            assert_eq!(
                answer["events"].as_array().unwrap().len(),
                listed,
                "{query}{limit}"
            );
        }
    }
    let performance = world.read("/telemetry/performance").await;
    assert_eq!(performance["metrics"][0]["latest"]["sampleCount"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_and_cover_all() {
    let mut world = World::start().await;
    // Three within a microsecond, and others hours, days and weeks ago.
    for (minutes, n) in [(0, 3), (90, 2), (60 * 24 * 3, 4), (60 * 24 * 20, 3)] {
        let at = world.now - TimeDelta::minutes(minutes);
        let error = |n| json!({"type": "js_error", "message": format!("m{n}")});
        let events: Vec<Value> = (0..n).map(error).collect();
        world
            .send_at("my-app", at, &[body("d", json!(events))])
            .await;
    }
    world.settle().await;
    let all = ids(&world.read("/observe/events?limit=200").await);
    assert_eq!(all.len(), 12);
    let (mut by_page, mut by_cursor, mut cursor) = (Vec::new(), Vec::new(), String::new());
    for page in 1..=3 {
        let answer = world
            .read(&format!("/observe/events?limit=5&page={page}"))
            .await;
        assert_eq!(answer["total"], 12);
        by_page.extend(ids(&answer));
        let answer = world
            .read(&format!("/observe/events?limit=5&cursor={cursor}"))
            .await;
        by_cursor.extend(ids(&answer));
        cursor = answer["nextCursor"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!((&by_page, &by_cursor, cursor.as_str()), (&all, &all, ""));
    let skipped = ids(&world.read("/observe/events?offset=4&limit=3").await);
    assert_eq!(skipped, all[4..7]);
    assert!(ids(&world.read("/observe/events?offset=100000").await).is_empty());

    let day = (world.now - TimeDelta::days(3)).date_naive();
    let of_day = world
        .read(&format!("/observe/events?from={day}&to={day}"))
        .await;
    assert_eq!(
        (of_day["total"].clone(), ids(&of_day)),
        (json!(4), all[5..9].to_vec())
    );
    let at = (world.now - TimeDelta::minutes(90)).to_rfc3339();
    let moment = world
        .read(&format!("/observe/events?from={at}&to={at}"))
        .await;
    assert_eq!(
        (moment["total"].clone(), ids(&moment)),
        (json!(2), all[3..5].to_vec())
    );
    let none = world
        .read("/observe/events?from=2020-01-02&to=2020-01-01")
        .await;
    assert_eq!(none["total"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_add_up_counts() {
    let mut world = World::start().await;
    let error =
        |message: &str, count: u32| json!({"type": "js_error", "message": message, "count": count});
    let early = world.now - TimeDelta::hours(2);
    world
        .send_at(
            "my-app",
            early,
            &[body("a", json!([error("x", 3), error("y", 1)]))],
        )
        .await;
    world
        .send(&[
            body("b", json!([error("x", 4), {"type": "custom", "name": "z"}])),
            body("", json!([error("x", 1)])),
        ])
        .await;
    world.settle().await;
    let answer = world.read("/observe/events?group_by=message").await;
    assert_eq!(answer["total"], 3);
    let group = |key: &str, count, devices, first, last| json!({"key": key, "totalCount": count, "uniqueDevices": devices, "firstSeen": first, "lastSeen": last});
    assert_eq!(
        answer["groups"],
        json!([
            group("", 1, 1, world.now, world.now),
            group("x", 8, 2, early, world.now),
            group("y", 1, 1, early, early),
        ])
    );
    let errors = world
        .read("/observe/events?groupBy=anything&type=js_error&limit=1&offset=1")
        .await;
    assert_eq!(
        (&errors["total"], &errors["groups"][0]["key"]),
        (&json!(2), &json!("y"))
    );
    let names = world.read("/observe/events?group_by=name&limit=0").await;
    assert_eq!(names, json!({"groups": [], "total": 2}));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_than_thirty_days_is_served() {
    let now = Utc::now();
    let mut world = World::at(now).await;
    let error = |message: &str| body("d", json!([{"type": "js_error", "message": message}]));
    let ages = [
        TimeDelta::days(29),
        TimeDelta::days(30) + TimeDelta::minutes(30),
        TimeDelta::days(31),
    ];
    for age in ages {
        let message = format!("{}", age.num_days());
        world.send_at("my-app", now - age, &[error(&message)]).await;
    }
    world.settle().await;
    assert!(
        world.raw_rows().await >= 2,
        "one beyond the limit is still on disk"
    );
    for query in [
        "",
        "?from=2000-01-01",
        "?search=3",
        "?search=29",
        "?to=2100-01-01",
    ] {
        let answer = world.read(&format!("/observe/events{query}")).await;
        let messages: Vec<&Value> = answer["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["eventMessage"])
            .collect();
        let visible = if query == "?search=3" {
            vec![]
        } else {
            vec!["29"]
        };
        assert_eq!(messages, visible, "{query}");
        assert_eq!(answer["total"], visible.len(), "{query}");
    }
    let groups = world.read("/observe/events?group_by=message").await;
    assert_eq!(groups["total"], 1);
}
