//! The recorded request bodies, each made the only one of its device.
//!
//! What a shipped SDK sent is replayed byte for byte, but for the project and
//! the device id. Every request gets a device id of its own, which holds the
//! run and the request's number: so that N requests are N devices, the hardest
//! case for distinct counts, and so that a stored row tells which request it
//! came from without adding anything to the body.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;
use serde_json::Value;

const RECORDED: &str = include_str!("../../schema/fixtures/sdk-health-bodies.jsonl");
const DEVICE_FIELD: &str = "\"deviceId\":\"";
const PROJECT_FIELD: &str = "\"projectSlug\":\"";
const DEVICE_ID_BYTES: usize = 36;

/// One process's requests have one run; it is the head of their device ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u32);

impl Run {
    /// The device id of the request with this number, in the shape of a UUID v4.
    pub fn device_id(self, number: u64) -> String {
        format!("{:08x}-0000-4000-8000-{number:012x}", self.0)
    }

    /// The number of the request that has this device id, if it is of this run.
    pub fn number_of(self, device_id: &str) -> Option<u64> {
        let number = device_id.strip_prefix(&self.prefix())?;
        (number.len() == 12)
            .then(|| u64::from_str_radix(number, 16).ok())
            .flatten()
    }

    /// What all device ids of the run begin with.
    pub fn prefix(self) -> String {
        format!("{:08x}-0000-4000-8000-", self.0)
    }
}

/// The recorded bodies, addressed to one project.
pub struct Bodies {
    templates: Vec<Template>,
}

/// Sums of `count` by type of event.
pub type Totals = BTreeMap<String, u64>;

struct Template {
    text: String,
    device_id: Range<usize>,
    events: u32,
    counts: Totals,
}

impl Bodies {
    /// All recorded bodies, for the project with this slug.
    pub fn recorded(project: &str) -> Self {
        let templates = RECORDED
            .lines()
            .map(|line| Template::new(line, project))
            .collect();
        Self { templates }
    }

    /// The body of a request: the recorded ones in turn.
    pub fn request(&self, run: Run, number: u64) -> Bytes {
        let template = self.template(number);
        let mut text = String::with_capacity(template.text.len());
        text.push_str(&template.text[..template.device_id.start]);
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", run.device_id(number));
        text.push_str(&template.text[template.device_id.end..]);
        text.into()
    }

    /// How many events that request has, counted by a reader that shares
    /// nothing with the service.
    pub fn events(&self, number: u64) -> u32 {
        self.template(number).events
    }

    /// What its events add up to, by type, counted by the same reader.
    pub fn counts(&self, number: u64) -> &Totals {
        &self.template(number).counts
    }

    fn template(&self, number: u64) -> &Template {
        &self.templates[(number % self.templates.len() as u64) as usize]
    }
}

impl Template {
    fn new(line: &str, project: &str) -> Self {
        let text = splice(line, value_of(line, PROJECT_FIELD), project);
        let device_id = value_of(&text, DEVICE_FIELD);
        let body: Value = serde_json::from_str(line).expect("recorded bodies are JSON");
        let events = body["events"].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            text,
            device_id,
            events: events.len() as u32,
            counts: counts(events),
        }
    }
}

fn counts(events: &[Value]) -> Totals {
    let mut totals = Totals::new();
    for event in events {
        let kind = event["type"].as_str().expect("recorded events have a type");
        let count = event["count"].as_u64().unwrap_or(1);
        *totals.entry(kind.to_owned()).or_default() += count;
    }
    totals
}

/// Where the text value of a field stands. The first is the envelope's: the
/// SDK writes it before the events.
fn value_of(body: &str, field: &str) -> Range<usize> {
    let start = body.find(field).expect("recorded bodies have the field") + field.len();
    let length = body[start..].find('"').expect("recorded values are closed");
    start..start + length
}

fn splice(text: &str, at: Range<usize>, with: &str) -> String {
    [&text[..at.start], with, &text[at.end..]].concat()
}

const _: () = assert!(DEVICE_ID_BYTES == 8 + 5 + 5 + 5 + 13);

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run(0xab);

    #[test]
    fn a_device_id_tells_its_request() {
        let id = RUN.device_id(77);
        assert_eq!(id.len(), DEVICE_ID_BYTES);
        assert_eq!(RUN.number_of(&id), Some(77));
        assert_eq!(Run(1).number_of(&id), None);
        assert_eq!(RUN.number_of("ab"), None);
    }

    #[test]
    fn a_request_is_the_recorded_one_but_for_project_and_device() {
        let bodies = Bodies::recorded("acme");
        for (number, line) in (458..).zip(RECORDED.lines()) {
            let mut recorded: Value = serde_json::from_str(line).unwrap();
            recorded["projectSlug"] = "acme".into();
            recorded["deviceId"] = RUN.device_id(number).into();
            let sent: Value = serde_json::from_slice(&bodies.request(RUN, number)).unwrap();
            assert_eq!(sent, recorded);
        }
    }

    #[test]
    fn all_recorded_events_are_counted() {
        let bodies = Bodies::recorded("acme");
        assert_eq!((0..458).map(|n| bodies.events(n)).sum::<u32>(), 806);
    }

    /// By a reader that knows no JSON: the SDK writes `type` and then `count`.
    #[test]
    fn their_totals_by_type_are_those_of_the_file() {
        let mut read = Totals::new();
        for event in RECORDED.split("{\"type\":\"").skip(1) {
            let (kind, rest) = event.split_once("\",\"count\":").unwrap();
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
            *read.entry(kind.to_owned()).or_default() += digits.parse::<u64>().unwrap();
        }
        let bodies = Bodies::recorded("acme");
        let mut ours = Totals::new();
        for (kind, count) in (0..458).flat_map(|n| bodies.counts(n)) {
            *ours.entry(kind.clone()).or_default() += count;
        }
        assert_eq!(ours, read);
        assert_eq!(ours.len(), 5);
    }
}
