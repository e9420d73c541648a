//! Records become rows: what the open batch of a partition has gathered.

use std::collections::HashMap;

use bytes::Bytes;
use sluice_eventlog::Stored;
use sluice_schema::frame::{FrameError, FrameHeader, ProjectRef, Request, read_header};
use sluice_schema::id::ProjectId;
use sluice_schema::wire::Scratch;

use crate::dead_letter::{DeadLetter, Reason};
use crate::facts::Facts;
use crate::metrics::Outcomes;
use crate::places::Origin;

/// The projects that a frame's slugs name.
pub(crate) type Projects = HashMap<String, Option<ProjectId>>;

/// Rows, letters and counts of the open batch.
#[derive(Default)]
pub(crate) struct Assembly<F> {
    pub(crate) facts: F,
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) outcomes: Outcomes,
    scratch: Scratch,
}

/// What was left of a batch when it was closed, beside its rows.
pub(crate) struct Remains {
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) outcomes: Outcomes,
}

impl<F: Facts> Assembly<F> {
    /// Adds the requests of a frame.
    pub(crate) fn add_frame(
        &mut self,
        record: &Stored,
        header: &FrameHeader,
        requests: &[Request<'_>],
        projects: &Projects,
    ) {
        let mut counted = 0_u32;
        for request in requests {
            let kept = self.add_request(record, header, request, projects, counted);
            counted = counted.saturating_add(kept);
        }
        // What the edge counted and no request accounts for was in refused bodies.
        let refused = header.events.saturating_sub(counted);
        self.outcomes
            .add_dead(Reason::RefusedBody, u64::from(refused));
    }

    /// Adds one request; returns how many event indices it takes.
    fn add_request(
        &mut self,
        record: &Stored,
        header: &FrameHeader,
        request: &Request<'_>,
        projects: &Projects,
        first_index: u32,
    ) -> u32 {
        if request.kind != F::CONTENT {
            self.refuse(record, request, Reason::WrongKind, "not of this log");
            return 0;
        }
        let origin = project_of(request, projects).map(|project| Origin {
            frame: header.id,
            offset: record.offset,
            first_index: first_index as u16,
            project,
            received_at_us: request.received_at_us,
        });
        let added = self
            .facts
            .add(request.payload, &mut self.scratch, origin.as_ref());
        let kept = match added {
            Ok(kept) => kept,
            Err(refusal) => {
                let detail = refusal.to_string();
                self.refuse(record, request, Reason::RefusedBody, &detail);
                return 0;
            }
        };
        if origin.is_some() {
            self.outcomes.stored += u64::from(kept);
        } else {
            let reason = Reason::UnknownProject;
            self.outcomes.add_dead(reason, u64::from(kept));
            self.refuse(record, request, reason, "no such project");
        }
        kept
    }

    fn refuse(&mut self, record: &Stored, request: &Request<'_>, reason: Reason, detail: &str) {
        self.letters.push(DeadLetter {
            reason,
            detail: detail.to_owned(),
            offset: record.offset,
            bytes: Bytes::copy_from_slice(request.payload),
        });
    }

    /// Adds a record that is no frame.
    pub(crate) fn add_malformed(&mut self, record: &Stored, error: FrameError) {
        let events = read_header(&record.bytes).map_or(1, |header| header.events);
        let reason = Reason::MalformedFrame;
        self.outcomes.add_dead(reason, u64::from(events));
        self.letters.push(DeadLetter {
            reason,
            detail: error.to_string(),
            offset: record.offset,
            bytes: record.bytes.clone(),
        });
    }

    /// Adds a frame whose events are stored already.
    pub(crate) fn add_replayed(&mut self, header: &FrameHeader) {
        self.outcomes.replayed += u64::from(header.events);
    }

    /// Ends the batch.
    pub(crate) fn take(&mut self) -> Remains {
        self.facts.clear();
        Remains {
            letters: std::mem::take(&mut self.letters),
            outcomes: std::mem::take(&mut self.outcomes),
        }
    }
}

fn project_of(request: &Request<'_>, projects: &Projects) -> Option<ProjectId> {
    match request.project {
        ProjectRef::Id(id) => Some(id),
        ProjectRef::Slug(slug) => projects.get(slug).copied().flatten(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_schema::frame::{ContentKind, Frame, FrameBuilder};
    use sluice_schema::id::FrameId;

    use super::*;
    use crate::health::Health;

    #[derive(Clone, Copy, Debug)]
    enum Kind {
        Known,
        UnknownSlug,
        Refused,
        Foreign,
    }

    fn body(events: u32) -> String {
        let events = vec![serde_json::json!({"type": "app_launch"}); events as usize];
        let body = serde_json::json!({
            "projectSlug": "p", "deviceId": "d", "platform": "ios", "runtimeVersion": "1",
            "events": events,
        });
        body.to_string()
    }

    fn frame(requests: &[(Kind, u32)]) -> Frame {
        let mut builder = FrameBuilder::new();
        for (kind, events) in requests {
            let payload = match kind {
                Kind::Refused => "{}".to_owned(),
                _ => body(*events),
            };
            let request = Request {
                project: match kind {
                    Kind::UnknownSlug => ProjectRef::Slug("nobody"),
                    _ => ProjectRef::Id(ProjectId(1)),
                },
                received_at_us: 0,
                kind: match kind {
                    Kind::Foreign => ContentKind::Evaluations,
                    _ => ContentKind::Health,
                },
                payload: payload.as_bytes(),
            };
            builder.push(&request, *events);
        }
        Frame::decode(&builder.finish(FrameId::new())).unwrap()
    }

    fn any_request() -> impl Strategy<Value = (Kind, u32)> {
        let kinds = [Kind::Known, Kind::UnknownSlug, Kind::Refused, Kind::Foreign];
        (proptest::sample::select(kinds.to_vec()), 0_u32..20)
    }

    proptest! {
        #[test]
        fn each_event_has_one_outcome(requests in proptest::collection::vec(any_request(), 0..20)) {
            let frame = frame(&requests);
            let record = Stored { offset: 3, bytes: Bytes::new() };
            let mut assembly = Assembly::<Health>::default();
            let parsed = frame.requests().unwrap();
            assembly.add_frame(&record, &frame.header, &parsed, &Projects::new());
            prop_assert_eq!(assembly.outcomes.total(), u64::from(frame.header.events));
            prop_assert_eq!(assembly.outcomes.stored as usize, assembly.facts.rows.len());
            let good = requests.iter().filter(|(kind, _)| matches!(kind, Kind::Known));
            prop_assert_eq!(assembly.letters.len(), requests.len() - good.count());
        }
    }
}
