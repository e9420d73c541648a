//! Whether Postgres answers, and what becomes meanwhile of those who wait.
//!
//! A pool bounds the wait for a connection, but not for an answer on it: a
//! statement on a server that stands still, or behind a dead network, waits
//! without limit. So one connection of its own asks again and again. While it
//! gets no answer, Postgres is *away*: requests that wait for it are answered
//! 503, in flight or new, within 2 s; workers are dropped and start anew when
//! it is back, because what they waited for may never come.
//!
//! What always holds: while Postgres answers, nobody is cut, however long a
//! statement or an upload takes; a body that is being received is not waiting
//! for Postgres; what can be answered from memory is, whether it is away or not.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use sluice_service::admin::Signal;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::error::{ApiError, ApiResult};

const EVERY: Duration = Duration::from_millis(100);
/// With [`EVERY`], the longest until an outage is noticed: well below the 2 s
/// within which everybody must know.
const PATIENCE: Duration = Duration::from_millis(1200);
/// While Postgres is away, requests get this long to be answered without it.
const GRACE: Duration = Duration::from_millis(500);

/// Whether Postgres is away. Cloning it shares it. Not away, until
/// [`Self::follow`] finds that it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat(watch::Sender<Beat>);

/// What was found last. Outages are counted, so that nobody misses a short one:
/// what was waited for before it may never come after it either.
#[derive(Clone, Copy, Debug, Default)]
struct Beat {
    is_away: bool,
    outages: u64,
}

impl Heartbeat {
    /// Asks Postgres, until it is dropped. Readiness says the same as this.
    pub(crate) async fn follow(&self, pool: &PgPool, readiness: &Signal) {
        let mut connection = None;
        loop {
            let answer = timeout(PATIENCE, ask(pool, &mut connection)).await;
            let answer = answer.map_err(|_| "does not answer".to_owned());
            let answer = answer.and_then(|answer| answer.map_err(|error| error.to_string()));
            if answer.is_err() {
                connection = None;
            }
            self.tell(&answer);
            readiness.set(answer);
            sleep(EVERY).await;
        }
    }

    fn tell(&self, answer: &Result<(), String>) {
        let is_away = answer.is_err();
        let is_news = self.0.send_if_modified(|beat| {
            beat.outages += u64::from(is_away && !beat.is_away);
            std::mem::replace(&mut beat.is_away, is_away) != is_away
        });
        if !is_news {
            return;
        }
        match answer {
            Ok(()) => tracing::info!("Postgres is back"),
            Err(reason) => tracing::warn!(reason, "Postgres is away"),
        }
    }

    /// What `work` comes to, unless Postgres is away for longer than it may take.
    ///
    /// # Errors
    /// 503 with `Retry-After`.
    pub(crate) async fn bound<T>(&self, work: impl Future<Output = T>) -> ApiResult<T> {
        self.bound_but_while(work, watch::Sender::new(false).subscribe())
            .await
    }

    async fn bound_but_while<T>(
        &self,
        work: impl Future<Output = T>,
        receiving: watch::Receiver<bool>,
    ) -> ApiResult<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.give_up(receiving) => Err(ApiError::unavailable("Postgres is away")),
        }
    }

    async fn give_up(&self, mut receiving: watch::Receiver<bool>) {
        let mut before = self.outages();
        sleep(GRACE).await;
        loop {
            self.outage_since(before).await;
            // An error says that the body is gone, received or not.
            let is_gone = receiving.has_changed().is_err();
            if is_gone || !*receiving.borrow() {
                return;
            }
            drop(receiving.wait_for(|receiving| !receiving).await);
            before = self.outages();
        }
    }

    fn outages(&self) -> u64 {
        self.0.borrow().outages
    }

    async fn outage_since(&self, before: u64) {
        self.until(|beat| beat.is_away || beat.outages > before)
            .await;
    }

    async fn until(&self, holds: impl Fn(&Beat) -> bool) {
        // An error would say that we are gone.
        drop(self.0.subscribe().wait_for(holds).await);
    }

    /// Begins when Postgres is there; none if it went away before the end.
    pub(crate) async fn while_here<W: Future>(&self, work: W) -> Option<W::Output> {
        self.until(|beat| !beat.is_away).await;
        let before = self.outages();
        tokio::select! {
            done = work => Some(done),
            () = self.outage_since(before) => None,
        }
    }
}

async fn ask(pool: &PgPool, connection: &mut Option<PgConnection>) -> Result<(), sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(PgConnection::connect_with(&pool.connect_options()).await?),
    };
    connection.ping().await
}

/// Answers 503 for a handler that waits while Postgres is away.
pub(crate) async fn guard(
    State(heartbeat): State<Heartbeat>,
    request: Request,
    next: Next,
) -> Response {
    let (receives, receiving) = watch::channel(false);
    let request = request.map(|body| {
        Body::new(body.map_frame(move |frame| {
            receives.send_replace(true);
            frame
        }))
    });
    let answered = heartbeat.bound_but_while(next.run(request), receiving);
    answered.await.unwrap_or_else(ApiError::into_response)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use axum::http::StatusCode;
    use tokio::time::Instant;

    use super::*;

    fn away() -> Result<(), String> {
        Err("does not answer".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_cut_while_postgres_answers() {
        let heartbeat = Heartbeat::default();
        let work = sleep(Duration::from_hours(1));
        assert!(heartbeat.bound(work).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_as_soon_as_postgres_is_away() {
        let heartbeat = Heartbeat::default();
        let waiting = tokio::spawn({
            let heartbeat = heartbeat.clone();
            async move { heartbeat.bound(pending::<()>()).await }
        });
        sleep(Duration::from_mins(1)).await;
        assert!(!waiting.is_finished());
        let left = Instant::now();
        heartbeat.tell(&away());
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(left.elapsed() < GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sees_nothing_of_an_outage_is_told_after_it() {
        let heartbeat = Heartbeat::default();
        let short = async {
            sleep(GRACE * 2).await;
            // Nobody else runs in between.
            heartbeat.tell(&away());
            heartbeat.tell(&Ok(()));
        };
        let waiting = heartbeat.bound(pending::<()>());
        let working = heartbeat.while_here(pending::<()>());
        let (waited, worked, ()) = tokio::join!(waiting, working, short);
        assert!(waited.is_err() && worked.is_none());
        // What begins after it is not concerned.
        assert!(heartbeat.bound(sleep(GRACE * 2)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_no_postgres_is_answered_while_it_is_away() {
        let heartbeat = Heartbeat::default();
        heartbeat.tell(&away());
        assert!(heartbeat.bound(sleep(GRACE / 2)).await.is_ok());
        let begun = Instant::now();
        assert!(heartbeat.bound(pending::<()>()).await.is_err());
        assert!(begun.elapsed() < GRACE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_received_to_its_end_and_then_there_is_no_waiting() {
        let heartbeat = Heartbeat::default();
        heartbeat.tell(&away());
        let (receives, receiving) = watch::channel(true);
        let work = async {
            sleep(Duration::from_hours(1)).await;
            drop(receives);
            pending::<()>().await;
        };
        let begun = Instant::now();
        let answered = heartbeat.bound_but_while(work, receiving).await;
        assert!(answered.is_err());
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_hours(1) && waited < Duration::from_hours(1) + GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_with_an_outage_and_begins_after_it() {
        let heartbeat = Heartbeat::default();
        let left = async {
            sleep(Duration::from_secs(1)).await;
            heartbeat.tell(&away());
        };
        let (cut, ()) = tokio::join!(heartbeat.while_here(pending::<()>()), left);
        assert_eq!(cut, None);
        let back = async {
            sleep(Duration::from_mins(1)).await;
            heartbeat.tell(&Ok(()));
        };
        let begun = Instant::now();
        let work = heartbeat.while_here(async { begun.elapsed() });
        let (waited, ()) = tokio::join!(work, back);
        assert!(waited >= Some(Duration::from_mins(1)));
    }
}
