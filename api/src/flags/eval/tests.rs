//! Golden vectors and laws of flags.md, and a second evaluator to compare with.

mod on_device;
mod properties;
mod rules;
mod scenarios;
mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{ChannelFlag, Context, Device, Flag, FlagType, Rule, RuleConfig, Segment, Variation};

/// A boolean flag `new-checkout` with the variations On (1) and Off (2).
fn checkout() -> Flag {
    Flag {
        id: 7,
        key: "new-checkout".to_owned(),
        flag_type: FlagType::Boolean,
        default_value: json!(false),
        enabled: true,
        enabled_changed_at_us: 0,
        variations: vec![
            variation(1, json!(true), "On"),
            variation(2, json!(false), "Off"),
        ],
        environments: Vec::new(),
        rules: Vec::new(),
        links: Vec::new(),
    }
}

fn variation(id: i64, value: Value, name: &str) -> Variation {
    Variation {
        id,
        value,
        name: Some(name.to_owned()),
    }
}

fn rule(flag: &Flag, priority: i32, rule_type: &str, config: &Value, value: Value) -> Rule {
    let parsed = RuleConfig::parse(rule_type, config, &value).unwrap();
    Rule {
        id: 100 + flag.rules.len() as i64,
        priority,
        channel: None,
        config: parsed.resolve(flag.flag_type, &flag.variations).unwrap(),
        variant_value: value,
    }
}

fn with_rule(mut flag: Flag, priority: i32, rule_type: &str, config: &Value, value: Value) -> Flag {
    let added = rule(&flag, priority, rule_type, config, value);
    flag.rules.push(added);
    flag.rules.sort_by_key(|rule| (rule.priority, rule.id));
    flag
}

fn device(targeting_key: &str, attributes: Value) -> Device {
    let Value::Object(attributes) = attributes else {
        panic!("attributes are an object")
    };
    Device {
        device_id: "device-1".to_owned(),
        targeting_key: Some(targeting_key.to_owned()),
        channel: Some("production".to_owned()),
        attributes,
        ..Device::default()
    }
}

fn user(targeting_key: &str) -> Device {
    device(targeting_key, Value::Object(Map::new()))
}

fn context(device: &Device) -> Context<'_> {
    Context {
        device,
        branch: None,
        update_since_us: None,
        now_us: 0,
    }
}

/// `"value variant reason"`, or `"omitted"`.
fn answer(flag: &Flag, segments: &BTreeMap<String, Segment>, device: &Device) -> String {
    let compiled = ChannelFlag::new(Arc::new(flag.clone()), device.channel.as_deref(), segments);
    compiled.evaluate(&context(device)).map_or_else(
        || "omitted".to_owned(),
        |outcome| {
            let variant = outcome.variant.as_deref().unwrap_or("null");
            format!("{} {variant} {}", outcome.value, outcome.reason.name())
        },
    )
}

fn plain(flag: &Flag, device: &Device) -> String {
    answer(flag, &BTreeMap::new(), device)
}
