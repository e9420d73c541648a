//! Tries again until it works or nobody needs it any more.

use std::fmt::Display;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Nobody needs the result any more: the partition was lost, or the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

/// Repeats `attempt` until it succeeds. The first failure of a row and every
/// tenth are logged; a stop is noticed at any point.
pub(crate) async fn until_done<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &'static str,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Stopped> {
    let mut pause = FIRST_PAUSE;
    for failures in 0_u64.. {
        let error = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Stopped),
            done = attempt() => match done {
                Ok(value) => return Ok(value),
                Err(error) => error,
            },
        };
        metrics::retried(what);
        if failures % 10 == 0 {
            tracing::warn!(%error, what, failures, "failed; trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return Err(Stopped),
            () = tokio::time::sleep(pause) => pause = LONGEST_PAUSE.min(pause * 2),
        }
    }
    Err(Stopped)
}
