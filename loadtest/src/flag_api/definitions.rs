//! Flags as projects have them: most are switches, each with two rules out of
//! the four common kinds; and the devices that ask for them.

use serde_json::{Value, json};

use super::COUNTER;
use crate::PROJECT;

const PLANS: [&str; 3] = ["free", "pro", "team"];
const COUNTRIES: [&str; 5] = ["DE", "FR", "JP", "US", "BR"];
const SEGMENTS: [&str; 4] = ["ios-pro", "new-in-europe", "old-android", "beta-testers"];
/// Ids on a list of users.
const LISTED: usize = 20;

/// The segments that rules name.
pub(super) fn segments() -> Vec<Value> {
    let condition = |attribute: &str, operator: &str, values: &[&str]| json!({"attribute": attribute, "operator": operator, "valuesJson": values});
    let conditions = [
        json!([
            condition("platform", "eq", &["ios"]),
            condition("plan", "in", &["pro", "team"])
        ]),
        json!([
            condition("country", "in", &["DE", "FR"]),
            condition("age_days", "lt", &["30"])
        ]),
        json!([
            condition("platform", "eq", &["android"]),
            condition("app_version", "semver_lt", &["3.0.0"])
        ]),
        json!([
            condition("beta", "eq", &["true"]),
            condition("email", "ends_with", &["@example.com"])
        ]),
    ];
    let match_types = ["all", "all", "all", "any"];
    let segments = SEGMENTS.iter().zip(match_types).zip(conditions);
    segments
        .map(|((key, match_type), conditions)| {
            json!({"name": key, "key": key, "matchType": match_type, "conditions": conditions})
        })
        .collect()
}

/// A flag and its rules.
pub(super) fn flag(number: usize) -> (Value, Vec<Value>) {
    let values = values(number);
    let variations: Vec<_> = values
        .iter()
        .zip(["Treatment", "Control"])
        .map(|(value, name)| json!({"value": value, "name": name}))
        .collect();
    let key = format!("feature-{number:02}");
    let flag = json!({
        "name": format!("Feature {number}"), "key": key, "flagType": flag_type(&values[0]),
        "defaultValue": values[1], "variations": variations,
    });
    let rules = [number, number + 1 + number / 4 % 3]
        .iter()
        .enumerate()
        .map(|(priority, kind)| rule(kind % 4, number, priority, &values))
        .collect();
    (flag, rules)
}

/// The flag whose default is changed; its rules match no device.
pub(super) fn counter() -> (Value, Vec<Value>) {
    let flag = json!({"name": COUNTER, "key": COUNTER, "flagType": "number"});
    let rules = [
        ("user_list", json!({"userIds": ["nobody"]})),
        (
            "attribute",
            json!({"conditions": [{"attribute": "nothing", "operator": "exists"}]}),
        ),
    ];
    let rules = rules.map(|(rule_type, config)| {
        json!({"ruleType": rule_type, "variantValue": 0, "ruleConfig": config})
    });
    (flag, rules.into())
}

fn values(number: usize) -> [Value; 2] {
    match number % 10 {
        7 => [json!("blue"), json!("green")],
        8 => [json!(20), json!(10)],
        9 => [
            json!({"layout": "grid", "columns": 3}),
            json!({"layout": "list", "columns": 1}),
        ],
        _ => [json!(true), json!(false)],
    }
}

fn flag_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        _ => "json",
    }
}

fn rule(kind: usize, number: usize, priority: usize, values: &[Value; 2]) -> Value {
    let weight = 5 + number % 10 * 10;
    let users: Vec<_> = (0..LISTED)
        .map(|user| format!("user-{}", number * 100 + user))
        .collect();
    let (rule_type, value, config) = match kind {
        0 => (
            "attribute",
            &values[0],
            json!({"conditions": [
                {"attribute": "plan", "operator": "in", "values": ["pro", "team"]},
                {"attribute": "app_version", "operator": "semver_gte", "values": ["3.1.0"]},
            ]}),
        ),
        1 => (
            "percentage_rollout",
            &Value::Null,
            json!({"rollout": [
                {"variantValue": values[0], "weight": weight},
                {"variantValue": values[1], "weight": 100 - weight},
            ]}),
        ),
        2 => (
            "segment",
            &values[0],
            json!({"segmentKey": SEGMENTS[number % SEGMENTS.len()]}),
        ),
        _ => ("user_list", &values[0], json!({"userIds": users})),
    };
    json!({"ruleType": rule_type, "variantValue": value, "ruleConfig": config, "priority": priority})
}

/// What the device with this number sends to be evaluated.
pub fn bulk_request(number: u64) -> Value {
    let pick = |list: &[&str], by: u64| list[(number / by) as usize % list.len()].to_owned();
    json!({
        "projectSlug": PROJECT,
        "deviceId": device_id(number),
        "channel": "production",
        "targetingKey": format!("user-{}", number % 100_000),
        "platform": if number.is_multiple_of(3) { "android" } else { "ios" },
        "runtimeVersion": "1.4.2",
        "attributes": {
            "plan": pick(&PLANS, 1), "country": pick(&COUNTRIES, 3),
            "app_version": format!("{}.{}.0", 2 + number % 2, number % 7),
            "age_days": number % 400, "beta": number.is_multiple_of(20),
            "email": format!("person{number}@mail.example"),
            "update_id": device_id(number % 50),
        },
    })
}

/// A UUID of its own for each device.
pub fn device_id(number: u64) -> String {
    format!("0000f1a6-0000-4000-8000-{number:012x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_two_rules_of_different_kinds() {
        let mut kinds = std::collections::BTreeSet::new();
        for number in 1..crate::flag_api::FLAGS {
            let (_, rules) = flag(number);
            let types: Vec<_> = rules.iter().map(|rule| rule["ruleType"].clone()).collect();
            assert_eq!(types.len(), 2);
            assert_ne!(types[0], types[1], "flag {number}");
            kinds.extend(types.iter().map(Value::to_string));
        }
        assert_eq!(kinds.len(), 4);
    }
}
