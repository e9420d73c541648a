//! Every spelling of `ruleConfig` that clients send (flags.md §4).

use serde_json::{Value, json};

use super::{checkout, plain, user, with_rule};
use crate::flags::eval::{ChannelFlag, Context, Device, RuleConfig};

fn canonical(rule_type: &str, config: &Value, value: &Value) -> Result<Value, String> {
    let flag = checkout();
    RuleConfig::parse(rule_type, config, value)
        .and_then(|config| config.resolve(flag.flag_type, &flag.variations))
        .map(|config| config.canonical())
        .map_err(|invalid| invalid.to_string())
}

#[test]
fn every_spelling_becomes_the_canonical_one() {
    let both = json!({"rollout": [
        {"variationId": 1, "variantValue": true, "weight": 25},
        {"variationId": 2, "variantValue": false, "weight": 75},
    ]});
    let version = json!({"matchBy": "runtime_version", "version": "1.2", "operator": "semver_lt",
        "value": "1.2", "comparison": "lt"});
    for (rule_type, given, stored) in [
        ("force", json!({"anything": 1}), json!({})),
        (
            "user_list",
            json!({"userIds": "a, b ,,"}),
            json!({"userIds": ["a", "b"]}),
        ),
        (
            "user_list",
            json!({"users": [" a ", ""]}),
            json!({"userIds": ["a"]}),
        ),
        (
            "percentage_rollout",
            json!({"rollout": [{"variationId": 1, "weight": 25}, {"variationId": 2, "weight": 75.0}]}),
            both.clone(),
        ),
        (
            "percentage_rollout",
            json!({"rollout": [{"variantValue": "true", "weight": 25}, {"variantValue": false, "weight": 75}]}),
            both.clone(),
        ),
        ("percentage_rollout", both.clone(), both),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a", "operator": "in", "valuesJson": [1, true, "x"]}]}),
            json!({"conditions": [{"attribute": "a", "operator": "in", "values": ["1", "true", "x"]}]}),
        ),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a.b", "operator": "eq", "value": 1.0}]}),
            json!({"conditions": [{"attribute": "a.b", "operator": "eq", "values": ["1"]}]}),
        ),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a", "operator": "exists"}]}),
            json!({"conditions": [{"attribute": "a", "operator": "exists", "values": []}]}),
        ),
        (
            "segment",
            json!({"segmentKey": " s "}),
            json!({"segmentKey": "s"}),
        ),
        (
            "ota_update",
            json!({"matchBy": "branch", "branch": "main"}),
            json!({"matchBy": "branch", "branch": "main", "value": "main"}),
        ),
        (
            "ota_update",
            json!({"matchBy": "branch", "value": "main"}),
            json!({"matchBy": "branch", "branch": "main", "value": "main"}),
        ),
        (
            "ota_update",
            json!({"matchBy": "runtime_version", "version": "1.2", "operator": "semver_lt"}),
            version.clone(),
        ),
        (
            "ota_update",
            json!({"matchBy": "runtime_version", "value": "1.2", "comparison": "lt"}),
            version.clone(),
        ),
        (
            "ota_update",
            json!({"matchBy": "updated_since", "withinDays": 3}),
            json!({"matchBy": "updated_since", "withinDays": 3, "value": "3"}),
        ),
        (
            "ota_update",
            json!({"matchBy": "updated_since", "value": "3"}),
            json!({"matchBy": "updated_since", "withinDays": 3, "value": "3"}),
        ),
        (
            "ota_update",
            json!({"matchBy": "updated_since", "value": "2026-02-11T08:15:30Z"}),
            json!({"matchBy": "updated_since", "value": "2026-02-11T08:15:30Z"}),
        ),
    ] {
        assert_eq!(
            canonical(rule_type, &given, &json!(true)),
            Ok(stored),
            "{rule_type} {given}"
        );
    }
}

#[test]
fn the_canonical_form_is_accepted_again_unchanged() {
    for (rule_type, given) in [
        ("user_list", json!({"userIds": ["a"]})),
        ("percentage_rollout", json!({"percentage": 25})),
        (
            "percentage_rollout",
            json!({"rollout": [{"variationId": 1, "weight": 100}], "bucketing": "v2", "salt": "s"}),
        ),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a", "operator": "eq", "values": ["1"]}]}),
        ),
        (
            "ota_update",
            json!({"matchBy": "runtime_version", "version": "1"}),
        ),
        (
            "ota_update",
            json!({"matchBy": "updated_since", "withinDays": 3}),
        ),
    ] {
        let once = canonical(rule_type, &given, &json!(true)).unwrap();
        assert_eq!(
            canonical(rule_type, &once, &json!(true)),
            Ok(once),
            "{given}"
        );
    }
}

#[test]
fn bad_configurations_are_refused() {
    let weights = |a: f64, b: f64| json!({"rollout": [{"variationId": 1, "weight": a}, {"variationId": 2, "weight": b}]});
    for (rule_type, given) in [
        ("unknown", json!({})),
        ("user_list", json!({})),
        ("user_list", json!({"userIds": ["a,b"]})),
        ("user_list", json!({"userIds": [1]})),
        ("percentage_rollout", json!({})),
        ("percentage_rollout", json!({"rollout": []})),
        ("percentage_rollout", weights(50.0, 49.9)),
        ("percentage_rollout", weights(101.0, -1.0)),
        (
            "percentage_rollout",
            json!({"rollout": [{"variationId": 9, "weight": 100}]}),
        ),
        (
            "percentage_rollout",
            json!({"rollout": [{"variantValue": "maybe", "weight": 100}]}),
        ),
        ("percentage_rollout", json!({"rollout": [{"weight": 100}]})),
        ("percentage_rollout", json!({"percentage": 101})),
        ("percentage_rollout", json!({"percentage": "30"})),
        (
            "percentage_rollout",
            json!({"rollout": [{"variationId": 1, "weight": 100}], "bucketing": "v3"}),
        ),
        (
            "percentage_rollout",
            json!({"percentage": 1, "bucketing": "v2", "salt": 7}),
        ),
        ("attribute", json!({"conditions": []})),
        (
            "attribute",
            json!({"conditions": [{"attribute": " ", "operator": "eq", "values": ["1"]}]}),
        ),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a", "operator": "like", "values": ["1"]}]}),
        ),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a", "operator": "eq", "values": []}]}),
        ),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a", "operator": "eq", "values": "1"}]}),
        ),
        (
            "attribute",
            json!({"conditions": [{"attribute": "a", "operator": "eq", "values": [null]}]}),
        ),
        ("segment", json!({"segmentKey": " "})),
        ("ota_update", json!({"matchBy": "branch", "branch": ""})),
        (
            "ota_update",
            json!({"matchBy": "runtime_version", "version": "1", "operator": "eq"}),
        ),
        (
            "ota_update",
            json!({"matchBy": "updated_since", "withinDays": 0}),
        ),
        (
            "ota_update",
            json!({"matchBy": "updated_since", "value": "soon"}),
        ),
        ("ota_update", json!({})),
    ] {
        assert!(
            canonical(rule_type, &given, &json!(true)).is_err(),
            "{rule_type} {given}"
        );
    }
    assert!(
        canonical(
            "percentage_rollout",
            &json!({"percentage": 30}),
            &Value::Null
        )
        .is_err()
    );
    assert!(canonical("percentage_rollout", &weights(33.33, 66.66), &Value::Null).is_ok());
}

/// What an `ota_update` rule says of a device on branch `main`, runtime 1.4,
/// two days and an hour after it got its update.
fn ota(config: &Value) -> bool {
    const HOUR_US: i64 = 3_600_000_000;
    let flag = with_rule(checkout(), 0, "ota_update", config, json!(true));
    let compiled = ChannelFlag::new(flag.into(), None, &std::collections::BTreeMap::new());
    let device = Device {
        runtime_version: Some("1.4".to_owned()),
        ..user("user-1")
    };
    let context = Context {
        device: &device,
        branch: Some("main"),
        update_since_us: Some(0),
        now_us: 49 * HOUR_US,
    };
    compiled.evaluate(&context).unwrap().value == json!(true)
}

#[test]
fn ota_rules_match_in_both_dialects() {
    assert!(ota(&json!({"matchBy": "branch", "branch": "main"})));
    assert!(!ota(&json!({"matchBy": "branch", "value": "other"})));
    assert!(ota(
        &json!({"matchBy": "runtime_version", "version": "1.4.0"})
    ));
    assert!(!ota(
        &json!({"matchBy": "runtime_version", "version": "1.4", "operator": "semver_gt"})
    ));
    assert!(ota(
        &json!({"matchBy": "runtime_version", "value": "1.10", "comparison": "lt"})
    ));
    assert!(ota(&json!({"matchBy": "updated_since", "withinDays": 3})));
    assert!(!ota(&json!({"matchBy": "updated_since", "value": "2"})));
    assert!(ota(
        &json!({"matchBy": "updated_since", "value": "1970-01-01T00:00:00Z"})
    ));
    assert!(!ota(
        &json!({"matchBy": "updated_since", "value": "1970-01-01T00:00:01Z"})
    ));
    // Every whole number of days is a window, however long.
    assert!(ota(
        &json!({"matchBy": "updated_since", "withinDays": u32::MAX})
    ));
}

/// The salt is `ruleConfig.salt` or the flag key (flags.md §7.2).
#[test]
fn without_a_salt_the_flag_s_key_is_it() {
    let config = |salt: Value| {
        let given = json!({"percentage": 9, "bucketing": "v2", "salt": salt});
        let flag = with_rule(checkout(), 0, "percentage_rollout", &given, json!(true));
        ["user-2", "user-3"].map(|key| plain(&flag, &user(key)))
    };
    // Of 10,000: `new-checkout` and `user-2` are at 877, with `user-3` at 1,240.
    let keyed = ["true On SPLIT", "false Off DEFAULT"];
    for salt in [Value::Null, json!(""), json!("new-checkout")] {
        assert_eq!(config(salt), keyed);
    }
}

#[test]
fn ota_rules_do_not_match_missing_data() {
    for config in [
        json!({"matchBy": "branch", "branch": "main"}),
        json!({"matchBy": "runtime_version", "version": "0"}),
        json!({"matchBy": "updated_since", "withinDays": 9999}),
    ] {
        let flag = with_rule(checkout(), 0, "ota_update", &config, json!(true));
        assert_eq!(plain(&flag, &user("user-1")), "false Off DEFAULT");
    }
}

#[test]
fn derived_attributes_win_over_what_the_request_says() {
    let attributes = json!({"ota.branch": "spoofed", "ota.channel": "spoofed", "device_id": "spoofed",
        "ota.updated_within_days": "kept"});
    let device = super::device("user-1", attributes);
    let context = Context {
        branch: Some("main"),
        ..super::context(&device)
    };
    let text = |name: &str| match context.attribute(name) {
        crate::flags::eval::Attribute::Text(text) => text.into_owned(),
        other => format!("{other:?}"),
    };
    assert_eq!(text("ota.branch"), "main");
    assert_eq!(text("ota.channel"), "production");
    assert_eq!(text("deviceId"), "device-1");
    assert_eq!(text("device_id"), "device-1");
    assert_eq!(text("ota.updated_within_days"), "kept");
    assert_eq!(text("targetingKey"), "Absent");
}
