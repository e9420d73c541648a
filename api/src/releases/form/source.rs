//! The body of an upload on its way to the parser of its parts.
//!
//! | A client cannot | because |
//! |---|---|
//! | fill the memory | the parser gets a chunk only if it can do nothing with what it holds, and none once it holds [`HELD_BYTES`] of one header |
//! | keep its place for nothing | we wait at most [`PATIENCE`] in all for each [`PORTION_BYTES`] |
//!
//! The parser by itself takes a chunk, if there is one, whenever it is asked
//! for anything: small parts before a large one would let all of it in.

use std::error::Error;
use std::future::poll_fn;
use std::iter::successors;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, Sleep, sleep};

use crate::error::ApiError;

/// The largest header of a part.
pub(super) const HELD_BYTES: usize = 16 * 1024;
/// How long a client may let us wait for each portion.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// With [`PATIENCE`]: at least 70 kbit/s.
pub(super) const PORTION_BYTES: usize = 256 * 1024;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why no more of a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the header of a part is larger than {HELD_BYTES} bytes")]
    Header,
    #[error("the body arrives too slowly")]
    Pace,
}

impl Refusal {
    /// The one that an error of the parser comes from.
    pub(super) fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut causes = successors(Some(error), |error| (*error).source());
        causes.find_map(|cause| cause.downcast_ref().copied())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Header => Self::bad_request(refusal.to_string()),
            Refusal::Pace => Self::timed_out(refusal.to_string()),
        }
    }
}

/// Lets chunks of a [`Source`] through to the parser, one at a time.
#[derive(Debug, Default)]
pub(super) struct Tap {
    is_open: AtomicBool,
    /// Since the parser last made something of it.
    given_bytes: AtomicUsize,
}

impl Tap {
    /// What the parser makes of what it holds, and of as much more as that
    /// needs.
    pub(super) async fn draw<F: Future>(&self, parsed: F) -> F::Output {
        let mut parsed = pin!(parsed);
        self.given_bytes.store(0, Ordering::Relaxed);
        poll_fn(|cx| {
            loop {
                match parsed.as_mut().poll(cx) {
                    // It was shut, or a chunk that has come shut it.
                    Poll::Pending if !self.is_open.swap(true, Ordering::Relaxed) => {}
                    outcome => return outcome,
                }
            }
        })
        .await
    }

    fn take(&self, bytes: usize) {
        self.is_open.store(false, Ordering::Relaxed);
        self.given_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A body that flows as far as its [`Tap`] is open.
pub(super) struct Source<S> {
    inner: S,
    tap: Arc<Tap>,
    pace: Pace,
    waiting: Option<Waiting>,
}

struct Waiting {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl<S> Source<S> {
    pub(super) fn new(inner: S, tap: Arc<Tap>) -> Self {
        Self {
            inner,
            tap,
            pace: Pace::default(),
            waiting: None,
        }
    }

    /// Until the client has been waited for too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        let left = self.pace.left();
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            end: Box::pin(sleep(left)),
        });
        ready!(waiting.end.as_mut().poll(cx));
        Poll::Ready(Refusal::Pace)
    }
}

impl<S, E> Stream for Source<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<BoxError>,
{
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if !this.tap.is_open.load(Ordering::Relaxed) {
            // Whoever opens it polls again.
            return Poll::Pending;
        }
        if this.tap.given_bytes.load(Ordering::Relaxed) >= HELD_BYTES {
            return Poll::Ready(Some(Err(Refusal::Header.into())));
        }
        let Poll::Ready(next) = this.inner.poll_next_unpin(cx) else {
            let refusal = ready!(this.wait(cx));
            return Poll::Ready(Some(Err(refusal.into())));
        };
        let waited = this.waiting.take().map(|waiting| waiting.since.elapsed());
        let bytes = next
            .as_ref()
            .map_or(0, |n| n.as_ref().map_or(0, Bytes::len));
        this.pace.record(waited.unwrap_or_default(), bytes);
        this.tap.take(bytes);
        Poll::Ready(next.map(|next| next.map_err(Into::into)))
    }
}

/// What of a portion has come, and how long we waited for it. Time that we
/// need ourselves is not the client's.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: usize,
}

impl Pace {
    fn left(&self) -> Duration {
        PATIENCE.saturating_sub(self.waited)
    }

    fn record(&mut self, waited: Duration, bytes: usize) {
        self.waited += waited;
        self.bytes += bytes;
        if self.bytes >= PORTION_BYTES {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests;
