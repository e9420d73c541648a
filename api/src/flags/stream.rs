//! The flag stream: server-sent events that keep one device's flags true
//! (flags.md §11).
//!
//! A stream has no task and no queue of its own. It is polled by its
//! connection, when the socket takes more: it compares the newest rules with
//! what the device holds, and sends the difference. A slow reader therefore
//! skips what it missed, and costs no memory; one that missed much gets `put`.

mod view;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, stream};
use sluice_schema::id::ProjectId;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::view::View;
use super::ages::Running;
use super::eval::Device;
use super::live::RulesReceiver;
use super::rules::ProjectRules;
use crate::ApiState;

/// Proxies and the client's operating system close what is silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A comment, which clients ignore.
const KEEP_ALIVE_FRAME: &[u8] = b":\n\n";
/// How long a client waits before it connects again.
const RETRY_FRAME: &str = "retry: 5000\n";

/// The body of a stream: everything at once, then what changes, until streams
/// are closed or the project is gone.
pub(super) fn body(
    device: Device,
    project: ProjectId,
    rules: RulesReceiver,
    state: &ApiState,
) -> Body {
    Body::from_stream(events(Connection {
        running: Running::new(project, device.update_uuid(), &device.device_id),
        device: Arc::new(device),
        view: None,
        spoke_at: Instant::now(),
        rules,
        closing: state.flags.closing(),
        state: state.clone(),
    }))
}

struct Connection {
    device: Arc<Device>,
    /// The device and its update, if it runs one.
    running: Option<Running>,
    /// None before the first event.
    view: Option<View>,
    /// When the last frame was made.
    spoke_at: Instant,
    rules: RulesReceiver,
    state: ApiState,
    closing: CancellationToken,
}

fn events(connection: Connection) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(connection, async |mut connection| {
        let frame = connection.next_frame().await?;
        connection.spoke_at = Instant::now();
        Some((Ok(frame), connection))
    })
}

impl Connection {
    /// None: the stream ends.
    async fn next_frame(&mut self) -> Option<Bytes> {
        let closing = self.closing.clone();
        // Changes that do not concern the device are no sign of life.
        let silent_until = self.spoke_at + KEEP_ALIVE;
        while !closing.is_cancelled() {
            // Before what is known is looked at, so that no news is missed.
            let mut learned = self.state.flags.ages().learned();
            let rules = self.rules.borrow_and_update().clone()?;
            if let Some(news) = self.news(&rules) {
                return Some(news);
            }
            let awaits_age = self.view.as_ref().is_some_and(View::awaits_age);
            tokio::select! {
                () = closing.cancelled() => {}
                changed = self.rules.changed() => changed.ok()?,
                _ = learned.changed(), if awaits_age => {}
                () = sleep_until(silent_until) => return Some(self.tick(&rules)),
            }
        }
        None
    }

    /// A sign of life; what changed with time alone, if something did.
    fn tick(&mut self, rules: &ProjectRules) -> Bytes {
        let ages = self.view.as_ref().is_some_and(View::ages);
        let news = if ages { self.news(rules) } else { None };
        news.unwrap_or(Bytes::from_static(KEEP_ALIVE_FRAME))
    }

    /// What the device does not know yet.
    fn news(&mut self, rules: &ProjectRules) -> Option<Bytes> {
        let now_us = self.state.clock.now().timestamp_micros();
        let (running, state) = (self.running, &self.state);
        let age = || running.map(|running| state.flags.ages().of(running));
        if let Some(view) = &mut self.view {
            return view.advance(rules, &age, now_us).map(Bytes::from);
        }
        let view = View::open(Arc::clone(&self.device), rules, &age, now_us);
        let put = format!("{RETRY_FRAME}{}", view.put());
        self.view = Some(view);
        Some(put.into())
    }
}
