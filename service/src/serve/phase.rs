//! Time-outs of a connection, kept by its IO.
//!
//! hyper's own head time-out also runs while a connection idles between two
//! requests, so it cannot be both 15 s for a slow head and 90 s for an idle
//! device. Here the service says in which [`Phase`] the connection is, and a
//! read that has to wait past the phase's deadline fails. One timer serves all
//! phases and is left alone on the hot path: it may fire early, then it looks
//! at the true deadline.
//!
//! What always holds: a deadline counts from the first wait in its phase, and
//! no byte that trickles in moves it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a connection may wait for its peer.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Between two requests, and before the first.
    pub idle: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// From the end of the head to the end of the body.
    pub body: Duration,
    /// For the rest of a body that was refused before it was read.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // Devices flush every 30 s and keep their connections (telemetry.md §10.3).
            idle: Duration::from_secs(100),
            head: Duration::from_secs(15),
            body: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// The first byte of a request.
    Idle = 0,
    /// The rest of a head.
    Head = 1,
    /// A body that is to come in time.
    Body = 2,
    /// Nothing that the peer has to do, or nothing that is ours to time.
    Working = 3,
    /// The rest of a body that nobody wants.
    Drain = 4,
}

const PHASE_BITS: u32 = 3;

/// A phase, told apart from the same phase of another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u32);

impl Stamp {
    fn phase(self) -> Phase {
        match self.0 & ((1 << PHASE_BITS) - 1) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Body,
            4 => Phase::Drain,
            _ => Phase::Working,
        }
    }

    fn next(self, phase: Phase) -> Self {
        let turn = (self.0 >> PHASE_BITS).wrapping_add(1);
        Self(turn << PHASE_BITS | phase as u32)
    }
}

/// The phase of one connection, shared by its IO and its service.
#[derive(Default)]
pub struct Phases(AtomicU32);

impl Phases {
    fn now(&self) -> Stamp {
        Stamp(self.0.load(Ordering::Relaxed))
    }

    /// The connection is in `phase` from now on.
    pub fn enter(&self, phase: Phase) -> Stamp {
        let next = self.now().next(phase);
        self.0.store(next.0, Ordering::Relaxed);
        next
    }

    /// The same, unless the connection has left the phase of `from` already.
    pub fn follow(&self, from: Stamp, phase: Phase) {
        let next = from.next(phase).0;
        // Another phase has begun: it stays.
        let _ = self
            .0
            .compare_exchange(from.0, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A stream whose reads fail once they have waited past the phase's deadline.
pub(super) struct Timed<S> {
    stream: S,
    phases: Arc<Phases>,
    timeouts: Timeouts,
    /// Whose deadline `deadline` is.
    seen: Option<Stamp>,
    deadline: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<S> Timed<S> {
    pub(super) fn new(stream: S, phases: Arc<Phases>, timeouts: Timeouts) -> Self {
        Self {
            stream,
            phases,
            timeouts,
            seen: None,
            deadline: None,
            timer: Box::pin(sleep_until(Instant::now() + timeouts.idle)),
        }
    }

    fn allowed(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Idle => Some(self.timeouts.idle),
            Phase::Head => Some(self.timeouts.head),
            Phase::Body => Some(self.timeouts.body),
            Phase::Drain => Some(self.timeouts.drain),
            Phase::Working => None,
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stamp = self.phases.now();
        if self.seen != Some(stamp) {
            self.seen = Some(stamp);
            let allowed = self.allowed(stamp.phase());
            self.deadline = allowed.map(|allowed| Instant::now() + allowed);
        }
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Pending => {
                ready!(this.poll_deadline(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                let now = this.phases.now();
                if buffer.filled().len() > before && now.phase() == Phase::Idle {
                    this.phases.follow(now, Phase::Head);
                }
                Poll::Ready(result)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn pair() -> (DuplexStream, Arc<Phases>, Timed<DuplexStream>) {
        let (peer, stream) = duplex(64);
        let phases = Arc::new(Phases::default());
        let timed = Timed::new(stream, Arc::clone(&phases), Timeouts::default());
        (peer, phases, timed)
    }

    /// How long a read waits before it fails, in whole seconds.
    async fn fails_after(timed: &mut Timed<DuplexStream>) -> u64 {
        let started = Instant::now();
        let error = timed.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        started.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_lasts_longer_than_a_slow_head() {
        let (_peer, _phases, mut timed) = pair();
        assert_eq!(fails_after(&mut timed).await, 100);
        let (mut peer, _phases, mut timed) = pair();
        peer.write_u8(b'P').await.unwrap();
        timed.read_u8().await.unwrap();
        assert_eq!(fails_after(&mut timed).await, 15);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_moves_no_deadline() {
        let (mut peer, phases, mut timed) = pair();
        phases.enter(Phase::Body);
        let trickle = tokio::spawn(async move {
            while peer.write_u8(b'x').await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let started = Instant::now();
        while timed.read_u8().await.is_ok() {}
        assert_eq!(started.elapsed().as_secs(), 30);
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_has_deadlines_of_its_own() {
        let (mut peer, phases, mut timed) = pair();
        for _ in 0..3 {
            // Almost too long, but then the head begins.
            let idle = tokio::time::timeout(Duration::from_secs(99), timed.read_u8()).await;
            assert!(idle.is_err());
            peer.write_u8(b'P').await.unwrap();
            timed.read_u8().await.unwrap();
            phases.enter(Phase::Body);
            phases.enter(Phase::Working);
            // However long the log takes.
            let working = tokio::time::timeout(Duration::from_hours(1), timed.read_u8()).await;
            assert!(working.is_err());
            phases.enter(Phase::Idle);
        }
        assert_eq!(fails_after(&mut timed).await, 100);
    }

    #[test]
    fn a_phase_that_was_left_is_not_followed() {
        let phases = Phases::default();
        let drain = phases.enter(Phase::Drain);
        phases.enter(Phase::Body);
        phases.follow(drain, Phase::Idle);
        assert_eq!(phases.now().phase(), Phase::Body);
        let drain = phases.enter(Phase::Drain);
        phases.follow(drain, Phase::Idle);
        assert_eq!(phases.now().phase(), Phase::Idle);
    }
}
