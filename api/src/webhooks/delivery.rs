//! Workers: claim due deliveries, send them, write down what came of it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use sluice_schema::id::ProjectId;
use sluice_schema::postgres::WEBHOOKS_CHANNEL;
use sluice_service::postgres;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::queue::{self, Claimed};
use super::schedule::{self, Verdict};
use super::sender::{Outcome, Outgoing, Sender};
use super::store;
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::ApiResult;

/// How many are sent at once, by this process.
const MAX_IN_FLIGHT: usize = 32;
/// How often to look when nobody calls.
const POLL: Duration = Duration::from_secs(1);
/// An endpoint that has failed for so long is switched off.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(5);

const ATTEMPTS: &str = "sluice_api_webhook_attempts_total";
const SWITCHED_OFF: &str = "sluice_api_webhooks_switched_off_total";

/// Delivers what becomes due, until it is dropped.
pub(crate) async fn deliver_forever(state: &ApiState) {
    declare_metrics();
    let sender = match Sender::new(state.policy.allow_private_webhooks) {
        Ok(sender) => sender,
        Err(error) => {
            return tracing::error!(?error, "cannot send webhooks; deliveries wait in Postgres");
        }
    };
    let mut listener = None;
    let mut attempts = JoinSet::new();
    loop {
        let free = MAX_IN_FLIGHT - attempts.len();
        if let Err(error) = start_due(state, &sender, free, &mut attempts).await {
            tracing::warn!(%error, "cannot claim webhook deliveries");
        }
        tokio::select! {
            Some(_) = attempts.join_next() => {}
            () = woken(&state.postgres, &mut listener), if attempts.len() < MAX_IN_FLIGHT => {}
            () = sleep(POLL) => {}
        }
    }
}

/// Makes one attempt at each of at most 32 deliveries that are due, and waits
/// for the outcomes; how many there were.
pub async fn deliver_due(state: &ApiState, sender: &Sender) -> Result<usize, sqlx::Error> {
    let mut attempts = JoinSet::new();
    start_due(state, sender, MAX_IN_FLIGHT, &mut attempts).await?;
    Ok(attempts.join_all().await.len())
}

/// Attempts are tasks of their own, so that none holds a connection of the pool
/// while nobody drives it. They end with the set.
async fn start_due(
    state: &ApiState,
    sender: &Sender,
    limit: usize,
    attempts: &mut JoinSet<()>,
) -> Result<(), sqlx::Error> {
    if limit == 0 {
        return Ok(());
    }
    for claimed in queue::claim(&state.postgres, state.clock.now(), limit).await? {
        let (state, sender) = (state.clone(), sender.clone());
        attempts.spawn(async move { attempt(&state, &sender, &claimed).await });
    }
    Ok(())
}

/// Zero is to be seen before the first event.
fn declare_metrics() {
    for outcome in ["success", "failure"] {
        metrics::counter!(ATTEMPTS, "outcome" => outcome).increment(0);
    }
    metrics::counter!(SWITCHED_OFF).increment(0);
}

/// Returns when a delivery has been written, or when listening has failed.
async fn woken(pool: &PgPool, listener: &mut Option<PgListener>) {
    if listener.is_none() {
        *listener = listen(pool).await.ok();
    }
    match listener {
        Some(listening) => {
            if listening.recv().await.is_err() {
                *listener = None;
            }
        }
        // Polling goes on; the next round tries to listen again.
        None => std::future::pending().await,
    }
}

async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = postgres::listener(pool).await?;
    listener.listen(WEBHOOKS_CHANNEL).await?;
    Ok(listener)
}

async fn attempt(state: &ApiState, sender: &Sender, claimed: &Claimed) {
    let secrets = claimed.secrets();
    let outgoing = Outgoing {
        id: claimed.id,
        url: &claimed.url,
        event: &claimed.event,
        body: &claimed.body,
        secrets: &secrets,
        at: state.clock.now(),
    };
    let outcome = sender.send(&outgoing).await;
    let label = if outcome.error.is_none() {
        "success"
    } else {
        "failure"
    };
    metrics::counter!(ATTEMPTS, "outcome" => label).increment(1);
    if let Err(error) = settle(state, claimed, &outcome).await {
        // The lease will end, and the attempt be made again.
        tracing::warn!(
            error = error.message(),
            delivery = claimed.id,
            "cannot record a webhook delivery"
        );
    }
}

/// Writes down what came of an attempt, unless it is no longer ours to say.
async fn settle(state: &ApiState, claimed: &Claimed, outcome: &Outcome) -> ApiResult<()> {
    let mut change = Change::begin_by_system(state, ProjectId(claimed.project_id)).await?;
    if store::lock(&mut change, claimed.webhook_id)
        .await?
        .is_none()
    {
        return change.undo().await;
    }
    let verdict = schedule::judge(claimed.attempt, outcome.error.is_some(), rand::random());
    if !queue::record(&mut change, claimed, outcome, verdict).await? {
        return change.undo().await;
    }
    let failing_since = queue::note_health(&mut change, claimed.webhook_id, outcome).await?;
    let is_off = is_lost(verdict, failing_since, change.at());
    if is_off {
        switch_off(&mut change, claimed.webhook_id).await?;
    }
    change.commit().await?;
    if is_off {
        metrics::counter!(SWITCHED_OFF).increment(1);
    }
    Ok(())
}

/// Whether to stop bothering an endpoint: a delivery has failed for good, and
/// nothing has succeeded for days.
fn is_lost(verdict: Verdict, failing_since: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    verdict == Verdict::GivenUp && failing_since.is_some_and(|since| now - since >= GIVE_UP_AFTER)
}

async fn switch_off(change: &mut Change, webhook: i64) -> ApiResult<()> {
    queue::deactivate(change, webhook).await?;
    store::cancel_pending(change, webhook).await?;
    let details = json!({ "isActive": false, "reason": "every delivery failed for 5 days" });
    change
        .audit(Action::WEBHOOK_UPDATED, webhook, details)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_lost_when_a_delivery_fails_for_good_after_days_without_success() {
        let since = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let (in_time, late) = (
            since + GIVE_UP_AFTER - TimeDelta::seconds(1),
            since + GIVE_UP_AFTER,
        );
        assert!(is_lost(Verdict::GivenUp, Some(since), late));
        assert!(!is_lost(Verdict::GivenUp, Some(since), in_time));
        assert!(!is_lost(Verdict::GivenUp, None, late));
        // One that is seldom told anything may stumble twice in a week.
        assert!(!is_lost(
            Verdict::Retry(TimeDelta::seconds(5)),
            Some(since),
            late
        ));
    }
}
