use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use clickhouse::Row;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_schema::wire::tags;
use utoipa::ToSchema;

use super::paging::Position;
pub(in crate::insights) use super::question::Question;
use crate::insights::channels::DefaultChannel;

/// What the store has for a question.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Observed {
    /// Without `group_by`.
    Events(EventList),
    /// With `group_by`.
    Groups(GroupList),
}

/// A page of events.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventList {
    /// Newest first.
    pub(super) events: Vec<Event>,
    /// Matches, whatever the page.
    pub(super) total: u64,
    /// For the next page; null on the last.
    pub(super) next_cursor: Option<String>,
}

/// A page of groups.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct GroupList {
    /// Last seen first.
    pub(super) groups: Vec<Group>,
    /// Groups, whatever the page.
    pub(super) total: u64,
}

/// Events with one message or name.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    /// The message or name; empty where events have none.
    pub(super) key: String,
    /// How often it happened.
    pub(super) total_count: u64,
    /// On how many devices.
    pub(super) unique_devices: u64,
    pub(super) first_seen: DateTime<Utc>,
    pub(super) last_seen: DateTime<Utc>,
}

/// An event as a device reported it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    /// Place in the log, below 2^53.
    id: u64,
    update_uuid: Option<String>,
    device_id: String,
    channel_name: Option<String>,
    platform: String,
    runtime_version: String,
    /// `js_error`, `crash`, `custom` or `app_launch`.
    #[serde(rename = "eventType")]
    kind: String,
    #[serde(rename = "eventName")]
    name: Option<String>,
    #[serde(rename = "eventMessage")]
    message: Option<String>,
    /// How often it happened until it was reported.
    count: u32,
    /// Flags that the device held.
    #[schema(value_type = Option<Object>)]
    flag_states: Option<BTreeMap<String, Value>>,
    stack_trace: Option<String>,
    error_name: Option<String>,
    component_stack: Option<String>,
    is_fatal: bool,
    /// With values as the device sent them.
    #[schema(value_type = Option<Object>)]
    tags: Option<BTreeMap<String, Value>>,
    received_at: DateTime<Utc>,
}

/// A raw row.
#[derive(Clone, Debug, Default, Row, Deserialize)]
pub(in crate::insights) struct EventRow {
    pub(in crate::insights) received_us: i64,
    pub(in crate::insights) src_partition: u16,
    pub(in crate::insights) src_offset: u64,
    pub(in crate::insights) src_index: u16,
    pub(in crate::insights) device_id: String,
    pub(in crate::insights) channel: String,
    pub(in crate::insights) platform: String,
    pub(in crate::insights) runtime_version: String,
    pub(in crate::insights) update_uuid: String,
    pub(in crate::insights) r#type: String,
    pub(in crate::insights) name: String,
    pub(in crate::insights) message: String,
    pub(in crate::insights) stack: String,
    pub(in crate::insights) component_stack: String,
    pub(in crate::insights) error_name: String,
    pub(in crate::insights) is_fatal: u8,
    pub(in crate::insights) count: u32,
    pub(in crate::insights) tags: Vec<(String, String)>,
    pub(in crate::insights) flag_map: u64,
}

/// Flags by flag map: (key, compact JSON of the value).
pub(super) type FlagMaps = HashMap<u64, Vec<(String, String)>>;

impl EventRow {
    pub(in crate::insights) fn position(&self) -> Position {
        Position {
            received_us: self.received_us,
            partition: self.src_partition,
            offset: self.src_offset,
            index: self.src_index,
        }
    }

    /// On the wire; what is empty was not sent.
    pub(super) fn into_event(self, maps: &FlagMaps, default_channel: &DefaultChannel) -> Event {
        let sent = |text: String| (!text.is_empty()).then_some(text);
        Event {
            id: self.position().id(),
            flag_states: maps.get(&self.flag_map).map(|flags| flag_states(flags)),
            received_at: instant(self.received_us),
            update_uuid: sent(self.update_uuid),
            device_id: self.device_id,
            channel_name: sent(default_channel.shown(self.channel)),
            platform: self.platform,
            runtime_version: self.runtime_version,
            kind: self.r#type,
            name: sent(self.name),
            message: sent(self.message),
            count: self.count,
            stack_trace: sent(self.stack),
            error_name: sent(self.error_name),
            component_stack: sent(self.component_stack),
            is_fatal: self.is_fatal != 0,
            tags: (!self.tags.is_empty()).then(|| shown(&self.tags)),
        }
    }
}

/// Microseconds since 1970 as an instant.
pub(in crate::insights) fn instant(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us).unwrap_or_default()
}

fn shown(stored: &[(String, String)]) -> BTreeMap<String, Value> {
    let value = |(key, value): &(String, String)| (key.clone(), tags::shown(value));
    stored.iter().map(value).collect()
}

fn flag_states(flags: &[(String, String)]) -> BTreeMap<String, Value> {
    let value = |json: &str| serde_json::from_str(json).unwrap_or_else(|_| Value::from(json));
    let states = flags.iter().map(|(key, json)| (key.clone(), value(json)));
    states.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_not_sent_is_null() {
        let event = EventRow::default().into_event(&FlagMaps::new(), &DefaultChannel::default());
        let json = serde_json::to_value(event).expect("serialises");
        for field in [
            "updateUuid",
            "eventName",
            "eventMessage",
            "flagStates",
            "tags",
            "stackTrace",
        ] {
            assert_eq!(json[field], Value::Null, "{field}");
        }
        assert_eq!(json["isFatal"], json!(false));
        assert_eq!(json["deviceId"], json!(""));
    }

    #[test]
    fn flag_states_have_the_values_that_devices_held() {
        let flags = [("a", "true"), ("b", "\"x\""), ("c", "{\"d\":[1]}")];
        let flags = flags.map(|(key, json)| (key.to_owned(), json.to_owned()));
        let maps = FlagMaps::from([(7, flags.to_vec())]);
        let row = EventRow {
            flag_map: 7,
            ..EventRow::default()
        };
        let json = serde_json::to_value(row.into_event(&maps, &DefaultChannel::default()))
            .expect("serialises");
        assert_eq!(
            json["flagStates"],
            json!({"a": true, "b": "x", "c": {"d": [1]}})
        );
    }
}
