//! Bodies of requests that a handler may leave unread.
//!
//! Closing a socket with unread bytes resets it, and a sender that is still
//! busy sending may never read its answer. So what a handler leaves goes back
//! to the connection, which reads on and throws away, within bounds.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

/// Most of a body that is read and thrown away.
const MAX_DRAIN_BYTES: usize = 8 * 1024 * 1024;

/// The body of a request. Dropped early, it is not lost to the connection.
#[derive(Debug)]
pub struct Received {
    /// There until it is dropped.
    incoming: Option<Incoming>,
    /// None if there is nothing to read.
    back: Option<oneshot::Sender<Incoming>>,
}

/// Where the body comes back, if the handler leaves some of it.
#[derive(Debug)]
pub(super) struct Left(Option<oneshot::Receiver<Incoming>>);

impl Received {
    pub(super) fn new(incoming: Incoming) -> (Self, Left) {
        let (back, left) = (!incoming.is_end_stream()).then(oneshot::channel).unzip();
        let received = Self {
            incoming: Some(incoming),
            back,
        };
        (received, Left(left))
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let (Some(incoming), Some(back)) = (self.incoming.take(), self.back.take())
            && !incoming.is_end_stream()
        {
            // Nobody waits for it any more: the answer is on its way already.
            drop(back.send(incoming));
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.incoming.as_ref();
        incoming.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Left {
    /// What is left, once the handler has answered.
    pub(super) fn take(self) -> Option<Incoming> {
        self.0?.try_recv().ok()
    }
}

/// Reads on and throws away. Time is bounded by the connection's phase.
pub(super) async fn drain(mut body: Incoming) {
    let mut drained_bytes = 0;
    while drained_bytes <= MAX_DRAIN_BYTES {
        match body.frame().await {
            Some(Ok(frame)) => drained_bytes += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => return,
        }
    }
}
