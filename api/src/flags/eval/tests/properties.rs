use proptest::prelude::*;
use serde_json::{Value, json};

use super::{checkout, plain, user, with_rule};
use crate::flags::eval::{Flag, FlagType, bucket, equal, version};

const ON: &str = "true On SPLIT";

fn percentage(percent: f64, bucketing: &str) -> Flag {
    let config = json!({"percentage": percent, "bucketing": bucketing});
    with_rule(checkout(), 0, "percentage_rollout", &config, json!(true))
}

proptest! {
    /// Who has a flag at some percentage has it at every higher one.
    #[test]
    fn a_growing_percentage_takes_nobody_away(
        key in ".{0,24}",
        low in 0.0..=100.0_f64,
        growth in 0.0..=1.0_f64,
        bucketing in prop::sample::select(vec!["v1", "v2"]),
    ) {
        let high = low + (100.0 - low) * growth;
        let (before, after) = (percentage(low, bucketing), percentage(high, bucketing));
        if plain(&before, &user(&key)) == ON {
            prop_assert_eq!(plain(&after, &user(&key)), ON);
        }
    }

    /// The answer depends on the flag's key and the targeting key alone.
    #[test]
    fn a_device_stays_where_it_is(key in ".{1,24}", percent in 0.0..=100.0_f64, note in ".{0,8}") {
        let flag = percentage(percent, "v1");
        let mut later = user(&key);
        later.device_id = note.clone();
        later.attributes.insert("note".to_owned(), json!(note));
        prop_assert_eq!(plain(&flag, &user(&key)), plain(&flag, &later));
    }

    /// Nobody at 0 %, everybody at 100 %.
    #[test]
    fn the_ends_are_exact(key in ".{0,24}", bucketing in prop::sample::select(vec!["v1", "v2"])) {
        prop_assert_ne!(plain(&percentage(0.0, bucketing), &user(&key)), ON);
        prop_assert_eq!(plain(&percentage(100.0, bucketing), &user(&key)), ON);
    }

    #[test]
    fn the_published_hash_equals_its_exact_integer_form(text in ".{0,40}") {
        prop_assert_eq!(bucket::hash_v1_of(&text), exact_integer_form(&text));
    }

    #[test]
    fn coercion_settles_at_once(value in any_json(), flag_type in any_type()) {
        if let Ok(once) = flag_type.coerce(value) {
            prop_assert!(flag_type.fits(&once));
            // A string that holds JSON is parsed once; what that gives may be a string again.
            if flag_type != FlagType::Json {
                prop_assert!(equal(&flag_type.coerce(once.clone()).unwrap(), &once));
            }
        }
    }

    #[test]
    fn versions_are_ordered_alike_from_both_sides(a in "v?[0-9.a-]{0,8}", b in "v?[0-9.a-]{0,8}") {
        prop_assert_eq!(version::compare(&a, &b), version::compare(&b, &a).map(|order| order.reverse()));
    }
}

/// The even scheme gives each slice its share: within four standard deviations.
#[test]
fn the_even_scheme_gives_each_slice_its_share() {
    const KEYS: u32 = 100_000;
    for percent in [1.0, 12.5, 50.0, 99.0] {
        let below = |key: &u32| f64::from(bucket::v2("salt", &key.to_string())) < percent * 100.0;
        let got = (0..KEYS).filter(below).count() as f64;
        let expected = f64::from(KEYS) * percent / 100.0;
        let deviation = (expected * (1.0 - percent / 100.0)).sqrt();
        assert!(
            (got - expected).abs() < 4.0 * deviation,
            "{percent} %: {got}"
        );
    }
}

/// The published hash again, as flags.md §7.1 describes it without doubles.
fn exact_integer_form(text: &str) -> u32 {
    text.encode_utf16().fold(0x811C_9DC5, |hash: u32, unit| {
        let product = i64::from((hash ^ u32::from(unit)).cast_signed()) * 16_777_619;
        let magnitude = product.unsigned_abs();
        let excess_bits = (64 - magnitude.leading_zeros()).saturating_sub(53);
        let step = 1_u64 << excess_bits;
        let (whole, rest) = (magnitude / step, magnitude % step);
        let up = rest * 2 > step || (rest * 2 == step && whole % 2 == 1);
        let rounded = (whole + u64::from(up)) * step;
        (rounded as i64 * product.signum()) as u32
    })
}

fn any_type() -> impl Strategy<Value = FlagType> {
    use FlagType::{Boolean, Json, Number, String};
    prop::sample::select(vec![Boolean, String, Number, Json])
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9eE.+-]{0,6}".prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        Just(json!("true")),
        Just(json!("[1]")),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop::collection::vec(inner, 0..3).prop_map(Value::from)
    })
}
