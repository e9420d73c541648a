use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sluice_api::insights::watch_once;
use sluice_api::service::run_workers;
use sluice_service::admin::Readiness;
use tokio::time::timeout;

use crate::proxy::{Proxy, Way};
use crate::world::{PATIENCE, World, body, devices, with};

const EVENTS: &str = "/telemetry/events";

pub(crate) fn errors(count: u64) -> Value {
    json!([{"type": "js_error", "count": count, "message": "boom"}])
}

fn crashes(count: u64) -> Value {
    json!([{"type": "crash", "count": count, "message": "boom"}])
}

pub(crate) fn beta(body: Value) -> Value {
    with(body, json!({"channel": "beta"}))
}

impl World {
    /// Each of the 24 whole hours before the running one has these bodies.
    pub(crate) async fn day(&mut self, slug: &str, bodies: &[Value]) {
        for hours in 1..=24 {
            self.send_at(slug, self.now - TimeDelta::hours(hours), bodies)
                .await;
        }
    }

    /// Stores and folds what was sent, and lets a process look at it.
    pub(crate) async fn watch(&mut self) {
        self.settle().await;
        assert!(watch_once(&self.state()).await.expect("a round"));
    }

    pub(crate) async fn later(&mut self, minutes: i64) {
        self.now += TimeDelta::minutes(minutes);
        self.watch().await;
    }

    /// What a viewer of a project is shown.
    async fn events_of(&self, slug: &str, query: &str) -> Vec<Value> {
        let token = format!("dsp_{slug}_viewer");
        let answer = self
            .get(&format!("{EVENTS}{query}"), &token, Some(slug))
            .await;
        assert_eq!(answer.status, 200, "{query}: {:?}", answer.body);
        answer.json().as_array().expect("a bare array").clone()
    }

    pub(crate) async fn events(&self, query: &str) -> Vec<Value> {
        self.events_of("my-app", query).await
    }
}

/// Members of each entry.
pub(crate) fn members<const N: usize>(events: &[Value], names: [&str; N]) -> Value {
    let entry = |event: &Value| names.iter().map(|name| event[*name].clone()).collect();
    events.iter().map(entry).collect::<Vec<Value>>().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn spikes_are_found_once_per_channel_and_belong_to_their_project() {
    let mut world = World::start().await;
    world.watch().await;
    assert_eq!(world.read(EVENTS).await, json!([]));

    world.day("my-app", &[body("a", errors(3))]).await;
    world.day("other", &[body("a", errors(2))]).await;
    world.send(&[body("a", errors(10))]).await;
    world
        .send_at("other", world.now, &[body("a", errors(20))])
        .await;
    world.later(1).await;
    let first = world.events("").await;
    let detected = json!(world.now);
    assert_eq!(
        first,
        [json!({
            "id": first[0]["id"], "timestamp": detected, "type": "error_spike",
            "severity": "warning", "status": "degraded",
            "title": "Error spike on production",
            "description": "10 errors on 1 device in an hour: 3.3 times the usual 3.0 an hour",
            "linkedFlag": null, "linkedUpdate": null, "affectedDevices": 1,
            "channel": "production", "platforms": ["ios"], "count": 10,
            "deviceId": null, "updateUuid": null, "runtimeVersion": null,
        })]
    );
    let theirs = world.events_of("other", "").await;
    let names = ["type", "severity", "status", "count"];
    assert_eq!(
        members(&theirs, names),
        json!([["error_spike", "critical", "incident", 20]])
    );

    // A second batch in the same hour and channel adds no row; it is worse now.
    world.send(&[body("b", errors(10))]).await;
    world.later(1).await;
    let second = world.events("").await;
    assert_eq!(
        members(&second, names),
        json!([["error_spike", "critical", "incident", 20]])
    );
    let same = ["id", "timestamp"];
    assert_eq!(members(&second, same), members(&first, same));
    assert_eq!(second[0]["affectedDevices"], 2);

    // A second channel in the same hour has an event of its own. No device says
    // more than a hundred times in an hour that it fails, neither now nor before.
    let before = world.now - TimeDelta::hours(3);
    let looping = [beta(body("loop", errors(9_000)))];
    world.send_at("my-app", before, &looping).await;
    world.send(&looping).await;
    world.later(1).await;
    let both = world.events("").await;
    assert_eq!(
        members(&both, ["channel", "severity", "count"]),
        json!([["beta", "critical", 100], ["production", "critical", 20]])
    );
    assert_eq!(world.events_of("other", "").await, theirs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_looping_device_more_traffic_and_a_new_project_are_no_spikes() {
    let mut world = World::start().await;
    let usual = json!([{"type": "app_launch", "count": 10}, {"type": "js_error", "count": 1}]);
    world.day("my-app", &devices("d", 8, &usual)).await;
    world.send(&devices("d", 40, &usual)).await;
    // One device of many, over and over.
    let looping = json!([{"type": "app_launch", "count": 1}, {"type": "js_error", "count": 9_000}]);
    world.send(&[beta(body("loop", looping))]).await;
    // Two hours are not enough to know what is usual.
    for hours in [1, 2] {
        let at = world.now - TimeDelta::hours(hours);
        world.send_at("other", at, &[body("a", errors(1))]).await;
    }
    world
        .send_at("other", world.now, &[body("a", errors(90))])
        .await;
    world.watch().await;
    assert_eq!(world.events("").await, Vec::<Value>::new());
    assert_eq!(world.events_of("other", "").await, Vec::<Value>::new());

    // The same traffic, of which more than twice the usual share fails.
    let failing = json!([{"type": "js_error", "count": 2}]);
    world.send(&devices("d", 40, &failing)).await;
    world.later(1).await;
    let names = ["type", "severity", "count", "affectedDevices"];
    assert_eq!(
        members(&world.events("").await, names),
        json!([["error_spike", "critical", 120, 40]])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_and_latency_have_spikes_of_their_own() {
    let mut world = World::start().await;
    let sample = |ms: u32| json!({"type": "perf_sample", "name": "startup_cold", "tags": {"duration_ms": ms.to_string()}});
    let samples = |n: usize, ms: u32| Value::from(vec![sample(ms); n]);
    let usual = [
        body("a", json!([{"type": "custom", "name": "n"}])),
        body("a", samples(3, 100)),
    ];
    world.day("my-app", &usual).await;
    world
        .send(&[body("a", crashes(3)), body("a", samples(49, 300))])
        .await;
    world.watch().await;
    let names = ["type", "severity", "status", "title", "count"];
    let crash = json!([
        "crash_spike",
        "warning",
        "degraded",
        "Crash spike on production",
        3
    ]);
    assert_eq!(members(&world.events("").await, names), json!([crash]));

    world.send(&[body("b", samples(1, 300))]).await;
    world.later(1).await;
    let slow = json!([
        "latency_spike",
        "info",
        "degraded",
        "Latency spike on production",
        50
    ]);
    let events = world.events("").await;
    assert_eq!(members(&events, names), json!([slow, crash]));
    assert_eq!(events[0]["affectedDevices"], 2);
    assert!(
        events[0]["description"]
            .as_str()
            .unwrap()
            .starts_with("p95 of startup_cold is 300 ms"),
        "{}",
        events[0]
    );
    let types = members(&world.events("?type=latency_spike").await, ["type"]);
    assert_eq!(types, json!([["latency_spike"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flag_and_the_update_that_fail_are_named() {
    let mut world = World::start().await;
    let flag = world.flag("new-cart").await;
    world.flag("innocent").await;
    world.flag("older").await;
    let (bad, good) = (
        "AAAAAAAA-0000-4000-8000-000000000001",
        "AAAAAAAA-0000-4000-8000-000000000002",
    );
    for (uuid, version) in [(bad, "2.0"), (good, "1.0")] {
        world
            .run(&format!(
                "insert into updates (project_id, update_uuid, runtime_version, platform, channel, group_id)
                 select id, '{uuid}', '{version}', 'ios', 'production', '{version}' from projects where slug = 'my-app'"
            ))
            .await;
    }
    world
        .day("my-app", &[body("quiet", json!([{"type": "app_launch"}]))])
        .await;
    let held = |on: bool, kind: &'static str, android: bool| {
        let flags = json!({"new-cart": on, "innocent": true, "unknown": on});
        let uuid = if on { bad } else { good };
        let platform = if android { "android" } else { "ios" };
        let events = json!([
            {"type": "app_launch", "count": 1, "flagStates": flags},
            {"type": kind, "count": 1, "flagStates": flags},
        ]);
        move |n: usize| {
            let device = body(&format!("{on}-{kind}-{platform}-{n}"), events.clone());
            with(device, json!({"updateUuid": uuid, "platform": platform}))
        }
    };
    let failing: Vec<Value> = (0..20).map(held(true, "js_error", false)).collect();
    let fine: Vec<Value> = (0..20).map(held(false, "custom", true)).collect();
    world.send(&failing).await;
    world.send(&fine).await;
    world.send(&[held(false, "js_error", true)(0)]).await;
    // Older clients: their launches hold no flags, so that they say nothing of any.
    let older = |kind: &str, value: bool| json!([{"type": "app_launch"}, {"type": kind, "flagStates": {"older": value}}]);
    world
        .send(&devices("failing", 5, &older("js_error", false)))
        .await;
    world
        .send(&devices("fine", 5, &older("custom", true)))
        .await;
    world.watch().await;
    let events = world.events("").await;
    assert_eq!(
        members(&events, ["linkedFlag", "linkedUpdate", "platforms"]),
        json!([[
            {"id": flag, "key": "new-cart", "variation": "On"},
            {"id": 1, "runtimeVersion": "2.0"},
            ["ios"],
        ]])
    );

    for (query, found) in [
        ("?flag_key=new-cart", 1),
        ("?flagKey=innocent", 0),
        ("?platform=ios", 1),
        ("?platform=android", 0),
        ("?channel=production", 1),
        ("?channel=beta", 0),
        ("?severity=critical", 1),
        ("?severity=warning", 0),
        ("?status=incident", 1),
        ("?status=healthy", 0),
        ("?type=error_spike", 1),
        ("?type=crash_spike", 0),
        ("?type=perf_sample", 0),
        ("?limit=0", 0),
        ("?offset=1", 0),
        ("?period=1d", 1),
    ] {
        assert_eq!(world.events(query).await.len(), found, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anomaly_is_told_of_before_it_is_looked_at_closely() {
    let mut world = World::start().await;
    world.day("my-app", &[body("a", errors(1))]).await;
    world.send(&[body("a", errors(10))]).await;
    world.settle().await;
    world.clickhouse("RENAME TABLE flag_maps TO aside").await;
    assert!(watch_once(&world.state()).await.expect("a round"));
    let names = ["type", "count", "affectedDevices", "platforms"];
    assert_eq!(
        members(&world.events("").await, names),
        json!([["error_spike", 10, 1, []]])
    );
    world.clickhouse("RENAME TABLE aside TO flag_maps").await;
    world.later(1).await;
    assert_eq!(
        members(&world.events("").await, names),
        json!([["error_spike", 10, 1, ["ios"]]])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_quiet_for_two_hours_is_over() {
    let mut world = World::start().await;
    world.day("my-app", &[body("a", errors(1))]).await;
    world.send(&[body("a", errors(10))]).await;
    world.watch().await;
    let status = async |world: &World| members(&world.events("").await, ["status", "severity"]);
    let open = json!([["incident", "critical"]]);
    world.later(59).await;
    assert_eq!(status(&world).await, open);
    world.later(2).await;
    assert_eq!(status(&world).await, open);
    world.later(58).await;
    assert_eq!(status(&world).await, open);

    // Data that has not come says nothing.
    world.now += TimeDelta::minutes(6);
    assert!(watch_once(&world.state()).await.expect("a round"));
    assert_eq!(status(&world).await, open);
    world.later(1).await;
    assert_eq!(status(&world).await, json!([["healthy", "critical"]]));

    // The next one is another.
    world.send(&[body("a", errors(10))]).await;
    world.later(1).await;
    assert_eq!(
        status(&world).await,
        json!([["incident", "critical"], ["healthy", "critical"]])
    );
    assert_eq!(world.events("?status=healthy").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_events_come_in_the_same_form_when_they_are_asked_for() {
    let mut world = World::start().await;
    let uuid = "AAAAAAAA-0000-4000-8000-000000000001";
    world
        .run(&format!(
            "insert into updates (project_id, update_uuid, runtime_version, platform, channel, group_id)
             select id, '{uuid}', '2.0', 'ios', 'production', 'g' from projects where slug = 'my-app'"
        ))
        .await;
    let crash = json!([{"type": "crash", "count": 2, "message": "boom", "stackTrace": "first\nsecond",
        "flagStates": {"new-cart": true}}]);
    world
        .send(&[with(body("a", crash), json!({"updateUuid": uuid}))])
        .await;
    let other = json!([{"type": "js_error", "message": "m"}, {"type": "custom", "name": "n"}, {"type": "app_launch"}]);
    let long_ago = world.now - TimeDelta::days(20);
    world
        .send_at("my-app", long_ago, &[body("b", crashes(1))])
        .await;
    world.send(&[beta(body("b", other))]).await;
    world.settle().await;
    assert_eq!(world.events("").await, Vec::<Value>::new());

    let crashes = world.events("?type=crash").await;
    assert_eq!(
        crashes,
        [json!({
            "id": crashes[0]["id"], "timestamp": world.now, "type": "crash",
            "severity": "critical", "status": "incident", "title": "boom", "description": "first",
            "linkedFlag": null, "linkedUpdate": {"id": 1, "runtimeVersion": "2.0"},
            "affectedDevices": 1, "channel": "production", "platforms": ["ios"], "count": 2,
            "deviceId": "a", "updateUuid": uuid, "runtimeVersion": "1.0",
        })]
    );
    assert!(crashes[0]["id"].is_u64());
    let grades = ["title", "description", "severity", "status", "linkedUpdate"];
    for (kind, expected) in [
        ("js_error", json!([["m", "", "warning", "degraded", null]])),
        ("custom", json!([["n", "", "info", "healthy", null]])),
        ("app_launch", json!([["", "", "info", "healthy", null]])),
    ] {
        let events = world.events(&format!("?eventType={kind}")).await;
        assert_eq!(members(&events, grades), expected, "{kind}");
    }
    for (query, found) in [
        ("days=30", 2),
        ("days=30&limit=1", 1),
        ("days=30&offset=1", 1),
        ("channel=beta", 0),
        ("platform=ios", 1),
        ("flag_key=new-cart", 1),
        ("flag_key=other", 0),
        ("severity=critical&status=incident", 1),
        ("severity=info", 0),
    ] {
        let events = world.events(&format!("?type=crash&{query}")).await;
        assert_eq!(events.len(), found, "{query}");
    }
    let theirs = world.events_of("other", "?type=crash").await;
    assert_eq!(theirs, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_watchers_one_works_at_a_time() {
    let mut world = World::start().await;
    world.day("my-app", &[body("a", errors(1))]).await;
    world.send(&[body("a", errors(10))]).await;
    world.settle().await;
    let (one, two) = (world.state(), world.state());
    let (one, two) = tokio::join!(watch_once(&one), watch_once(&two));
    assert!(one.expect("a round") != two.expect("a round"));
    assert_eq!(world.events("").await.len(), 1);
    // Nor does another go over the same just after.
    assert!(!watch_once(&world.state()).await.expect("no round"));
    world.now += TimeDelta::seconds(30);
    assert!(watch_once(&world.state()).await.expect("a round"));
    assert_eq!(world.events("").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_without_the_store_changes_nothing_and_the_next_goes_on() {
    let mut world = World::start().await;
    world.day("my-app", &[body("a", errors(1))]).await;
    world.send(&[body("a", errors(10))]).await;
    world.settle().await;
    let proxy = Proxy::start(world.clickhouse_url()).await;
    let state = world.state_over(proxy.url.clone());
    for way in [Way::Cut, Way::Silent] {
        proxy.turn(way);
        watch_once(&state).await.expect_err("no round");
        assert_eq!(world.events("").await, Vec::<Value>::new());
    }
    proxy.turn(Way::Open);
    let seen_again = async {
        while !matches!(watch_once(&state).await, Ok(true)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, seen_again)
        .await
        .expect("goes on by itself");
    assert_eq!(world.events("").await.len(), 1);
    // What a project had goes with it, and what it has left in the store is nobody's.
    world
        .run("delete from projects where slug = 'my-app'")
        .await;
    world.now += TimeDelta::minutes(1);
    assert!(watch_once(&world.state()).await.expect("a round"));
    let left: i64 = sqlx::query_scalar("select count(*) from anomalies")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workers_watch_and_forget_after_thirteen_months() {
    let mut world = World::start().await;
    world.day("my-app", &[body("a", errors(1))]).await;
    world.send(&[body("a", errors(10))]).await;
    world.settle().await;
    let row = |months: u32, days: i64| {
        let at = world
            .now
            .checked_sub_months(chrono::Months::new(months))
            .unwrap()
            - TimeDelta::days(days);
        format!(
            "insert into anomalies (project_id, type, channel, severity, status, detected_at,
                 description, event_count, affected_devices, platforms)
             select id, 'error_spike', 'old-{days}', 'info', 'healthy', '{at}', '', 1, 1, '{{}}'
             from projects where slug = 'my-app';"
        )
    };
    world.run(&(row(13, 1) + &row(13, -1))).await;
    let state = world.state();
    let workers = tokio::spawn(async move { run_workers(state, &Readiness::new()).await });
    let channels = async || {
        let channels =
            sqlx::query_scalar::<_, String>("select channel from anomalies order by detected_at");
        channels.fetch_all(&world.pool).await.unwrap()
    };
    let done = async {
        let expected: [String; 2] = ["old--1".to_owned(), "production".to_owned()];
        while channels().await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, done).await.expect("watched and purged");
    workers.abort();
}
