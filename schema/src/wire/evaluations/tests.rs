//! The rules of telemetry.md §3.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn refusal(body: &Json) -> Refusal {
    decode(body.to_string().as_bytes(), &mut Scratch::default())
        .err()
        .expect("refused")
}

fn read<R>(body: &Json, read: impl FnOnce(&EvaluationBatch<'_>) -> R) -> R {
    let mut scratch = Scratch::default();
    read(&decode(body.to_string().as_bytes(), &mut scratch).expect("accepted"))
}

fn count_of(count: &Json) -> Option<u32> {
    let body = json!({"evaluations": [{"flagKey": "f", "count": count}]});
    read(&body, |batch| {
        batch.evaluations().next().map(Evaluation::count)
    })
}

#[test]
fn a_report_is_read_whole() {
    let body = json!({
        "evaluations": [
            {"flagKey": "new-cart", "variationValue": {"a": [1, true]}, "count": 3, "channel": "beta"},
            {"flagKey": "other"},
        ],
        "context": {"targetingKey": "k", "name": "Kim", "attributes": {"plan": "pro"}},
    });
    read(&body, |batch| {
        let read: Vec<_> = batch
            .evaluations()
            .map(|e| (e.flag_key(), e.variation_json(), e.count(), e.channel()))
            .collect();
        assert_eq!(
            read,
            [
                (
                    "new-cart".into(),
                    r#"{"a":[1,true]}"#.to_owned(),
                    3,
                    "beta".into()
                ),
                ("other".into(), "null".to_owned(), 1, "".into()),
            ]
        );
        let context = batch.context().unwrap();
        assert_eq!(
            (
                &*context.targeting_key(),
                &*context.kind(),
                context.name().as_deref()
            ),
            ("k", "user", Some("Kim"))
        );
        assert_eq!(context.attributes_json(), r#"{"plan":"pro"}"#);
    });
}

#[test]
fn counts_are_rounded_clamped_and_skipped() {
    assert_eq!(count_of(&Json::Null), Some(1));
    assert_eq!(count_of(&json!(1.5)), Some(2));
    assert_eq!(count_of(&json!(u64::MAX)), Some(MAX_COUNT));
    for nothing in [json!(0), json!(-3), json!(i64::MIN)] {
        assert_eq!(count_of(&nothing), None, "{nothing}");
    }
}

#[test]
fn what_is_missing_or_of_another_type_is_named() {
    assert_eq!(refusal(&json!({})), Refusal::Missing("evaluations"));
    let missing = json!({"evaluations": [{"count": 1}]});
    assert_eq!(refusal(&missing), Refusal::Missing("evaluations[].flagKey"));
    let no_key = json!({"evaluations": [], "context": {"kind": "user"}});
    assert_eq!(refusal(&no_key), Refusal::Missing("context.targetingKey"));
    for (body, name) in [
        (json!([]), "the body"),
        (json!({"evaluations": {}}), "evaluations"),
        (json!({"evaluations": [1]}), "evaluations[]"),
        (
            json!({"evaluations": [{"flagKey": 1}]}),
            "evaluations[].flagKey",
        ),
        (
            json!({"evaluations": [{"flagKey": "f", "count": "1"}]}),
            "evaluations[].count",
        ),
        (json!({"evaluations": [], "context": 1}), "context"),
    ] {
        assert!(
            matches!(refusal(&body), Refusal::WrongType { field, .. } if field == name),
            "{body}"
        );
    }
}

#[test]
fn an_empty_key_is_no_context_and_odd_fields_fall_back() {
    let ignored = json!({"evaluations": [], "context": {"targetingKey": ""}});
    assert!(read(&ignored, |batch| batch.is_empty()));
    let odd = json!({"evaluations": [], "context": {
        "targetingKey": "k", "kind": null, "name": 7, "attributes": [1]}});
    read(&odd, |batch| {
        let context = batch.context().unwrap();
        assert!(!batch.is_empty());
        assert_eq!(&*context.kind(), "user");
        assert_eq!(context.name().as_deref(), Some("7"));
        assert_eq!(context.attributes_json(), "{}");
    });
}

#[test]
fn entries_past_the_limit_are_dropped_and_counted() {
    let entries = vec![json!({"flagKey": "f"}); MAX_EVALUATIONS + 5];
    read(&json!({"evaluations": entries}), |batch| {
        assert_eq!(batch.kept() as usize, MAX_EVALUATIONS);
        assert_eq!(batch.drops().of(Drop::OverLimit), 5);
        assert_eq!(batch.drops().total(), 5);
    });
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_and_no_panic(body in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        r#"\{"evaluations":\[(\{"flagKey":"[a-z]*","count":-?[0-9e.]{0,6}\},?){0,4}\](,"context":\{"targetingKey":".?"\})?\}"#
            .prop_map(String::into_bytes),
    ]) {
        let mut scratch = Scratch::default();
        if let Ok(batch) = decode(&body, &mut scratch) {
            prop_assert!(batch.evaluations().all(|e| (1..=MAX_COUNT).contains(&e.count())));
        }
    }
}
