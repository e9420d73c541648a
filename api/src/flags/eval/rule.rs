//! `ruleType` and `ruleConfig`: every spelling that clients send, and the
//! canonical one that is stored and returned (flags.md §4).

use serde_json::{Value, json};

use super::bucket::Bucketing;
use super::condition::Condition;
use super::flag::Variation;
use super::ota::OtaUpdate;
use super::{FlagType, Invalid, value};

/// How far the weights of a rollout may miss 100, plus what adding doubles loses.
const WEIGHT_TOLERANCE: f64 = 0.01 + 1e-9;

/// What a rule asks of a context.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleConfig {
    /// Nothing: it always matches.
    Force,
    /// The targeting key is one of these.
    UserList(Vec<String>),
    /// The targeting key's bucket falls in a slice.
    Rollout(Rollout),
    /// All conditions hold.
    Attribute(Vec<Condition>),
    /// The segment of this key matches.
    Segment(String),
    /// The update that the device runs is a certain one.
    OtaUpdate(OtaUpdate),
}

/// A percentage rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Scanned in this order.
    pub slices: Vec<Slice>,
    /// How buckets are computed.
    pub bucketing: Bucketing,
    /// Written as the legacy `percentage`: one slice, the rest falls through.
    pub is_percentage: bool,
}

/// One share of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The variation it gives, where it is named by id.
    pub variation_id: Option<i64>,
    /// The value it gives, where it is named by value.
    pub variant_value: Option<Value>,
    /// Percent.
    pub weight: f64,
}

impl RuleConfig {
    /// Reads any accepted spelling. `variant_value` is the rule's own, which the
    /// legacy `percentage` gives.
    pub fn parse(rule_type: &str, config: &Value, variant_value: &Value) -> Result<Self, Invalid> {
        match rule_type {
            "force" => Ok(Self::Force),
            "user_list" => user_list(config).map(Self::UserList),
            "percentage_rollout" => rollout(config, variant_value).map(Self::Rollout),
            "attribute" => conditions(config).map(Self::Attribute),
            "segment" => segment_key(config).map(Self::Segment),
            "ota_update" => OtaUpdate::parse(config).map(Self::OtaUpdate),
            _ => Err(Invalid::new(
                "ruleType must be one of user_list, percentage_rollout, attribute, segment, \
                 ota_update, force",
            )),
        }
    }

    /// The wire name of its rule type.
    pub fn rule_type(&self) -> &'static str {
        match self {
            Self::Force => "force",
            Self::UserList(_) => "user_list",
            Self::Rollout(_) => "percentage_rollout",
            Self::Attribute(_) => "attribute",
            Self::Segment(_) => "segment",
            Self::OtaUpdate(_) => "ota_update",
        }
    }

    /// Checks it against a flag and names each slice by variation, so that
    /// [`Self::canonical`] of the result is what is to be stored.
    pub fn resolve(self, flag_type: FlagType, variations: &[Variation]) -> Result<Self, Invalid> {
        let Self::Rollout(mut rollout) = self else {
            return Ok(self);
        };
        for slice in &mut rollout.slices {
            let variation = slice.find(flag_type, variations)?;
            slice.variation_id = Some(variation.id);
            slice.variant_value = Some(variation.value.clone());
        }
        Ok(Self::Rollout(rollout))
    }

    /// The stored form, which management routes return.
    pub fn canonical(&self) -> Value {
        match self {
            Self::Force => json!({}),
            Self::UserList(ids) => json!({"userIds": ids}),
            Self::Rollout(rollout) => rollout.canonical(),
            Self::Attribute(conditions) => {
                let conditions: Vec<_> = conditions.iter().map(condition_json).collect();
                json!({"conditions": conditions})
            }
            Self::Segment(key) => json!({"segmentKey": key}),
            Self::OtaUpdate(update) => update.canonical(),
        }
    }

    /// The form for on-device evaluators, who split user ids at commas.
    pub fn definition(&self) -> Value {
        match self {
            Self::UserList(ids) => json!({"userIds": ids.join(",")}),
            other => other.canonical(),
        }
    }
}

impl Slice {
    fn find<'v>(
        &self,
        flag_type: FlagType,
        variations: &'v [Variation],
    ) -> Result<&'v Variation, Invalid> {
        let found = match (self.variation_id, &self.variant_value) {
            (Some(id), _) => variations.iter().find(|variation| variation.id == id),
            (None, Some(given)) => {
                let wanted = flag_type.coerce(given.clone())?;
                let same = |variation: &&Variation| value::equal(&variation.value, &wanted);
                variations.iter().find(same)
            }
            (None, None) => None,
        };
        found.ok_or_else(|| Invalid::new("rollout must name variations of this flag"))
    }
}

impl Rollout {
    fn canonical(&self) -> Value {
        let slice = |slice: &Slice| {
            json!({
                "variationId": slice.variation_id,
                "variantValue": slice.variant_value,
                "weight": value::number(slice.weight),
            })
        };
        let slices: Vec<_> = self.slices.iter().map(slice).collect();
        let mut config = json!({"rollout": slices});
        if self.is_percentage {
            config["percentage"] = config["rollout"][0]["weight"].clone();
        }
        if let Bucketing::V2 { salt } = &self.bucketing {
            config["bucketing"] = json!("v2");
            if let Some(salt) = salt {
                config["salt"] = json!(salt);
            }
        }
        config
    }
}

/// The definition and the stored form of one condition.
pub(super) fn condition_json(condition: &Condition) -> Value {
    json!({
        "attribute": condition.attribute,
        "operator": condition.operator.name(),
        "values": condition.values,
    })
}

fn user_list(config: &Value) -> Result<Vec<String>, Invalid> {
    let refused =
        || Invalid::new("userIds must be an array of strings or one comma-separated string");
    let ids = ["userIds", "users"]
        .iter()
        .find_map(|name| config.get(name));
    let ids: Vec<&str> = match ids {
        Some(Value::String(list)) => list.split(',').collect(),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| id.as_str().ok_or_else(refused))
            .collect::<Result<_, _>>()?,
        _ => return Err(refused()),
    };
    if ids.iter().any(|id| id.contains(',')) {
        return Err(Invalid::new(
            "userIds must not contain a comma inside an id",
        ));
    }
    let trimmed = ids.into_iter().map(str::trim).filter(|id| !id.is_empty());
    Ok(trimmed.map(str::to_owned).collect())
}

fn rollout(config: &Value, variant_value: &Value) -> Result<Rollout, Invalid> {
    let is_percentage = !config["percentage"].is_null();
    let slices = if is_percentage {
        vec![percentage_slice(config, variant_value)?]
    } else {
        slices(config)?
    };
    Ok(Rollout {
        slices,
        bucketing: bucketing(config)?,
        is_percentage,
    })
}

/// A stored percentage names its variation, which is stronger than the rule's value.
fn percentage_slice(config: &Value, variant_value: &Value) -> Result<Slice, Invalid> {
    let weight = config["percentage"].as_f64();
    let weight = weight.filter(|percent| (0.0..=100.0).contains(percent));
    Ok(Slice {
        variation_id: config["rollout"][0]["variationId"].as_i64(),
        variant_value: Some(variant_value.clone()).filter(|value| !value.is_null()),
        weight: weight.ok_or_else(|| Invalid::new("percentage must be a number from 0 to 100"))?,
    })
}

fn slices(config: &Value) -> Result<Vec<Slice>, Invalid> {
    let entries = config["rollout"].as_array().filter(|list| !list.is_empty());
    let entries = entries.ok_or_else(|| Invalid::new("rollout must be a non-empty array"))?;
    let slices: Vec<_> = entries.iter().map(slice).collect::<Result<_, _>>()?;
    let sum: f64 = slices.iter().map(|slice| slice.weight).sum();
    if (sum - 100.0).abs() > WEIGHT_TOLERANCE {
        return Err(Invalid::new("the weights of rollout must add up to 100"));
    }
    Ok(slices)
}

fn slice(entry: &Value) -> Result<Slice, Invalid> {
    let weight = entry["weight"].as_f64().filter(|weight| *weight >= 0.0);
    Ok(Slice {
        variation_id: entry["variationId"].as_i64(),
        variant_value: Some(entry["variantValue"].clone()).filter(|value| !value.is_null()),
        weight: weight
            .ok_or_else(|| Invalid::new("rollout[].weight must be a number of at least 0"))?,
    })
}

fn bucketing(config: &Value) -> Result<Bucketing, Invalid> {
    match &config["bucketing"] {
        Value::Null => Ok(Bucketing::V1),
        Value::String(name) if name == "v1" => Ok(Bucketing::V1),
        Value::String(name) if name == "v2" => Ok(Bucketing::V2 {
            salt: salt(config)?,
        }),
        _ => Err(Invalid::new("bucketing must be v1 or v2")),
    }
}

/// None where the flag's key is the salt.
fn salt(config: &Value) -> Result<Option<String>, Invalid> {
    match &config["salt"] {
        Value::Null => Ok(None),
        Value::String(salt) => Ok(Some(salt.clone()).filter(|salt| !salt.is_empty())),
        _ => Err(Invalid::new("salt must be a string")),
    }
}

fn conditions(config: &Value) -> Result<Vec<Condition>, Invalid> {
    let list = config["conditions"]
        .as_array()
        .filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| Invalid::new("conditions must be a non-empty array"))?;
    list.iter().map(Condition::parse).collect()
}

fn segment_key(config: &Value) -> Result<String, Invalid> {
    let key = config["segmentKey"].as_str().map(str::trim);
    let key = key.filter(|key| !key.is_empty());
    Ok(key
        .ok_or_else(|| Invalid::new("segmentKey must not be blank"))?
        .to_owned())
}
