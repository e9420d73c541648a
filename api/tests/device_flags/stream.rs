use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::world::{PATIENCE, SLUG, World};

/// A device that keeps its flags by the stream.
struct Reader {
    stream: BodyDataStream,
    flags: BTreeMap<String, Value>,
    /// Names of the events read.
    events: Vec<String>,
}

impl Reader {
    async fn open(world: &World, query: &str) -> Self {
        let answer = world
            .send(get(&format!("/v1/ota/flag-stream/{SLUG}?{query}")))
            .await;
        assert_eq!(answer.status(), StatusCode::OK);
        let headers = answer.headers();
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(headers["cache-control"], "no-cache");
        assert_eq!(headers["x-accel-buffering"], "no");
        assert!(!headers.contains_key("content-encoding"));
        let stream = answer.into_body().into_data_stream();
        Self {
            stream,
            flags: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Reads what comes next. False: the stream has ended.
    async fn read(&mut self) -> bool {
        let frame = timeout(PATIENCE, self.stream.next())
            .await
            .expect("something is sent");
        let Some(frame) = frame else { return false };
        let text = String::from_utf8(frame.unwrap().to_vec()).unwrap();
        text.split_terminator("\n\n")
            .for_each(|event| self.apply(event));
        true
    }

    fn apply(&mut self, event: &str) {
        let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let Some(name) = line("event: ") else { return };
        let data: Value = serde_json::from_str(line("data: ").unwrap()).unwrap();
        let key = data["key"].as_str().unwrap_or_default().to_owned();
        match name {
            "put" => self.flags = serde_json::from_value(data["flags"].clone()).unwrap(),
            "patch" => drop(self.flags.insert(key, data["flag"].clone())),
            "delete" => drop(self.flags.remove(&key)),
            other => panic!("unknown event {other}"),
        }
        self.events.push(name.to_owned());
    }

    async fn read_until(&mut self, wanted: impl Fn(&BTreeMap<String, Value>) -> bool) {
        while !wanted(&self.flags) {
            assert!(self.read().await, "the stream ended with {:?}", self.flags);
        }
    }

    fn value(&self, key: &str) -> &Value {
        &self.flags[key]["value"]
    }
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_device_is_told_what_changes_for_it() {
    let world = World::start().await;
    let checkout = world.flag("new-checkout").await;
    let theme = world.flag("theme").await;
    world
        .rule(
            theme,
            "user_list",
            json!({"userIds": ["user-1"]}),
            json!(true),
        )
        .await;
    let mut listed = Reader::open(&world, "deviceId=d1&targetingKey=user-1").await;
    let mut other = Reader::open(&world, "device_id=d2&targeting_key=").await;
    for reader in [&mut listed, &mut other] {
        assert!(reader.read().await);
        assert_eq!(reader.value("new-checkout"), &json!(false));
    }
    assert_eq!(
        (listed.value("theme"), other.value("theme")),
        (&json!(true), &json!(false))
    );

    // Only for one of them: the other one hears of the next change first.
    world
        .run(&format!("delete from flag_rules where flag_id = {theme}"))
        .await;
    listed
        .read_until(|flags| flags["theme"]["value"] == json!(false))
        .await;
    world
        .run(&format!(
            "update flags set default_value = 'true' where id = {checkout}"
        ))
        .await;
    for reader in [&mut listed, &mut other] {
        reader
            .read_until(|flags| flags["new-checkout"]["value"] == json!(true))
            .await;
    }
    assert_eq!(listed.events, ["put", "patch", "patch"]);
    assert_eq!(other.events, ["put", "patch"]);

    world
        .run(&format!(
            "update flags set enabled = false where id = {checkout}"
        ))
        .await;
    other
        .read_until(|flags| !flags.contains_key("new-checkout"))
        .await;
    world
        .run(&format!("delete from flags where id = {theme}"))
        .await;
    other.read_until(BTreeMap::is_empty).await;
    assert_eq!(other.events, ["put", "patch", "delete", "delete"]);
}

#[tokio::test]
async fn segments_channels_and_releases_are_pushed_too() {
    const UPDATE: &str = "6f0c1b7a-0000-4000-8000-000000000001";
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world.update(UPDATE, "group").await;
    world
        .rule(flag, "segment", json!({"segmentKey": "ios"}), json!(true))
        .await;
    let query = format!("deviceId=d&channel=production&platform=ios&updateId={UPDATE}");
    let mut reader = Reader::open(&world, &query).await;
    let steps = [
        ("insert into segments (project_id, key, name, match_type) select id, 'ios', 'ios', 'any' from projects;
          insert into segment_conditions
              (project_id, segment_id, attribute, operator, condition_values, sort_order)
          select project_id, id, 'platform', 'eq', array['ios'], 0 from segments",
         Some("SEGMENT_MATCH")),
        ("update segments set key = 'other'", Some("DEFAULT")),
        ("insert into flag_env_settings (project_id, flag_id, channel_name, enabled, enabled_changed_at)
          select project_id, id, 'production', false, now() from flags", None),
        ("insert into release_links (project_id, group_id, channel, flag_id, enabled)
          select project_id, 'group', 'production', id, true from flags", Some("RELEASE_OVERRIDE")),
        ("update release_links set state = 'rolled_back'", None),
        ("update release_links set state = 'active'", Some("RELEASE_OVERRIDE")),
        ("update updates set is_enabled = false", None),
        ("update flag_env_settings set enabled = true", Some("DEFAULT")),
    ];
    assert!(reader.read().await);
    for (statements, reason) in steps {
        world.run(statements).await;
        reader
            .read_until(|flags| {
                flags
                    .get("new-checkout")
                    .map(|flag| flag["reason"].as_str())
                    == reason.map(Some)
            })
            .await;
    }
}

#[tokio::test]
async fn bad_streams_are_refused_before_they_start() {
    let world = World::start().await;
    let answer = world
        .get("/v1/ota/flag-stream/unknown?deviceId=d", &[])
        .await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json()["error"], "Project not found");
    for query in ["", "?deviceId="] {
        let answer = world
            .get(&format!("/v1/ota/flag-stream/{SLUG}{query}"), &[])
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(
            answer.json()["error"]
                .as_str()
                .unwrap()
                .contains("deviceId")
        );
    }
}

#[tokio::test]
async fn a_shutdown_and_a_deleted_project_end_the_streams() {
    let world = World::start().await;
    world
        .run("insert into projects (name, slug) values ('Other', 'other')")
        .await;
    let mut reader = Reader::open(&world, "deviceId=d").await;
    let answer = world
        .send(get("/v1/ota/flag-stream/other?deviceId=d"))
        .await;
    let mut other = answer.into_body().into_data_stream();
    assert!(reader.read().await);
    other.next().await.unwrap().unwrap();

    world.run("delete from projects where slug = 'other'").await;
    assert!(timeout(PATIENCE, other.next()).await.unwrap().is_none());
    world.state.flags.close();
    assert!(!reader.read().await);
}

/// 500 devices, some of which read slowly, while a flag changes 100 times.
#[tokio::test(flavor = "multi_thread")]
async fn every_stream_ends_on_the_last_state() {
    let world = World::start().await;
    let flag = world.flag("counter").await;
    world
        .run("update flags set flag_type = 'number', default_value = '0'")
        .await;
    let mut readers = Vec::new();
    for device in 0..500_u64 {
        let mut reader = Reader::open(&world, &format!("deviceId=d{device}")).await;
        readers.push(tokio::spawn(async move {
            let pause = Duration::from_millis(device % 5 * 50);
            while reader
                .flags
                .get("counter")
                .is_none_or(|flag| flag["value"] != json!(100))
            {
                assert!(reader.read().await);
                tokio::time::sleep(pause).await;
            }
            reader.events.len()
        }));
    }
    for value in 1..=100 {
        world
            .run(&format!(
                "update flags set default_value = '{value}' where id = {flag}"
            ))
            .await;
    }
    for reader in readers {
        let events = timeout(PATIENCE, reader)
            .await
            .expect("the last state arrives")
            .unwrap();
        assert!(events <= 101, "no more events than changes");
    }
}

/// A reader that does not read misses what happens meanwhile, and is given the whole.
#[tokio::test]
async fn a_slow_reader_is_resynchronised() {
    let world = World::start().await;
    let flag = world.flag("counter").await;
    world
        .run("update flags set flag_type = 'number', default_value = '0'")
        .await;
    let mut slow = Reader::open(&world, "deviceId=slow").await;
    let mut quick = Reader::open(&world, "deviceId=quick").await;
    slow.read().await;
    quick.read().await;
    for value in 1..=12 {
        world
            .run(&format!(
                "update flags set default_value = '{value}' where id = {flag}"
            ))
            .await;
        // One generation for each value.
        quick
            .read_until(|flags| flags["counter"]["value"] == json!(value))
            .await;
    }
    assert!(slow.read().await);
    assert_eq!(slow.events, ["put", "put"]);
    assert_eq!(slow.value("counter"), &json!(12));
}

/// Each spelling of each parameter, and what they decide, from the first event
/// through the last change.
#[tokio::test]
async fn what_a_device_says_of_itself_holds_for_every_event() {
    const UPDATE: &str = "6f0c1b7a-0000-4000-8000-000000000001";
    let world = World::start().await;
    world.update(UPDATE, "group").await;
    let flag = world.flag("theme").await;
    let conditions = json!({"conditions": [
        {"attribute": "platform", "operator": "eq", "values": ["ios"]},
        {"attribute": "runtimeVersion", "operator": "semver_gte", "values": ["1.2"]},
        {"attribute": "ota.branch", "operator": "eq", "values": ["main"]},
        {"attribute": "device_id", "operator": "eq", "values": ["d"]},
    ]});
    world.rule(flag, "attribute", conditions, json!(true)).await;
    let listed = world.flag("listed").await;
    let users = json!({"userIds": ["user-1"]});
    world.rule(listed, "user_list", users, json!(true)).await;
    let mut readers = Vec::new();
    for query in [
        format!(
            "deviceId=d&targetingKey=user-1&updateId={UPDATE}&runtimeVersion=1.10&platform=ios"
        ),
        format!(
            "device_id=d&targeting_key=user-1&update_id={UPDATE}&runtime_version=1.10&platform=ios"
        ),
    ] {
        let mut reader = Reader::open(&world, &query).await;
        assert!(reader.read().await);
        readers.push(reader);
    }
    for step in ["On", "Anew"] {
        for reader in &mut readers {
            reader
                .read_until(|flags| {
                    ["theme", "listed"].iter().all(|key| {
                        let flag = &flags[*key];
                        (&flag["value"], &flag["variant"]) == (&json!(true), &json!(step))
                    })
                })
                .await;
        }
        // The name of a variation is part of the answer.
        world
            .run("update flag_variations set name = 'Anew' where value = 'true'")
            .await;
    }
}

/// A rollback publishes a copy; devices that run it get what the original gives.
#[tokio::test]
async fn the_copy_of_an_update_is_told_of_its_release() {
    const COPY: &str = "6f0c1b7a-0000-4000-8000-000000000002";
    let world = World::start().await;
    let flag = world.flag("new-checkout").await;
    world
        .update("6f0c1b7a-0000-4000-8000-000000000001", "group")
        .await;
    world
        .run(&format!(
            "insert into release_links (project_id, group_id, channel, flag_id, enabled)
             select project_id, 'group', 'production', id, true from flags where id = {flag}"
        ))
        .await;
    let mut reader = Reader::open(&world, &format!("deviceId=d&updateId={COPY}")).await;
    assert!(reader.read().await);
    assert_eq!(reader.flags["new-checkout"]["reason"], "DEFAULT");
    world
        .run(&format!(
            "insert into updates (project_id, update_uuid, runtime_version, platform, channel,
                                  branch_name, group_id, rollback_to_update_id)
             select project_id, '{COPY}', '1.0', 'ios', 'production', 'main', 'copies', id
             from updates"
        ))
        .await;
    reader
        .read_until(|flags| flags["new-checkout"]["reason"] == "RELEASE_OVERRIDE")
        .await;
    world
        .run("update updates set is_enabled = false where group_id = 'group'")
        .await;
    reader
        .read_until(|flags| flags["new-checkout"]["reason"] == "DEFAULT")
        .await;
}

/// `bench streams` in the small: a flag that people change by the management
/// API, and every device on the last state.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_people_is_at_every_device() {
    const DEVICES: usize = 200;
    let world = World::start().await;
    let flag = world.flag("counter").await;
    world
        .run("update flags set flag_type = 'number', default_value = '0'")
        .await;
    let key = world.key("editor").await;
    let mut devices = tokio::task::JoinSet::new();
    for device in 0..DEVICES {
        let mut reader = Reader::open(&world, &format!("deviceId=d{device}")).await;
        devices.spawn(async move {
            reader
                .read_until(|flags| {
                    flags
                        .get("counter")
                        .is_some_and(|flag| flag["value"] == json!(20))
                })
                .await;
            reader.events.len()
        });
    }
    for value in 1..=20 {
        let request = Request::patch(format!("/v1/ota/flags/{flag}"))
            .header("authorization", format!("Bearer {key}"))
            .header("x-project", SLUG)
            .header("content-type", "application/json")
            .body(Body::from(json!({"defaultValue": value}).to_string()))
            .unwrap();
        assert_eq!(world.send(request).await.status(), StatusCode::OK);
    }
    let told = timeout(PATIENCE, devices.join_all()).await.unwrap();
    assert_eq!(told.len(), DEVICES);
    assert!(told.iter().all(|events| *events <= 21));
}

/// The documented workflow keeps a flag off while a release switches it on; who
/// switches it off all the same means the release, too (flags.md §8).
#[tokio::test]
async fn a_flag_that_is_off_can_still_be_killed() {
    const UPDATE: &str = "6f0c1b7a-0000-4000-8000-000000000001";
    let world = World::start().await;
    world.flag("beacon").await;
    let flag = world.flag("new-checkout").await;
    world.update(UPDATE, "group").await;
    world
        .run(
            "update flags set enabled = false, enabled_changed_at = now() - interval '2 hours'
             where key = 'new-checkout';
             insert into flag_env_settings
                 (project_id, flag_id, channel_name, enabled, enabled_changed_at)
             select project_id, id, 'staging', true, now() - interval '1 hour' from flags
             where key = 'new-checkout'",
        )
        .await;
    let key = world.key("editor").await;
    let patch = async |body: Value| {
        let request = Request::patch(format!("/v1/ota/flags/{flag}"))
            .header("authorization", format!("Bearer {key}"))
            .header("x-project", SLUG)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()));
        let answer = world.send(request.unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
    };
    let mut staging = Reader::open(&world, "deviceId=s&channel=staging").await;
    staging.read_until(|flags| flags.len() == 2).await;
    // No release overrides: what is off stays off, and where it is on it stays on.
    patch(json!({"enabled": false})).await;
    world
        .run(
            "insert into release_links (project_id, group_id, channel, flag_id, enabled)
             select project_id, 'group', 'production', id, true from flags
             where key = 'new-checkout'",
        )
        .await;
    let query = format!("deviceId=d&channel=production&updateId={UPDATE}");
    let mut reader = Reader::open(&world, &query).await;
    reader.read_until(|flags| flags.len() == 2).await;
    // A form that is saved with all its fields switches nothing.
    patch(json!({"name": "Renamed", "enabled": false})).await;
    world
        .run("update flags set default_value = 'true' where key = 'beacon'")
        .await;
    // Who has heard of what came later has heard of everything before.
    for reader in [&mut staging, &mut reader] {
        reader
            .read_until(|flags| flags["beacon"]["value"] == json!(true))
            .await;
        assert!(reader.flags.contains_key("new-checkout"));
        assert!(reader.events.iter().all(|event| event != "delete"));
    }
    patch(json!({"enabled": false})).await;
    reader.read_until(|flags| flags.len() == 1).await;
    assert_eq!(reader.events.last().unwrap(), "delete");
}
