//! The validation matrix of telemetry.md §2.5, row by row, and the recorded bodies.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

const RECORDED: &str = include_str!("../../../fixtures/sdk-health-bodies.jsonl");

fn with_event(event: &Json) -> String {
    envelope(&json!([event])).to_string()
}

fn envelope(events: &Json) -> Json {
    json!({"projectSlug": "p", "deviceId": "d", "platform": "ios", "runtimeVersion": "1", "events": events})
}

fn refusal(body: impl AsRef<[u8]>) -> Refusal {
    decode(body.as_ref(), &mut Scratch::default())
        .err()
        .expect("refused")
}

fn first<R>(body: &str, read: impl FnOnce(HealthEvent<'_>) -> R) -> R {
    let mut scratch = Scratch::default();
    let batch = decode(body.as_bytes(), &mut scratch).expect("accepted");
    let event = batch.events().next().expect("an event is kept");
    read(event)
}

fn first_of<R>(event: &Json, read: impl FnOnce(HealthEvent<'_>) -> R) -> R {
    first(&with_event(event), read)
}

fn dropped_for(event: &Json, reason: Drop) {
    // Beside a known event, so that a batch of unknown types is not refused.
    let mut scratch = Scratch::default();
    let body = envelope(&json!([{"type": "crash"}, event])).to_string();
    let batch = decode(body.as_bytes(), &mut scratch).expect("accepted");
    assert_eq!(
        (
            batch.kept(),
            batch.drops().of(reason),
            batch.drops().total()
        ),
        (1, 1, 1),
        "{event}"
    );
}

#[test]
fn recorded_bodies_pass_whole_and_count_as_an_independent_reader_counts() {
    let mut ours = std::collections::BTreeMap::<&str, u64>::new();
    let mut theirs = std::collections::BTreeMap::<String, u64>::new();
    let mut scratch = Scratch::default();
    for line in RECORDED.lines() {
        let batch = decode(line.as_bytes(), &mut scratch).unwrap();
        assert_eq!(batch.drops().total(), 0);
        assert_eq!(batch.project(), "my-app");
        for event in batch.events() {
            *ours.entry(event.kind().as_str()).or_default() += u64::from(event.count());
        }
        let json: Json = serde_json::from_str(line).unwrap();
        for event in json["events"].as_array().unwrap() {
            let kind = event["type"].as_str().unwrap().to_owned();
            *theirs.entry(kind).or_default() += event["count"].as_u64().unwrap();
        }
    }
    let ours: Vec<_> = ours.into_iter().map(|(k, n)| (k.to_owned(), n)).collect();
    assert_eq!(ours, theirs.into_iter().collect::<Vec<_>>());
    assert_eq!(RECORDED.lines().count(), 458);
}

#[test]
fn what_is_not_json_is_refused() {
    for body in [
        "",
        "{",
        "{}x",
        "nul",
        "[1,]",
        "\u{1}",
        r#"{"a":"\x"}"#,
        "{\"a\":\"\u{1}\"}",
    ] {
        assert_eq!(refusal(body), Refusal::NotJson, "{body:?}");
    }
    assert_eq!(refusal(b"{\"a\":\"\xff\"}"), Refusal::NotJson);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert_eq!(
        refusal(&deep),
        Refusal::WrongType {
            field: "the body",
            expected: "an object"
        }
    );
    assert_eq!(refusal("[".repeat(100_000)), Refusal::NotJson);
}

#[test]
fn a_deep_value_inside_a_field_is_harmless() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let body = with_event(&json!({"type": "custom", "name": "NAME", "tags": {"a": 1}}))
        .replace("\"NAME\"", &deep);
    first(&body, |event| {
        assert_eq!(event.name().len(), MAX_NAME_BYTES)
    });
}

#[test]
fn required_fields_are_named_when_they_are_missing_null_or_of_another_type() {
    for name in [
        "projectSlug",
        "deviceId",
        "platform",
        "runtimeVersion",
        "events",
    ] {
        let mut body = envelope(&json!([]));
        body[name] = json!(true);
        assert!(
            matches!(refusal(body.to_string()), Refusal::WrongType { field, .. } if field == name)
        );
        body[name] = Json::Null;
        assert_eq!(refusal(body.to_string()), Refusal::Missing(name));
        body.as_object_mut().unwrap().remove(name);
        assert_eq!(refusal(body.to_string()), Refusal::Missing(name));
    }
    assert_eq!(
        refusal(with_event(&json!({}))),
        Refusal::Missing("events[].type")
    );
    assert!(matches!(
        refusal(with_event(&json!({"type": 1}))),
        Refusal::WrongType { .. }
    ));
    assert!(matches!(
        refusal(with_event(&json!(7))),
        Refusal::WrongType { .. }
    ));
    assert!(matches!(refusal("[]"), Refusal::WrongType { .. }));
}

#[test]
fn an_empty_batch_passes() {
    let mut scratch = Scratch::default();
    let body = envelope(&json!([])).to_string();
    assert_eq!(decode(body.as_bytes(), &mut scratch).unwrap().kept(), 0);
}

#[test]
fn optional_envelope_fields_have_their_defaults() {
    for channel in [json!(null), json!("")] {
        let mut body = envelope(&json!([]));
        body["channel"] = channel;
        let body = body.to_string();
        let mut scratch = Scratch::default();
        let batch = decode(body.as_bytes(), &mut scratch).unwrap();
        assert_eq!((&*batch.channel(), &*batch.update_uuid()), ("default", ""));
    }
}

#[test]
fn a_bom_and_lone_surrogates_are_repaired() {
    let body = with_event(&json!({"type": "crash", "message": "MSG"})).replace("MSG", "a\\ud83d");
    first(&body, |event| assert_eq!(event.message(), "a\u{fffd}"));
    first(&format!("\u{feff}{body}"), |event| {
        assert_eq!(event.message(), "a\u{fffd}")
    });
}

#[test]
fn the_last_of_duplicate_keys_wins() {
    let body = with_event(&json!({"type": "crash"})).replace("\"crash\"", "1,\"type\":\"custom\"");
    first(&body, |event| assert_eq!(event.kind(), EventType::Custom));
    let body =
        with_event(&json!({"type": "custom"})).replace("\"custom\"", "\"custom\",\"type\":null");
    assert_eq!(refusal(body), Refusal::Missing("events[].type"));
}

#[test]
fn counts_are_rounded_clamped_and_dropped() {
    for (sent, expected) in [
        ("null", 1),
        ("1.5", 2),
        ("1e3", 1_000),
        ("2.0", 2),
        ("0.5", 1),
        ("2147483648", 1_000_000),
        ("1e300", 1_000_000),
        ("99999999999999999999999", 1_000_000),
    ] {
        let body = with_event(&json!({"type": "custom", "count": "N"})).replace("\"N\"", sent);
        first(&body, |event| assert_eq!(event.count(), expected, "{sent}"));
    }
    first_of(&json!({"type": "custom"}), |event| {
        assert_eq!(event.count(), 1)
    });
    for sent in [json!(0), json!(-5), json!(0.4), json!(i64::MIN)] {
        dropped_for(
            &json!({"type": "custom", "count": sent}),
            Drop::NonPositiveCount,
        );
    }
    for sent in [json!("1"), json!(true), json!({})] {
        assert!(matches!(
            refusal(with_event(&json!({"type": "custom", "count": sent}))),
            Refusal::WrongType { .. }
        ));
    }
}

#[test]
fn texts_of_other_types_become_text() {
    let event = json!({"type": "crash", "message": 5, "name": true, "stackTrace": {"a": [1, "b"]}});
    first_of(&event, |event| {
        assert_eq!((&*event.message(), &*event.name()), ("5", "true"));
        assert_eq!(event.stack_trace(), r#"{"a":[1,"b"]}"#);
        assert_eq!(event.error_name(), "");
    });
}

#[test]
fn is_fatal_is_a_boolean_or_absent() {
    first_of(&json!({"type": "crash", "isFatal": true}), |event| {
        assert!(event.is_fatal())
    });
    first_of(&json!({"type": "crash", "isFatal": null}), |event| {
        assert!(!event.is_fatal())
    });
    assert!(matches!(
        refusal(with_event(&json!({"type": "crash", "isFatal": 1}))),
        Refusal::WrongType { .. }
    ));
}

#[test]
fn fields_that_must_be_objects_are_left_out_when_they_are_not() {
    let event = json!({"type": "crash", "flagStates": [1], "tags": "x"});
    first_of(&event, |event| {
        assert!(event.flag_states().is_empty() && event.tags().is_empty());
    });
}

#[test]
fn unknown_types_are_dropped_and_a_batch_of_nothing_else_is_refused() {
    dropped_for(&json!({"type": "nebula"}), Drop::UnknownType);
    assert_eq!(
        refusal(with_event(&json!({"type": "nebula"}))),
        Refusal::NoKnownEvent
    );
}

#[test]
fn samples_need_a_name_and_a_duration() {
    let sample = |name: Json, duration: Json| json!({"type": "perf_sample", "name": name, "tags": {"duration_ms": duration}});
    for (sent, expected) in [
        (json!("812"), 812.0),
        (json!(1.5), 1.5),
        (json!("0"), 0.0),
        (json!(86_400_000), 86_400_000.0),
    ] {
        first_of(&sample(json!("startup_cold"), sent), |event| {
            assert!((event.duration_ms() - expected).abs() < f64::EPSILON);
        });
    }
    for name in [
        json!(null),
        json!(""),
        json!("a b"),
        json!("x".repeat(65)),
        json!("é"),
    ] {
        dropped_for(&sample(name, json!(1)), Drop::SampleName);
    }
    for duration in [
        json!(null),
        json!("NaN"),
        json!("inf"),
        json!(-1),
        json!("x"),
        json!(86_400_001),
        json!(true),
    ] {
        dropped_for(&sample(json!("m"), duration), Drop::SampleDuration);
    }
    dropped_for(
        &json!({"type": "perf_sample", "name": "m", "tags": 1}),
        Drop::SampleDuration,
    );
}

#[test]
fn nuls_are_removed() {
    first_of(&json!({"type": "crash", "message": "a\0b"}), |event| {
        assert_eq!(event.message(), "ab")
    });
}

#[test]
fn only_the_first_thousand_events_are_looked_at() {
    let events = vec![json!({"type": "custom"}); 1_500];
    let body = envelope(&Json::from(events)).to_string();
    let mut scratch = Scratch::default();
    let batch = decode(body.as_bytes(), &mut scratch).unwrap();
    assert_eq!(
        (batch.kept(), batch.drops().of(Drop::OverLimit)),
        (1_000, 500)
    );
}

#[test]
fn sizes_are_cut_and_not_refused() {
    let long = "é".repeat(40_000);
    let event = json!({"type": "crash", "message": long, "name": long, "errorName": long,
        "stackTrace": long, "componentStack": long});
    first_of(&event, |event| {
        assert_eq!((event.message().len(), event.name().len()), (8 * 1024, 256));
        assert_eq!(
            (event.stack_trace().len(), event.component_stack().len()),
            (32 * 1024, 16 * 1024)
        );
        assert_eq!(event.error_name().len(), 256);
    });
    let tags: Json = (0..80)
        .map(|i| (format!("{i:02}{long}"), json!(long)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    first_of(&json!({"type": "crash", "tags": tags}), |event| {
        let tags = event.tags();
        assert_eq!(tags.len(), 50);
        assert!(tags.iter().all(|(k, v)| k.len() == 128 && v.len() == 1024));
    });
}

#[test]
fn flag_states_are_canonical() {
    let event = with_event(&json!({"type": "crash", "flagStates": "F"}));
    let states = |json: &str| first(&event.replace("\"F\"", json), |event| event.flag_states());
    let one = states(r#"{"b": true, "a": {"x": [1, 2.5, "t"]}, "b": "last"}"#);
    let pairs = [("a", r#"{"x":[1,2.5,"t"]}"#), ("b", "\"last\"")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(one.pairs(), pairs);
    assert_eq!(
        one.id(),
        states(r#"{"a":{"x":[1,2.5,"t"]},"b":"last"}"#).id()
    );
    assert_ne!(
        one.id(),
        states(r#"{"a":{"x":[1,2.5,"t"]},"b":"other"}"#).id()
    );
    assert_eq!(states("{}").id(), 0);
    let long = states(&format!(r#"{{"a":"{}"}}"#, "x".repeat(2_000)));
    assert!(long.pairs()[0].1.starts_with("\"sha256:") && long.pairs()[0].1.len() == 64 + 9);
    let many: Json = (0..300)
        .map(|i| (format!("{i:03}"), json!(i)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(states(&many.to_string()).pairs().len(), 200);
    let large: Json = (0..100)
        .map(|i| (format!("{i:03}"), json!("x".repeat(1_000))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let size: usize = states(&large.to_string())
        .pairs()
        .iter()
        .map(|(k, v)| k.len() + v.len())
        .sum();
    assert!(size <= 32 * 1024 && size > 30 * 1024);
}

proptest! {
    #[test]
    fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &mut Scratch::default()).map(|b| b.kept());
    }

    #[test]
    fn a_harmed_body_never_panics(line in 0..458_usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = RECORDED.lines().nth(line).unwrap().as_bytes().to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let mut scratch = Scratch::default();
        if let Ok(batch) = decode(&body, &mut scratch) {
            for event in batch.events() {
                let _ = (event.flag_states().id(), event.tags(), event.message(), event.stack_trace());
            }
        }
    }
}
