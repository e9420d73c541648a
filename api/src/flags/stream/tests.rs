use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_schema::id::ProjectId;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::watch;
use uuid::Uuid;

use super::view::View;
use super::{KEEP_ALIVE, body};
use crate::ApiState;
use crate::clock::Clock;
use crate::flags::ages::Age;
use crate::flags::eval::{Device, Flag, FlagType, Rule, RuleConfig, Variation};
use crate::flags::rules::{ProjectRules, StoredRules};
use crate::state::Policy;

/// A device's map of flags, kept by the events that it reads.
#[derive(Debug, Default, PartialEq)]
struct Client(BTreeMap<String, Value>);

impl Client {
    fn read(&mut self, frames: &str) {
        for frame in frames.split_terminator("\n\n") {
            let line = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            let Some(event) = line("event: ") else {
                continue;
            };
            let data: Value = serde_json::from_str(line("data: ").unwrap()).unwrap();
            match event {
                "put" => self.0 = serde_json::from_value(data["flags"].clone()).unwrap(),
                "patch" => drop(self.0.insert(key(&data), data["flag"].clone())),
                "delete" => assert!(self.0.remove(&key(&data)).is_some(), "deletes what is held"),
                other => panic!("unknown event {other}"),
            }
        }
    }
}

fn key(data: &Value) -> String {
    data["key"].as_str().unwrap().to_owned()
}

/// A boolean flag, on for `percent` of all devices where it is enabled.
fn flag(id: i64, enabled: bool, percent: f64) -> Arc<Flag> {
    let variations = vec![Variation {
        id: 1,
        value: json!(true),
        name: Some("On".to_owned()),
    }];
    let config = json!({"percentage": percent});
    let config = RuleConfig::parse("percentage_rollout", &config, &json!(true)).unwrap();
    let config = config.resolve(FlagType::Boolean, &variations).unwrap();
    Arc::new(Flag {
        id,
        key: format!("flag-{id}"),
        flag_type: FlagType::Boolean,
        default_value: json!(false),
        enabled,
        enabled_changed_at_us: 0,
        variations,
        environments: Vec::new(),
        rules: vec![Rule {
            id,
            priority: 0,
            channel: None,
            config,
            variant_value: json!(true),
        }],
        links: Vec::new(),
    })
}

fn compile(flags: &[Arc<Flag>], previous: Option<&ProjectRules>) -> ProjectRules {
    let stored = StoredRules {
        flags: flags.to_vec(),
        ..StoredRules::default()
    };
    ProjectRules::compile(stored, previous)
}

fn device(id: &str) -> Arc<Device> {
    Arc::new(Device {
        device_id: id.to_owned(),
        ..Device::default()
    })
}

/// No age is known, and none is asked for.
fn unknown() -> Option<Age> {
    None
}

/// Different flags exist, on and off, at different percentages.
fn any_flags() -> impl Strategy<Value = Vec<Arc<Flag>>> {
    let settings = prop::option::of((any::<bool>(), prop::sample::select(vec![0.0, 50.0, 100.0])));
    prop::collection::vec(settings, 5).prop_map(|settings| {
        let numbered = settings.into_iter().zip(1..);
        numbered
            .filter_map(|(setting, id)| {
                setting.map(|(enabled, percent)| flag(id, enabled, percent))
            })
            .collect()
    })
}

proptest! {
    /// However often rules change, and however much of it a device misses, what
    /// it holds after reading is what a new device would get.
    #[test]
    fn a_device_ends_on_the_newest_state(
        history in prop::collection::vec((any_flags(), any::<bool>()), 1..30),
        device_id in "[a-z]{1,6}",
    ) {
        let mut rules = compile(&[], None);
        let mut view = View::open(device(&device_id), &rules, &unknown, 0);
        let mut client = Client::default();
        client.read(&view.put());
        for (flags, reads) in history {
            rules = compile(&flags, Some(&rules));
            if reads {
                client.read(&view.advance(&rules, &unknown, 0).unwrap_or_default());
                let mut fresh = Client::default();
                fresh.read(&View::open(device(&device_id), &rules, &unknown, 0).put());
                prop_assert_eq!(&client, &fresh);
            }
        }
    }
}

#[test]
fn only_what_changed_for_the_device_is_sent() {
    let before = compile(&[flag(1, true, 100.0), flag(2, true, 100.0)], None);
    let mut view = View::open(device("d"), &before, &unknown, 0);
    // A rename of nothing: the same content compiled anew.
    let same = compile(&[flag(1, true, 100.0), flag(2, true, 100.0)], Some(&before));
    assert_eq!(view.advance(&same, &unknown, 0), None);
    let after = compile(&[flag(1, true, 0.0), flag(2, true, 100.0)], Some(&same));
    let event = view.advance(&after, &unknown, 0).unwrap();
    assert_eq!(
        event,
        "event: patch\ndata: {\"type\":\"patch\",\"key\":\"flag-1\",\
         \"flag\":{\"reason\":\"DEFAULT\",\"value\":false,\"variant\":null}}\n\n"
    );
}

#[test]
fn a_flag_that_goes_off_or_away_is_deleted() {
    let before = compile(
        &[
            flag(1, true, 100.0),
            flag(2, true, 100.0),
            flag(3, false, 0.0),
        ],
        None,
    );
    let mut view = View::open(device("d"), &before, &unknown, 0);
    let after = compile(&[flag(1, false, 100.0)], Some(&before));
    let delete =
        |key: &str| format!("event: delete\ndata: {{\"type\":\"delete\",\"key\":\"{key}\"}}\n\n");
    assert_eq!(
        view.advance(&after, &unknown, 0),
        Some(delete("flag-1") + &delete("flag-2"))
    );
}

#[test]
fn a_reader_that_missed_much_is_given_everything_anew() {
    let mut rules = compile(&[flag(1, true, 100.0), flag(2, true, 100.0)], None);
    let mut view = View::open(device("d"), &rules, &unknown, 0);
    for round in 0..10 {
        rules = compile(
            &[flag(1, true, f64::from(round)), flag(2, true, 100.0)],
            Some(&rules),
        );
    }
    let event = view.advance(&rules, &unknown, 0).unwrap();
    assert!(event.starts_with("event: put\n"), "{event}");
    let mut client = Client::default();
    client.read(&event);
    assert_eq!(client.0.len(), 2);
}

/// Over stores that are not there: a stream needs none.
fn state() -> ApiState {
    let nowhere = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/nothing");
    let nowhere = nowhere.unwrap();
    ApiState::new(nowhere, clickhouse::Client::default(), Policy::default())
}

fn open(
    rules: &watch::Sender<Option<Arc<ProjectRules>>>,
    state: &ApiState,
) -> axum::body::BodyDataStream {
    let device = Device {
        device_id: "d".to_owned(),
        update_id: Some(Uuid::from_u128(7).to_string()),
        ..Device::default()
    };
    body(device, ProjectId(1), rules.subscribe(), state).into_data_stream()
}

fn published(flags: &[Arc<Flag>]) -> watch::Sender<Option<Arc<ProjectRules>>> {
    watch::Sender::new(Some(Arc::new(compile(flags, None))))
}

#[tokio::test]
async fn a_stream_puts_at_once_and_ends_when_it_is_closed() {
    let rules = published(&[flag(1, true, 100.0)]);
    let state = state();
    let mut stream = open(&rules, &state);
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"retry: 5000\nevent: put\ndata: {\"flags\":{\"flag-1\":"));
    state.flags.close();
    assert!(stream.next().await.is_none());
    assert!(open(&rules, &state).next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_with_its_project() {
    let rules = published(&[]);
    let mut stream = open(&rules, &state());
    stream.next().await.unwrap().unwrap();
    drop(rules);
    assert!(stream.next().await.is_none());
}

/// Time is simulated: it passes when nothing else can happen.
#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_kept_alive_every_15_s() {
    let rules = published(&[]);
    let mut stream = open(&rules, &state());
    stream.next().await.unwrap().unwrap();
    for _ in 0..3 {
        let before = tokio::time::Instant::now();
        assert_eq!(stream.next().await.unwrap().unwrap(), &b":\n\n"[..]);
        assert_eq!(before.elapsed(), KEEP_ALIVE);
        assert_eq!(KEEP_ALIVE, Duration::from_secs(15));
    }
}

/// People edit all the time, and nothing of it concerns this device.
#[tokio::test(start_paused = true)]
async fn a_stream_is_kept_alive_however_often_others_hear_something() {
    let rules = published(&[flag(1, true, 100.0)]);
    let mut stream = open(&rules, &state());
    stream.next().await.unwrap().unwrap();
    let before = tokio::time::Instant::now();
    let edits = async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let previous = rules.borrow().clone().unwrap();
            let same = compile(&[flag(1, true, 100.0)], Some(&previous));
            rules.send_replace(Some(same.into()));
        }
    };
    let frame = tokio::select! {
        frame = stream.next() => frame.unwrap().unwrap(),
        () = edits => unreachable!("people never stop"),
        () = tokio::time::sleep(KEEP_ALIVE * 2) => panic!("nothing was sent"),
    };
    assert_eq!(frame, &b":\n\n"[..]);
    assert!(before.elapsed() <= KEEP_ALIVE + Duration::from_millis(200));
}

/// Deleted and made anew within one gathering: for a device nothing happened.
#[test]
fn a_flag_that_is_made_anew_and_gives_the_same_is_no_news() {
    let before = compile(&[flag(1, true, 100.0)], None);
    let mut view = View::open(device("d"), &before, &unknown, 0);
    let mut anew = Flag::clone(&flag(1, true, 100.0));
    anew.id = 9;
    anew.variations[0].id = 9;
    if let RuleConfig::Rollout(rollout) = &mut anew.rules[0].config {
        rollout.slices[0].variation_id = Some(9);
    }
    let after = compile(&[anew.into()], Some(&before));
    assert_eq!(view.advance(&after, &unknown, 0), None);
}

/// The type of a flag never changes, but a flag of another type may take its key.
#[test]
fn a_flag_of_another_type_in_its_place_is_a_patch() {
    let before = compile(&[flag(1, true, 100.0)], None);
    let mut view = View::open(device("d"), &before, &unknown, 0);
    let mut other = Flag::clone(&flag(1, true, 100.0));
    other.id = 9;
    other.flag_type = FlagType::String;
    other.default_value = json!("a");
    other.variations.clear();
    other.rules.clear();
    let after = compile(&[other.into()], Some(&before));
    assert_eq!(
        view.advance(&after, &unknown, 0).unwrap(),
        "event: patch\ndata: {\"type\":\"patch\",\"key\":\"flag-1\",\
         \"flag\":{\"reason\":\"DEFAULT\",\"value\":\"a\",\"variant\":null}}\n\n"
    );
}

/// 500 devices read at their own pace while a flag changes 100 times.
#[tokio::test]
async fn every_one_of_many_streams_ends_on_the_last_state() {
    let rules = published(&[flag(1, true, 0.0)]);
    let state = state();
    let mut devices: Vec<_> = (0..500)
        .map(|_| (open(&rules, &state), Client::default()))
        .collect();
    for round in 1..=100_u32 {
        let previous = rules.borrow().clone().unwrap();
        let percent = if round == 100 {
            100.0
        } else {
            f64::from(round % 7)
        };
        rules.send_replace(Some(
            compile(&[flag(1, true, percent)], Some(&previous)).into(),
        ));
        for (index, (stream, client)) in devices.iter_mut().enumerate() {
            // The pace: from every change down to every fiftieth.
            if round.is_multiple_of(index as u32 % 50 + 1) {
                read_ready(stream, client);
            }
        }
    }
    for (stream, client) in &mut devices {
        read_ready(stream, client);
        assert_eq!(client.0["flag-1"]["value"], json!(true));
    }
}

/// Reads what is there, without waiting.
fn read_ready(stream: &mut axum::body::BodyDataStream, client: &mut Client) {
    use futures_util::FutureExt as _;
    // The runtime would make a task that never waits yield.
    while let Some(frame) = tokio::task::unconstrained(stream.next()).now_or_never() {
        client.read(std::str::from_utf8(&frame.unwrap().unwrap()).unwrap());
    }
}

/// A flag for devices that have their update for less than two days.
fn fresh() -> Arc<Flag> {
    let config = json!({"matchBy": "updated_since", "withinDays": 2});
    let mut flag = Flag::clone(&flag(1, true, 0.0));
    flag.rules[0].config = RuleConfig::parse("ota_update", &config, &json!(true)).unwrap();
    Arc::new(flag)
}

const DAY_US: i64 = 86_400_000_000;

#[test]
fn an_age_is_told_once_it_is_known_and_when_it_ends() {
    let rules = compile(&[fresh(), flag(2, true, 100.0)], None);
    let mut client = Client::default();
    let asked = || Some(Age::Asked);
    let known = || Some(Age::Since(0));
    let mut view = View::open(device("d"), &rules, &asked, DAY_US);
    client.read(&view.put());
    assert!(view.awaits_age() && view.ages());
    assert_eq!(client.0["flag-1"]["value"], json!(false));
    assert_eq!(view.advance(&rules, &asked, DAY_US), None);
    for (now_us, value) in [(DAY_US, true), (3 * DAY_US, false)] {
        let event = view.advance(&rules, &known, now_us).unwrap();
        assert!(event.starts_with("event: patch\n"), "{event}");
        client.read(&event);
        assert_eq!(client.0["flag-1"]["value"], json!(value));
        assert!(!view.awaits_age());
        assert_eq!(view.advance(&rules, &known, now_us), None);
    }
}

#[test]
fn flags_that_do_not_ask_for_an_age_ask_nobody() {
    let rules = compile(&[flag(2, true, 100.0)], None);
    let nobody = || panic!("asked for an age");
    let mut view = View::open(device("d"), &rules, &nobody, 0);
    assert_eq!(view.advance(&rules, &nobody, 0), None);
    assert!(!view.ages());
}

/// Time is simulated, and the clock goes with it: a device leaves the window
/// though nobody writes anything.
#[tokio::test(start_paused = true)]
async fn days_move_on_without_a_write() {
    let began = tokio::time::Instant::now();
    let clock = Clock::from_fn(move || {
        chrono::DateTime::UNIX_EPOCH + began.elapsed() + chrono::TimeDelta::days(2)
            - chrono::TimeDelta::seconds(20)
    });
    let state = state().with_clock(clock);
    let running = super::Running::new(ProjectId(1), Some(Uuid::from_u128(7)), "d").unwrap();
    state.flags.ages().learn_for_tests(running, 0);
    let rules = published(&[fresh()]);
    let mut stream = open(&rules, &state);
    let mut client = Client::default();
    let mut values = Vec::new();
    for _ in 0..4 {
        let frame = stream.next().await.unwrap().unwrap();
        client.read(std::str::from_utf8(&frame).unwrap());
        values.push(client.0["flag-1"]["value"].clone());
    }
    // At once, after 15 s, after 30 s and after 45 s.
    assert_eq!(values, [true, true, false, false].map(Value::from));
}
