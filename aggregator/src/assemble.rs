//! Records become rows: what the open batch of a partition has gathered.

use std::collections::HashMap;

use bytes::Bytes;
use sluice_eventlog::Stored;
use sluice_schema::frame::{
    ContentKind, FrameError, FrameHeader, ProjectRef, Request, read_header,
};
use sluice_schema::id::ProjectId;
use sluice_schema::wire::{Scratch, health};

use crate::dead_letter::{DeadLetter, Reason};
use crate::flag_maps::FlagMaps;
use crate::metrics::Outcomes;
use crate::rows::{HealthRows, Origin};

/// The projects that a frame's slugs name.
pub(crate) type Projects = HashMap<String, Option<ProjectId>>;

/// Rows, letters and counts of the open batch.
#[derive(Default)]
pub(crate) struct Assembly {
    pub(crate) rows: HealthRows,
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) outcomes: Outcomes,
    pub(crate) flags: FlagMaps,
    scratch: Scratch,
}

/// What was left of a batch when it was closed, beside its rows.
pub(crate) struct Remains {
    pub(crate) letters: Vec<DeadLetter>,
    pub(crate) outcomes: Outcomes,
}

impl Assembly {
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
        if request.kind != ContentKind::Health {
            self.refuse(record, request, Reason::WrongKind, "not a health body");
            return 0;
        }
        let batch = match health::decode(request.payload, &mut self.scratch) {
            Ok(batch) => batch,
            Err(refusal) => {
                let detail = refusal.to_string();
                self.refuse(record, request, Reason::RefusedBody, &detail);
                return 0;
            }
        };
        let kept = batch.kept();
        if let Some(project) = project_of(request, projects) {
            let origin = Origin {
                frame: header.id,
                offset: record.offset,
                first_index: first_index as u16,
                project,
                received_at_us: request.received_at_us,
            };
            self.rows.push(&origin, &batch, &mut self.flags);
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
        self.rows.clear();
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
