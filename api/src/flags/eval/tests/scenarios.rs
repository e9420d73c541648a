//! The scenario checks of flags.md §8, by number, and what §5 and §8 say besides.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{answer, checkout, device, plain, user, variation, with_rule};
use crate::flags::eval::{
    Condition, Device, Environment, Flag, FlagType, Operator, ReleaseLink, Segment,
};

const OFF_BY_DEFAULT: &str = "false Off DEFAULT";
const UPDATE: Uuid = Uuid::from_u128(0xABCD_EF01);

fn user_list() -> Flag {
    with_rule(
        checkout(),
        5,
        "user_list",
        &json!({"userIds": ["user-1"]}),
        json!(true),
    )
}

fn env(channel: &str, enabled: Option<bool>, at_us: i64) -> Environment {
    Environment {
        channel: channel.to_owned(),
        enabled,
        enabled_changed_at_us: at_us,
        default_value: None,
    }
}

fn link(created_at_us: i64, enabled: bool) -> ReleaseLink {
    ReleaseLink {
        updates: vec![UPDATE],
        group_id: "group".to_owned(),
        enabled,
        variation_id: None,
        created_at_us,
    }
}

fn on_update(update: Uuid) -> Device {
    Device {
        update_id: Some(update.to_string().to_uppercase()),
        ..user("user-1")
    }
}

fn on_channel(channel: Option<&str>) -> Device {
    Device {
        channel: channel.map(str::to_owned),
        ..user("user-1")
    }
}

#[test]
fn scenario_1_no_rules() {
    assert_eq!(plain(&checkout(), &user("user-1")), OFF_BY_DEFAULT);
}

#[test]
fn scenario_2_user_list() {
    assert_eq!(
        plain(&user_list(), &user("user-1")),
        "true On TARGETING_MATCH"
    );
    assert_eq!(plain(&user_list(), &user("user-2")), OFF_BY_DEFAULT);
    assert_eq!(plain(&user_list(), &user("USER-1")), OFF_BY_DEFAULT);
}

#[test]
fn scenario_3_priority_beats_the_list() {
    let halves =
        json!({"rollout": [{"variationId": 1, "weight": 50}, {"variationId": 2, "weight": 50}]});
    let flag = with_rule(user_list(), 1, "percentage_rollout", &halves, Value::Null);
    assert_eq!(plain(&flag, &user("user-1")), "false Off SPLIT");
}

#[test]
fn scenario_4_a_percentage_falls_through() {
    let percentage = json!({"percentage": 30});
    let flag = with_rule(
        checkout(),
        0,
        "percentage_rollout",
        &percentage,
        json!(true),
    );
    assert_eq!(plain(&flag, &user("user-1")), OFF_BY_DEFAULT);
    let percentage = json!({"percentage": 57});
    let flag = with_rule(
        checkout(),
        0,
        "percentage_rollout",
        &percentage,
        json!(true),
    );
    assert_eq!(plain(&flag, &user("user-1")), "true On SPLIT");
}

fn ios_pro(match_all: bool) -> BTreeMap<String, Segment> {
    let equals = |attribute: &str, value: &str| Condition {
        attribute: attribute.to_owned(),
        operator: Operator::Eq,
        values: vec![value.to_owned()],
    };
    let segment = Segment {
        key: "ios-pro".to_owned(),
        match_all,
        conditions: vec![equals("platform", "ios"), equals("plan", "pro")],
    };
    BTreeMap::from([(segment.key.clone(), segment)])
}

#[test]
fn scenario_5_segments() {
    let flag = with_rule(
        checkout(),
        0,
        "segment",
        &json!({"segmentKey": "ios-pro"}),
        json!(true),
    );
    let on_ios = |plan: &str| Device {
        platform: Some("ios".to_owned()),
        ..device("user-1", json!({"plan": plan, "platform": "android"}))
    };
    let all = ios_pro(true);
    assert_eq!(answer(&flag, &all, &on_ios("pro")), "true On SEGMENT_MATCH");
    assert_eq!(answer(&flag, &all, &on_ios("free")), OFF_BY_DEFAULT);
    assert_eq!(
        answer(&flag, &ios_pro(false), &on_ios("free")),
        "true On SEGMENT_MATCH"
    );
    assert_eq!(
        answer(&flag, &BTreeMap::new(), &on_ios("pro")),
        OFF_BY_DEFAULT
    );
    for match_all in [true, false] {
        let mut empty = ios_pro(match_all);
        for segment in empty.values_mut() {
            segment.conditions.clear();
        }
        assert_eq!(answer(&flag, &empty, &on_ios("pro")), OFF_BY_DEFAULT);
    }
}

fn off_in_production() -> Flag {
    Flag {
        environments: vec![env("production", Some(false), 10)],
        ..checkout()
    }
}

#[test]
fn scenario_6_off_in_the_channel() {
    assert_eq!(plain(&off_in_production(), &user("user-1")), "omitted");
}

#[test]
fn scenario_7_a_release_overrides() {
    let flag = Flag {
        links: vec![link(20, true)],
        ..off_in_production()
    };
    assert_eq!(plain(&flag, &on_update(UPDATE)), "true On RELEASE_OVERRIDE");
    assert_eq!(plain(&flag, &on_update(Uuid::from_u128(1))), "omitted");
    let mut by_attribute = device("user-1", json!({"update_id": UPDATE.to_string()}));
    assert_eq!(plain(&flag, &by_attribute), "true On RELEASE_OVERRIDE");
    by_attribute.update_id = Some("embedded".to_owned());
    assert_eq!(plain(&flag, &by_attribute), "omitted");
}

#[test]
fn scenario_8_an_operator_kills() {
    let switched_off_again = vec![env("production", Some(false), 30)];
    let flag = Flag {
        links: vec![link(20, true)],
        environments: switched_off_again,
        ..checkout()
    };
    assert_eq!(plain(&flag, &on_update(UPDATE)), "omitted");
    let globally = Flag {
        enabled: false,
        enabled_changed_at_us: 30,
        ..checkout()
    };
    let flag = Flag {
        links: vec![link(20, true)],
        ..globally
    };
    assert_eq!(plain(&flag, &on_update(UPDATE)), "omitted");
}

#[test]
fn scenario_9_rules_of_other_channels_are_ignored() {
    let mut flag = with_rule(checkout(), 0, "force", &json!({}), json!(true));
    flag.rules[0].channel = Some("staging".to_owned());
    assert_eq!(
        plain(&flag, &on_channel(Some("production"))),
        OFF_BY_DEFAULT
    );
    assert_eq!(plain(&flag, &on_channel(None)), OFF_BY_DEFAULT);
    assert_eq!(
        plain(&flag, &on_channel(Some("staging"))),
        "true On TARGETING_MATCH"
    );
}

#[test]
fn scenario_10_a_channel_switched_on_later() {
    let off = Flag {
        enabled: false,
        enabled_changed_at_us: 10,
        ..checkout()
    };
    let later = Flag {
        environments: vec![env("staging", Some(true), 20)],
        ..off.clone()
    };
    assert_eq!(plain(&later, &on_channel(Some("staging"))), OFF_BY_DEFAULT);
    assert_eq!(plain(&later, &on_channel(Some("production"))), "omitted");
    assert_eq!(plain(&later, &on_channel(None)), "omitted");
    let earlier = Flag {
        environments: vec![env("staging", Some(true), 5)],
        ..off
    };
    assert_eq!(plain(&earlier, &on_channel(Some("staging"))), "omitted");
}

#[test]
fn a_part_of_a_channel_that_was_never_written_follows_the_flag() {
    let mut flag = checkout();
    flag.environments = vec![Environment {
        default_value: Some(json!(true)),
        ..env("staging", None, 0)
    }];
    assert_eq!(
        plain(&flag, &on_channel(Some("staging"))),
        "true On DEFAULT"
    );
    flag.enabled = false;
    assert_eq!(plain(&flag, &on_channel(Some("staging"))), "omitted");
}

#[test]
fn an_empty_targeting_key_counts_as_absent() {
    let flag = with_rule(
        checkout(),
        0,
        "user_list",
        &json!({"userIds": "device-1, x"}),
        json!(true),
    );
    assert_eq!(plain(&flag, &user("")), "true On TARGETING_MATCH");
    let nobody = Device {
        device_id: String::new(),
        ..user("")
    };
    assert_eq!(plain(&flag, &nobody), OFF_BY_DEFAULT);
}

#[test]
fn the_newest_release_wins_and_gives_other_types_their_variation() {
    let mut flag = checkout();
    flag.flag_type = FlagType::String;
    flag.default_value = json!("old");
    flag.variations = vec![
        variation(1, json!("old"), "Old"),
        variation(2, json!("new"), "New"),
    ];
    let chosen = ReleaseLink {
        variation_id: Some(2),
        ..link(2, true)
    };
    flag.links = vec![link(1, false), chosen.clone()];
    assert_eq!(
        plain(&flag, &on_update(UPDATE)),
        "\"new\" New RELEASE_OVERRIDE"
    );
    flag.links = vec![ReleaseLink {
        enabled: false,
        ..chosen
    }];
    assert_eq!(
        plain(&flag, &on_update(UPDATE)),
        "\"old\" Old RELEASE_OVERRIDE"
    );
}

#[test]
fn a_value_that_no_longer_fits_gives_the_default_and_says_so() {
    let flag = with_rule(checkout(), 0, "force", &json!({}), json!("yes"));
    assert_eq!(plain(&flag, &user("user-1")), "false Off ERROR");
    let outcome = super::ChannelFlag::new(flag.into(), None, &BTreeMap::new());
    let device = user("user-1");
    let body = outcome.evaluate(&super::context(&device)).unwrap().json();
    assert!(body.contains(r#""errorCode":"TYPE_MISMATCH""#), "{body}");
}

#[test]
fn a_slice_whose_variation_has_vanished_gives_the_default() {
    let all_on = json!({"rollout": [{"variationId": 1, "weight": 100}]});
    let mut flag = with_rule(checkout(), 0, "percentage_rollout", &all_on, Value::Null);
    flag.variations.remove(0);
    assert_eq!(plain(&flag, &user("user-1")), "false Off SPLIT");
}

#[test]
fn a_value_equal_to_a_variation_is_sent_as_the_variation_has_it() {
    let mut flag = checkout();
    flag.flag_type = FlagType::Json;
    flag.default_value = json!({"a": 1.0, "b": 2});
    flag.variations = vec![variation(1, json!({"b": 2, "a": 1}), "Both")];
    assert_eq!(
        plain(&flag, &user("user-1")),
        r#"{"a":1,"b":2} Both DEFAULT"#
    );
}
