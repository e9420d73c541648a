//! What the spool decides: where a frame goes, when its waiter is answered,
//! what is drained and with which mark. No I/O; the time is a value.
//!
//! What always holds:
//! - a waiter is answered as durable only when the primary has said so or the
//!   spool has synced the frame;
//! - a frame that the primary may have is sent again only with the replay mark,
//!   and only after the final report of every earlier attempt, so that the
//!   marked copy lies behind the original;
//! - a frame leaves the spool only when the primary has it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{AppendError, Offset};

/// A failed drain is tried again after this.
const DRAIN_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Names a frame between its append and its answer.
pub(crate) type Ticket = u64;

/// The last word of the primary on one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It is durable there.
    Stored,
    /// It is not there.
    Refused,
    /// It never will be.
    TooLarge,
    /// It may be there.
    Unknown,
}

impl From<&AppendError> for Report {
    fn from(error: &AppendError) -> Self {
        match error {
            AppendError::Busy { .. } => Self::Refused,
            AppendError::TooLarge => Self::TooLarge,
            // A refusal may be the answer to a second attempt whose first one was stored.
            AppendError::Rejected(_) | AppendError::Unknown(_) => Self::Unknown,
        }
    }
}

/// Where a new frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Primary(Ticket),
    Spool,
}

/// What a frame's waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Durable,
    /// The error at hand says why.
    Failed,
}

/// Why a frame goes to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The primary did not answer in time.
    Late,
    /// The primary answered that it has not, or may not have, stored it.
    Failed,
    /// The primary was known to be away.
    Away,
}

impl Reason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Failed => "failed",
            Self::Away => "away",
        }
    }
}

/// A frame to be written to the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToSpool {
    pub(crate) ticket: Ticket,
    /// The primary may have it.
    pub(crate) replay: bool,
    pub(crate) reason: Reason,
}

/// A spooled frame to be sent to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToDrain {
    pub(crate) offset: Offset,
    /// The primary may have it from an attempt to drain it.
    pub(crate) replay: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Original {
    Pending,
    Stored,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    None,
    Wanted {
        replay: bool,
        reason: Reason,
    },
    Writing,
    /// The spool did not take it: the primary has the last word.
    Refused,
    At(Offset),
}

/// A frame that was given to the primary.
#[derive(Debug)]
struct Flight {
    due: Instant,
    original: Original,
    copy: Copy,
    answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    ToSend { tried: bool },
    Sent,
    Done,
}

/// The state of the spool. See the module's description.
#[derive(Debug)]
pub(crate) struct Plan {
    deadline: Duration,
    /// The last thing that the primary did was to store something.
    up: bool,
    next_ticket: Ticket,
    flights: BTreeMap<Ticket, Flight>,
    /// Originals of spooled frames: those that are pending, and those that turned out stored.
    originals: BTreeMap<Offset, Original>,
    /// Spooled frames below may have been sent by an earlier process.
    tried_below: Offset,
    /// Consecutive spooled frames that are being drained.
    batch: BTreeMap<Offset, Stage>,
    drain_from: Option<Instant>,
    /// Frames in the spool, or on their way into it.
    backlog: u64,
}

impl Plan {
    /// With what an earlier process left: `backlog` frames, of which those below
    /// `tried_below` may have been sent.
    pub(crate) fn new(deadline: Duration, backlog: u64, tried_below: Offset) -> Self {
        Self {
            deadline,
            up: backlog == 0,
            next_ticket: 0,
            flights: BTreeMap::new(),
            originals: BTreeMap::new(),
            tried_below,
            batch: BTreeMap::new(),
            drain_from: None,
            backlog,
        }
    }

    /// Frames that wait in the spool.
    pub(crate) fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Where a new frame goes; `ready` is what the primary says of itself. While
    /// the primary is down the backlog is what finds out that it is back.
    pub(crate) fn route(&mut self, now: Instant, ready: bool) -> Route {
        self.up &= ready;
        if !ready || (!self.up && self.backlog > 0) {
            self.backlog += 1;
            return Route::Spool;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let flight = Flight {
            due: now + self.deadline,
            original: Original::Pending,
            copy: Copy::None,
            answered: false,
        };
        self.flights.insert(ticket, flight);
        Route::Primary(ticket)
    }

    /// A frame that was routed to the spool is not in it after all.
    pub(crate) fn not_spooled(&mut self) {
        self.backlog -= 1;
    }

    /// The primary's last word on a frame that was routed to it.
    pub(crate) fn reported(&mut self, ticket: Ticket, report: Report) -> Option<Answer> {
        self.up = report == Report::Stored || (self.up && report == Report::TooLarge);
        let flight = self.flights.get_mut(&ticket)?;
        flight.original = match report {
            Report::Stored => Original::Stored,
            Report::Refused | Report::TooLarge | Report::Unknown => Original::Failed,
        };
        match (flight.copy, report) {
            (Copy::None | Copy::Wanted { .. } | Copy::Refused, Report::Stored) => {
                self.end(ticket, Answer::Durable)
            }
            (Copy::None | Copy::Wanted { .. }, Report::TooLarge) | (Copy::Refused, _) => {
                self.end(ticket, Answer::Failed)
            }
            (Copy::None, Report::Refused | Report::Unknown) => {
                flight.copy = Copy::Wanted {
                    replay: report == Report::Unknown,
                    reason: Reason::Failed,
                };
                None
            }
            (Copy::Writing, Report::Stored) => {
                flight.answered = true;
                Some(Answer::Durable)
            }
            // The copy that is on its way answers.
            (Copy::Wanted { .. } | Copy::Writing, _) => None,
            (Copy::At(offset), _) => {
                self.flights.remove(&ticket);
                self.settle(offset, report);
                None
            }
        }
    }

    fn settle(&mut self, offset: Offset, report: Report) {
        if report == Report::Stored {
            self.originals.insert(offset, Original::Stored);
        } else {
            self.originals.remove(&offset);
        }
    }

    fn end(&mut self, ticket: Ticket, answer: Answer) -> Option<Answer> {
        let flight = self.flights.remove(&ticket)?;
        (!flight.answered).then_some(answer)
    }

    /// The next frame that must go to the spool: one that failed, or is late.
    pub(crate) fn next_to_spool(&mut self, now: Instant) -> Option<ToSpool> {
        let (ticket, flight) = self
            .flights
            .iter_mut()
            .find(|(_, flight)| match flight.copy {
                Copy::Wanted { .. } => true,
                Copy::None => flight.due <= now,
                Copy::Writing | Copy::Refused | Copy::At(_) => false,
            })?;
        let (replay, reason) = match flight.copy {
            Copy::Wanted { replay, reason } => (replay, reason),
            _ => (true, Reason::Late),
        };
        flight.copy = Copy::Writing;
        self.up = false;
        self.backlog += 1;
        Some(ToSpool {
            ticket: *ticket,
            replay,
            reason,
        })
    }

    /// The spool has synced the frame.
    pub(crate) fn spooled(&mut self, ticket: Ticket, offset: Offset) -> Option<Answer> {
        let flight = self.flights.get_mut(&ticket)?;
        let answer = (!flight.answered).then_some(Answer::Durable);
        flight.answered = true;
        match flight.original {
            Original::Pending => {
                flight.copy = Copy::At(offset);
                self.originals.insert(offset, Original::Pending);
            }
            Original::Stored => {
                self.originals.insert(offset, Original::Stored);
                self.flights.remove(&ticket);
            }
            Original::Failed => {
                self.flights.remove(&ticket);
            }
        }
        answer
    }

    /// The spool did not take the frame.
    pub(crate) fn spool_refused(&mut self, ticket: Ticket) -> Option<Answer> {
        self.backlog -= 1;
        let flight = self.flights.get_mut(&ticket)?;
        match flight.original {
            Original::Pending => {
                flight.copy = Copy::Refused;
                None
            }
            Original::Stored | Original::Failed => self.end(ticket, Answer::Failed),
        }
    }

    /// When a frame is late that is not yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let open = self.flights.values().filter(|f| f.copy == Copy::None);
        open.map(|flight| flight.due).min()
    }

    /// Whether somebody waits for an answer.
    pub(crate) fn has_waiters(&self) -> bool {
        self.flights.values().any(|flight| !flight.answered)
    }

    /// Whether the frames of a batch are being drained.
    pub(crate) fn is_draining(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Takes up the next frames of the spool, in order.
    pub(crate) fn begin(&mut self, offsets: impl IntoIterator<Item = Offset>) {
        let tried_below = self.tried_below;
        let stages = offsets.into_iter().map(|offset| {
            let tried = offset < tried_below;
            (offset, Stage::ToSend { tried })
        });
        self.batch.extend(stages);
    }

    /// The next frame of the batch to send. While the primary is down, one at a
    /// time; never one whose original may yet arrive.
    pub(crate) fn next_to_drain(&mut self, now: Instant) -> Option<ToDrain> {
        let waits = self.drain_from.is_some_and(|from| now < from);
        let sent = self.batch.values().any(|stage| *stage == Stage::Sent);
        if waits || (!self.up && sent) {
            return None;
        }
        for (offset, stage) in &mut self.batch {
            let Stage::ToSend { tried } = *stage else {
                continue;
            };
            match self.originals.get(offset) {
                Some(Original::Pending) => return None,
                Some(Original::Stored) => *stage = Stage::Done,
                Some(Original::Failed) | None => {
                    *stage = Stage::Sent;
                    return Some(ToDrain {
                        offset: *offset,
                        replay: tried,
                    });
                }
            }
        }
        None
    }

    /// The primary's last word on an attempt to drain a frame.
    pub(crate) fn drain_reported(
        &mut self,
        offset: Offset,
        replay: bool,
        report: Report,
        now: Instant,
    ) {
        self.up = report == Report::Stored;
        let stage = match report {
            Report::Stored => Stage::Done,
            Report::Refused | Report::TooLarge => Stage::ToSend { tried: replay },
            Report::Unknown => Stage::ToSend { tried: true },
        };
        self.drain_from = (!self.up).then(|| now + DRAIN_AGAIN_AFTER);
        self.batch.insert(offset, stage);
    }

    /// Ends the batch if the primary has all of it; the position behind it.
    pub(crate) fn end_batch(&mut self) -> Option<Offset> {
        let done = self.batch.values().all(|stage| *stage == Stage::Done);
        let next = *self.batch.keys().next_back()? + 1;
        if !done {
            return None;
        }
        self.backlog = self.backlog.saturating_sub(self.batch.len() as u64);
        self.batch.clear();
        self.originals = self.originals.split_off(&next);
        Some(next)
    }
}

#[cfg(test)]
mod tests;
