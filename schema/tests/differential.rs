//! The decoder of health bodies against the rules told plainly: the same
//! property as the fuzz target's, over bodies that are nearly right.

mod oracle;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

const RECORDED: &str = include_str!("../fixtures/sdk-health-bodies.jsonl");

/// Values that some rule of telemetry.md §2.5 is about.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3.0..3.0).prop_map(|f: f64| json!((f * 8.0).round() / 8.0)),
        "[a\\\\\"\0é😀]{0,6}".prop_map(Value::from),
        prop_oneof![Just("12.5"), Just("NaN"), Just("-1"), Just("\\u0000")].prop_map(Value::from),
        (200_usize..40_000).prop_map(|n| json!("é".repeat(n))),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec(("[ab\0]{0,2}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_event() -> impl Strategy<Value = Value> {
    let kinds = [
        "app_launch",
        "js_error",
        "crash",
        "custom",
        "perf_sample",
        "x",
    ];
    let fields = [
        "count",
        "name",
        "message",
        "flagStates",
        "stackTrace",
        "errorName",
        "componentStack",
        "isFatal",
        "tags",
    ];
    let field = (proptest::sample::select(fields.to_vec()), any_value());
    let plain = (any::<bool>(), any_value());
    (
        proptest::sample::select(kinds.to_vec()),
        proptest::collection::vec(field, 0..4),
        plain,
    )
        .prop_map(|(kind, fields, (sample, duration))| {
            let mut event = json!({"type": kind});
            if sample {
                event["name"] = json!("startup_cold");
                event["tags"] = json!({"duration_ms": duration});
            }
            for (name, value) in fields {
                event[name] = value;
            }
            event
        })
}

fn any_body() -> impl Strategy<Value = Value> {
    let fields = [
        "projectSlug",
        "deviceId",
        "platform",
        "runtimeVersion",
        "channel",
        "updateUuid",
        "events",
    ];
    let odd = (proptest::sample::select(fields.to_vec()), any_value());
    (
        proptest::collection::vec(any_event(), 0..5),
        proptest::collection::vec(odd, 0..2),
    )
        .prop_map(|(events, odd)| {
            let mut body = json!({"projectSlug": "p", "deviceId": "d", "platform": "ios",
                "runtimeVersion": "1", "events": events});
            for (name, value) in odd {
                body[name] = value;
            }
            body
        })
}

fn any_report() -> impl Strategy<Value = Value> {
    let entry_fields = ["flagKey", "variationValue", "count", "channel"];
    let context_fields = ["targetingKey", "kind", "name", "attributes"];
    let some = |fields: [&'static str; 4]| {
        let field = (proptest::sample::select(fields.to_vec()), any_value());
        proptest::collection::vec(field, 0..4)
    };
    let entry = some(entry_fields).prop_map(|fields| with_fields(json!({"flagKey": "f"}), fields));
    let context =
        some(context_fields).prop_map(|fields| with_fields(json!({"targetingKey": "k"}), fields));
    (
        proptest::collection::vec(entry, 0..4),
        proptest::option::of(prop_oneof![3 => context, 1 => any_value()]),
    )
        .prop_map(|(evaluations, context)| {
            let mut report = json!({"evaluations": evaluations});
            if let Some(context) = context {
                report["context"] = context;
            }
            report
        })
}

fn with_fields(mut object: Value, fields: Vec<(&str, Value)>) -> Value {
    for (name, value) in fields {
        object[name] = value;
    }
    object
}

proptest! {
    #[test]
    fn reports_that_are_nearly_right(report in any_report()) {
        oracle::evaluations::check(report.to_string().as_bytes());
    }

    #[test]
    fn bodies_that_are_nearly_right(body in any_body()) {
        oracle::check(body.to_string().as_bytes());
    }

    #[test]
    fn recorded_bodies_that_were_harmed(
        line in 0..458_usize, at in any::<Index>(), with in any::<[u8; 2]>(), cut in any::<bool>(),
    ) {
        let mut body = RECORDED.lines().nth(line).expect("458 lines").as_bytes().to_vec();
        let at = at.index(body.len());
        if cut { body.truncate(at) } else { body.splice(at..=at, with).for_each(drop) }
        oracle::check(&body);
    }
}

#[test]
fn recorded_bodies() {
    RECORDED
        .lines()
        .for_each(|line| oracle::check(line.as_bytes()));
}

/// What the fuzzer has found, and what nobody writes by chance.
#[test]
fn bodies_that_were_trouble_once() {
    let with = |event: &str| {
        format!(
            r#"{{"projectSlug":"p","deviceId":"d","platform":"ios","runtimeVersion":"1","events":[{event}]}}"#
        )
    };
    for event in [
        // A text that looks like an escaped NUL is not one.
        r#"{"type":"crash","flagStates":{"a":"\\u0000","b":"\u0000"}}"#,
        r#"{"type":"perf_sample","name":"a\u0000b","tags":{"duration_ms":1}}"#,
        r#"{"type":"crash","flagStates":{"a":-0,"b":-0.0,"c":0.0}}"#,
        // simd-json takes what follows these numbers for nothing.
        "{\"type\":\"crash\",\"count\":5\0\0 0}",
        "{\"type\":\"crash\",\"isFatal\":true\0,}",
        r#"{"type":"crash","count":1234567890123456789x}"#,
        r#"{"type":"crash","count":12345678901234567890123x}"#,
        r#"{"type":"crash","count":-1234567890123456789x}"#,
        r#"{"type":"crash","count":1.23456789012345678901x}"#,
        r#"{"type":"crash","count":1.23456789012345678901}"#,
    ] {
        oracle::check(with(event).as_bytes());
    }
}
