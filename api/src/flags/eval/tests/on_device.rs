//! A second evaluator, which knows nothing but the definitions payload and works
//! as the published on-device provider does: three rule types, everything as
//! JSON, the hash in its integer form. It must agree with the server.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{rule, variation};
use crate::flags::eval::bucket::Bucketing;
use crate::flags::eval::definitions::{Variant, render};
use crate::flags::eval::{
    ChannelFlag, Condition, Context, Device, Environment, Flag, FlagType, ReleaseLink, Rule,
    RuleConfig, Segment,
};

/// What the app gets for `key`: None where the provider does not know the flag.
fn on_device(
    definitions: &Value,
    key: &str,
    targeting_key: &str,
    attributes: &Map<String, Value>,
) -> Option<Value> {
    let flags = definitions["flags"].as_array().unwrap();
    let flag = flags.iter().find(|flag| flag["key"] == key)?;
    let rules = flag["rules"].as_array().unwrap();
    let matched = rules.iter().find_map(|rule| {
        let config = &rule["ruleConfig"];
        match rule["ruleType"].as_str().unwrap() {
            "user_list" => {
                let mut ids = config["userIds"].as_str().unwrap().split(',');
                ids.any(|id| !targeting_key.is_empty() && id.trim() == targeting_key)
                    .then(|| rule["variantValue"].clone())
            }
            "percentage_rollout" => share(flag, config, key, targeting_key),
            "attribute" => {
                let mut conditions = config["conditions"].as_array().unwrap().iter();
                conditions
                    .all(|condition| holds(condition, attributes))
                    .then(|| rule["variantValue"].clone())
            }
            _ => None,
        }
    });
    Some(matched.unwrap_or_else(|| flag["defaultValue"].clone()))
}

fn share(flag: &Value, config: &Value, key: &str, targeting_key: &str) -> Option<Value> {
    let bucket = f64::from(hash(&format!("{key}{targeting_key}")) % 100);
    let mut up_to = 0.0;
    let slice = config["rollout"].as_array().unwrap().iter().find(|slice| {
        up_to += slice["weight"].as_f64().unwrap();
        bucket < up_to
    })?;
    let variations = flag["variations"].as_array().unwrap();
    let variation = variations
        .iter()
        .find(|variation| variation["id"] == slice["variationId"]);
    Some(
        variation
            .map_or(&flag["defaultValue"], |variation| &variation["value"])
            .clone(),
    )
}

fn hash(text: &str) -> u32 {
    let mut hash = 2_166_136_261_u32;
    for unit in text.encode_utf16() {
        let product = f64::from((hash ^ u32::from(unit)) as i32) * 16_777_619.0;
        hash = product.rem_euclid(4_294_967_296.0) as u32;
    }
    hash
}

/// Comparison as a script would write it, on texts and doubles.
fn holds(condition: &Value, attributes: &Map<String, Value>) -> bool {
    let operator = condition["operator"].as_str().unwrap();
    let given = attributes
        .get(condition["attribute"].as_str().unwrap())
        .filter(|value| !value.is_null());
    let Some(given) = given else {
        return operator == "not_exists";
    };
    if operator == "exists" {
        return true;
    }
    let text = match given {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let values: Vec<_> = condition["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap())
        .collect();
    let Some(first) = values.first() else {
        return false;
    };
    let numbers = || {
        Some((
            text.trim().parse::<f64>().ok()?,
            first.trim().parse::<f64>().ok()?,
        ))
    };
    match operator {
        "eq" => text == *first,
        "neq" => text != *first,
        "in" => values.contains(&text.as_str()),
        "not_in" => !values.contains(&text.as_str()),
        "contains" => text.contains(first),
        "starts_with" => text.starts_with(first),
        "ends_with" => text.ends_with(first),
        "gt" => numbers().is_some_and(|(a, b)| a > b),
        "gte" => numbers().is_some_and(|(a, b)| a >= b),
        "lt" => numbers().is_some_and(|(a, b)| a < b),
        "lte" => numbers().is_some_and(|(a, b)| a <= b),
        "semver_gt" => versions(&text, first).is_some_and(|(a, b)| a > b),
        "semver_gte" => versions(&text, first).is_some_and(|(a, b)| a >= b),
        "semver_lt" => versions(&text, first).is_some_and(|(a, b)| a < b),
        "semver_lte" => versions(&text, first).is_some_and(|(a, b)| a <= b),
        _ => false,
    }
}

/// Both as values that compare as versions do.
fn versions<'t>(a: &'t str, b: &'t str) -> Option<(Version<'t>, Version<'t>)> {
    let version = |text: &'t str| {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (core, pre_release) = text.split_once('-').unwrap_or((text, ""));
        let core: Option<Vec<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
        let mut core = core?;
        core.resize(6, 0);
        let identifiers = pre_release.split('.').map(|part| match part.parse() {
            _ if pre_release.is_empty() => (2, 0, ""),
            Ok(number) => (0, number, ""),
            Err(_) => (1, 0, part),
        });
        Some((core, identifiers.collect()))
    };
    Some((version(a)?, version(b)?))
}

/// The core, and the identifiers of the pre-release; none is above any.
type Version<'t> = (Vec<u64>, Vec<(u8, u64, &'t str)>);

const KEYS: [&str; 4] = ["new-checkout", "theme", "pricing", "f"];
const CHANNELS: [&str; 3] = ["production", "staging", "canary"];
const WORDS: [&str; 10] = [
    "pro",
    "free",
    "18",
    "3.5",
    "x",
    "",
    "v3.5.0",
    "3.5.0-beta.2",
    "3.5.0-beta.10",
    "10.0.0",
];
const OPERATORS: [&str; 17] = [
    "eq",
    "neq",
    "in",
    "not_in",
    "contains",
    "starts_with",
    "ends_with",
    "gt",
    "gte",
    "lt",
    "lte",
    "exists",
    "not_exists",
    "semver_gt",
    "semver_gte",
    "semver_lt",
    "semver_lte",
];
const UPDATES: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];

fn any_condition() -> impl Strategy<Value = Condition> {
    let attribute = prop::sample::select(vec!["plan", "age", "note"]);
    let operator = prop::sample::select(OPERATORS.to_vec());
    let values = prop::collection::vec(prop::sample::select(WORDS.to_vec()), 1..3);
    (attribute, operator, values).prop_map(|(attribute, operator, values)| {
        Condition::parse(&json!({"attribute": attribute, "operator": operator, "values": values}))
            .unwrap()
    })
}

fn any_segments() -> impl Strategy<Value = BTreeMap<String, Segment>> {
    let segment = (any::<bool>(), prop::collection::vec(any_condition(), 0..3));
    prop::collection::vec(segment, 0..3).prop_map(|list| {
        list.into_iter()
            .zip(["a", "b", "c"])
            .map(|((match_all, conditions), key)| {
                (
                    key.to_owned(),
                    Segment {
                        key: key.to_owned(),
                        match_all,
                        conditions,
                    },
                )
            })
            .collect()
    })
}

fn any_rule_config() -> impl Strategy<Value = (&'static str, Value)> {
    let ids = prop::collection::vec(
        prop::sample::select(vec!["user-1", "user-2", "José", "🚀1"]),
        0..3,
    );
    let conditions = prop::collection::vec(any_condition(), 1..3);
    prop_oneof![
        ids.prop_map(|ids| ("user_list", json!({"userIds": ids}))),
        (0..=100_u32, any_bucketing()).prop_map(|(weight, bucketing)| (
            "percentage_rollout",
            json!({"bucketing": bucketing, "rollout": [
            {"variationId": 1, "weight": weight}, {"variationId": 2, "weight": 100 - weight}]})
        )),
        (0.0..=100.0_f64, any_bucketing()).prop_map(|(percent, bucketing)| (
            "percentage_rollout",
            json!({"bucketing": bucketing, "percentage": percent})
        )),
        conditions.prop_map(|conditions| {
            let conditions: Vec<_> = conditions
                .iter()
                .map(super::super::rule::condition_json)
                .collect();
            ("attribute", json!({"conditions": conditions}))
        }),
        prop::sample::select(vec!["a", "b", "missing"])
            .prop_map(|key| ("segment", json!({"segmentKey": key}))),
    ]
}

fn any_bucketing() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![None, Some("v1"), Some("v2")])
}

/// Even buckets are for server-side modes only (flags.md §7.2): a device
/// evaluates as if there were no such rule.
fn without_even_buckets(mut flag: Flag) -> Flag {
    flag.rules.retain(|rule| match &rule.config {
        RuleConfig::Rollout(rollout) => rollout.bucketing == Bucketing::V1,
        _ => true,
    });
    flag
}

/// A release of the flag, before or after somebody switched it.
fn any_link() -> impl Strategy<Value = ReleaseLink> {
    let update = prop::sample::select(UPDATES.to_vec());
    (update, any::<bool>(), 0..3_i64).prop_map(|(update, enabled, created_at_us)| ReleaseLink {
        updates: vec![update],
        group_id: "group".to_owned(),
        enabled,
        variation_id: None,
        created_at_us,
    })
}

fn any_flag() -> impl Strategy<Value = Flag> {
    let rules = prop::collection::vec(
        (
            any_rule_config(),
            0..3_i32,
            any::<bool>(),
            prop::option::of(prop::sample::select(CHANNELS.to_vec())),
        ),
        0..4,
    );
    let env = prop::option::of((
        prop::option::of(any::<bool>()),
        0..3_i64,
        prop::option::of(any::<bool>()),
    ));
    (
        prop::sample::select(KEYS.to_vec()),
        any::<bool>(),
        any::<bool>(),
        rules,
        env,
        prop::collection::vec(any_link(), 0..3),
    )
        .prop_map(|(key, enabled, default_value, rules, env, mut links)| {
            links.sort_by_key(|link| link.created_at_us);
            let mut flag = Flag {
                id: 1,
                key: key.to_owned(),
                flag_type: FlagType::Boolean,
                default_value: json!(default_value),
                enabled,
                enabled_changed_at_us: 1,
                variations: vec![
                    variation(1, json!(true), "On"),
                    variation(2, json!(false), "Off"),
                ],
                environments: Vec::new(),
                rules: Vec::new(),
                links,
            };
            flag.environments
                .extend(env.map(|(enabled, at_us, default_value)| Environment {
                    channel: "production".to_owned(),
                    enabled,
                    enabled_changed_at_us: at_us,
                    default_value: default_value.map(Value::from),
                }));
            for ((rule_type, config), priority, value, channel) in rules {
                let channel = channel.map(str::to_owned);
                let rule = Rule {
                    channel,
                    ..rule(&flag, priority, rule_type, &config, json!(value))
                };
                flag.rules.push(rule);
            }
            flag.rules.sort_by_key(|rule| (rule.priority, rule.id));
            flag
        })
}

fn any_device() -> impl Strategy<Value = Device> {
    let attribute = prop_oneof![
        Just(Value::Null),
        prop::sample::select(WORDS.to_vec()).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        (0..40_i64).prop_map(Value::from),
    ];
    let attributes = prop::collection::btree_map(
        prop::sample::select(vec!["plan", "age", "note"]),
        attribute,
        0..3,
    );
    let key = prop_oneof![
        prop::sample::select(vec!["user-1", "user-2", "José", "🚀1"]).prop_map(str::to_owned),
        ".{0,12}",
    ];
    let channel = prop::option::of(prop::sample::select(CHANNELS.to_vec()));
    let update = prop::option::of(prop::sample::select(UPDATES.to_vec()));
    (key, channel, update, attributes).prop_map(|(targeting_key, channel, update, attributes)| {
        Device {
            update_id: update.map(|id| id.to_string()),
            device_id: "device-1".to_owned(),
            targeting_key: Some(targeting_key),
            channel: channel.map(str::to_owned),
            attributes: attributes
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            ..Device::default()
        }
    })
}

#[test]
fn device_and_server_agree_on_10_000_pairs() {
    let mut runner = TestRunner::new(Config {
        cases: 10_000,
        ..Config::default()
    });
    let pairs = (any_flag(), any_segments(), any_device());
    runner
        .run(&pairs, |(flag, segments, device)| {
            let channel = device.channel.as_deref();
            let compile =
                |flag: Flag| Arc::new(ChannelFlag::new(Arc::new(flag), channel, &segments));
            let compiled = compile(flag.clone());
            let variant = Variant {
                expand_segments: true,
                update: device.update_uuid(),
            };
            let definitions = render(&[Arc::clone(&compiled)], &segments, variant);
            let definitions: Value = serde_json::from_str(&definitions).unwrap();
            let context = Context {
                device: &device,
                branch: None,
                update_since_us: None,
                now_us: 0,
            };
            let served = compile(without_even_buckets(flag))
                .evaluate(&context)
                .map(|outcome| outcome.value.clone());
            let computed = on_device(
                &definitions,
                compiled.key(),
                device.targeting_key(),
                &device.attributes,
            );
            prop_assert_eq!(served, computed);
            Ok(())
        })
        .unwrap();
}
