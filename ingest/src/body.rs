//! Gathers a request's body into one buffer.
//!
//! What always holds: never more than [`MAX_BODY_BYTES`] of one body is kept;
//! all bodies that are still being gathered take no more than their budget
//! together; a body that came in one piece is not copied.

use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use sluice_schema::wire::MAX_BODY_BYTES;

use crate::outcome::Outcome;

/// How much memory unfinished bodies may take together.
pub(crate) struct Budget {
    taken_bytes: AtomicUsize,
    max_bytes: usize,
}

impl Budget {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            taken_bytes: AtomicUsize::new(0),
            max_bytes,
        }
    }

    fn share(&self) -> Share<'_> {
        Share {
            budget: self,
            bytes: 0,
        }
    }
}

/// What one body has taken; given back when it is dropped.
struct Share<'b> {
    budget: &'b Budget,
    bytes: usize,
}

impl Share<'_> {
    fn grow(&mut self, bytes: usize) -> Result<(), Outcome> {
        let taken = self.budget.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if taken + bytes > self.budget.max_bytes {
            return Err(Outcome::Overloaded);
        }
        Ok(())
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let taken = &self.budget.taken_bytes;
        taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The whole body, as sent.
pub(crate) async fn gather(body: &mut Incoming, budget: &Budget) -> Result<Bytes, Outcome> {
    let Some(first) = next(body).await? else {
        return Ok(Bytes::new());
    };
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = next(body).await? else {
        return Ok(first);
    };
    let mut share = budget.share();
    share.grow(first.len() + second.len())?;
    let mut gathered = BytesMut::from(first);
    push(&mut gathered, &second)?;
    while let Some(piece) = next(body).await? {
        share.grow(piece.len())?;
        push(&mut gathered, &piece)?;
    }
    Ok(gathered.freeze())
}

fn push(gathered: &mut BytesMut, piece: &[u8]) -> Result<(), Outcome> {
    if gathered.len() + piece.len() > MAX_BODY_BYTES {
        return Err(Outcome::TooLarge);
    }
    gathered.extend_from_slice(piece);
    Ok(())
}

/// The next piece that is not empty; trailers are skipped.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Outcome> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error))?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn broken(error: &hyper::Error) -> Outcome {
    let mut source = error.source();
    while let Some(cause) = source {
        let io = cause.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) {
            return Outcome::Slow;
        }
        source = cause.source();
    }
    Outcome::BrokenOff
}
