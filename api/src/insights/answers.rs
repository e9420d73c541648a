//! Answers that many viewers share.
//!
//! An answer belongs to a project, a question (route, parameters, window) and a
//! state of the folds. Whoever asks first asks the store; who asks meanwhile
//! waits for the same answer; who asks later has it from memory until the folds
//! move on. So no answer is staler than the folds, and a thousand viewers cost
//! one query (docs/decisions/0050).
//!
//! Some answers do not come from folds, and cost more than a second's wait
//! ([`Paced`]): those are renewed behind the back of who asks, for about a
//! twentieth of the time, and are never older than [`STALEST`].

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moka::future::Cache;
use sluice_schema::id::ProjectId;
use tokio::time::Instant;

use super::reader::ReadError;
use crate::error::ApiResult;

/// How old a paced answer is at most when it is given. Counts are to be seen
/// within a minute.
const STALEST: Duration = Duration::from_secs(30);
/// Asking takes at most this share of the time: one part in so many.
const SHARE: u32 = 20;
const SHORTEST_PACE: Duration = Duration::from_secs(1);
/// Leaves time to be asked and to answer before the last answer is too old.
const LONGEST_PACE: Duration = Duration::from_secs(15);
const ASKED: &str = "sluice_api_answers_asked_total";

/// Answers of one kind of question.
#[derive(Clone)]
pub(super) struct Answers<Q, A> {
    /// As metrics call it.
    kind: &'static str,
    cache: Cache<(ProjectId, u64, Q), Arc<A>>,
}

impl<Q, A> Answers<Q, A>
where
    Q: Clone + Eq + Hash + Send + Sync + 'static,
    A: Send + Sync + 'static,
{
    /// Keeps so many at most, and none for longer than that: an answer of an
    /// older version is never asked for again.
    pub(super) fn new(kind: &'static str, (most, kept): (u64, Duration)) -> Self {
        let cache = Cache::builder().max_capacity(most).time_to_live(kept);
        Self {
            kind,
            cache: cache.build(),
        }
    }

    /// The answer of this version, by `ask` if nobody has it yet. A failure is
    /// told to all who wait, and is not kept.
    pub(super) async fn get(
        &self,
        project: ProjectId,
        version: u64,
        question: &Q,
        ask: impl Future<Output = Result<A, ReadError>>,
    ) -> ApiResult<Arc<A>> {
        let key = (project, version, question.clone());
        let ask = async {
            metrics::counter!(ASKED, "kind" => self.kind).increment(1);
            ask.await.map(Arc::new)
        };
        Ok(self.cache.try_get_with(key, ask).await?)
    }
}

/// Answers of one kind of question that no version of the folds tells apart.
#[derive(Clone)]
pub(super) struct Paced<Q, A> {
    /// As metrics call it.
    kind: &'static str,
    cache: Cache<(ProjectId, Q), Arc<Kept<A>>>,
}

/// An answer, and what it cost.
struct Kept<A> {
    answer: Arc<A>,
    asked: Instant,
    took: Duration,
    is_renewed: AtomicBool,
}

impl<A> Kept<A> {
    async fn ask(
        kind: &'static str,
        ask: impl Future<Output = Result<A, ReadError>>,
    ) -> Result<Arc<Self>, ReadError> {
        metrics::counter!(ASKED, "kind" => kind).increment(1);
        let asked = Instant::now();
        let answer = Arc::new(ask.await?);
        Ok(Arc::new(Self {
            answer,
            asked,
            took: asked.elapsed(),
            is_renewed: AtomicBool::new(false),
        }))
    }

    /// Whether it is for the caller to renew it: time for it, and nobody else has begun.
    fn is_due(&self) -> bool {
        let pace = (self.took * SHARE).clamp(SHORTEST_PACE, LONGEST_PACE);
        self.asked.elapsed() >= pace && !self.is_renewed.swap(true, Ordering::Relaxed)
    }
}

impl<Q, A> Paced<Q, A>
where
    Q: Clone + Eq + Hash + Send + Sync + 'static,
    A: Send + Sync + 'static,
{
    /// Keeps so many at most.
    pub(super) fn new(kind: &'static str, most: u64) -> Self {
        let cache = Cache::builder().max_capacity(most).time_to_live(STALEST);
        Self {
            kind,
            cache: cache.build(),
        }
    }

    /// The newest answer there is, by `ask` if there is none. One that is due to
    /// be renewed is given all the same, and asked for once more meanwhile; if
    /// that fails it is given until it is too old.
    pub(super) async fn get(
        &self,
        project: ProjectId,
        question: &Q,
        ask: impl Future<Output = Result<A, ReadError>> + Send + 'static,
    ) -> ApiResult<Arc<A>> {
        let key = (project, question.clone());
        let ask = Kept::ask(self.kind, ask);
        if let Some(kept) = self.cache.get(&key).await {
            if kept.is_due() {
                tokio::spawn(renew(self.kind, self.cache.clone(), key, ask));
            }
            return Ok(Arc::clone(&kept.answer));
        }
        let kept = self.cache.try_get_with(key, ask).await?;
        Ok(Arc::clone(&kept.answer))
    }
}

async fn renew<K, A>(
    kind: &'static str,
    cache: Cache<K, Arc<Kept<A>>>,
    key: K,
    ask: impl Future<Output = Result<Arc<Kept<A>>, ReadError>>,
) where
    K: Eq + Hash + Send + Sync + 'static,
    A: Send + Sync + 'static,
{
    match ask.await {
        Ok(kept) => cache.insert(key, kept).await,
        Err(error) => tracing::warn!(%error, kind, "an answer was not renewed"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use clickhouse::error::Error;
    use futures_util::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    const PROJECT: ProjectId = ProjectId(1);

    #[tokio::test]
    async fn a_thousand_viewers_cost_one_question() {
        let answers: Answers<&str, u32> = Answers::new("test", (10, Duration::from_mins(1)));
        let (asked, go) = (AtomicU32::new(0), Notify::new());
        let viewers = (0..1_000).map(|_| {
            answers.get(PROJECT, 1, &"q", async {
                go.notified().await;
                Ok(asked.fetch_add(1, Ordering::Relaxed))
            })
        });
        let all = async {
            tokio::task::yield_now().await;
            go.notify_one();
        };
        let (seen, ()) = tokio::join!(join_all(viewers), all);
        assert!(
            seen.into_iter()
                .all(|answer| *answer.expect("an answer") == 0)
        );
        assert_eq!(asked.into_inner(), 1);
    }

    #[tokio::test]
    async fn an_answer_belongs_to_its_project_version_and_question() {
        let answers: Answers<&str, u32> = Answers::new("test", (10, Duration::from_mins(1)));
        let keys = [
            (PROJECT, 1, "q"),
            (PROJECT, 2, "q"),
            (ProjectId(2), 1, "q"),
            (PROJECT, 1, "r"),
        ];
        for (n, (project, version, question)) in (0..).zip(keys) {
            let answer = answers.get(project, version, &question, async move { Ok(n) });
            assert_eq!(*answer.await.expect("an answer"), n);
        }
        let again = answers.get(PROJECT, 1, &"q", async { panic!("asked again") });
        assert_eq!(*again.await.expect("an answer"), 0);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let answers: Answers<&str, u32> = Answers::new("test", (10, Duration::from_mins(1)));
        let failed = answers.get(PROJECT, 1, &"q", async { Err(Error::TimedOut.into()) });
        assert_eq!(failed.await.expect_err("a failure").status(), 503);
        let answer = answers.get(PROJECT, 1, &"q", async { Ok(7) });
        assert_eq!(*answer.await.expect("an answer"), 7);
    }

    async fn after(pause: Duration, answers: &Paced<&'static str, u32>, answer: u32) -> u32 {
        tokio::time::advance(pause).await;
        let ask = async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(answer)
        };
        let given = answers.get(PROJECT, &"q", ask).await;
        *given.expect("an answer")
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_answer_to_be_renewed() {
        let answers = Paced::new("test", 10);
        assert_eq!(after(Duration::ZERO, &answers, 1).await, 1);
        let pace = Duration::from_millis(100) * SHARE;
        assert_eq!(after(pace / 2, &answers, 2).await, 1, "not due");
        assert_eq!(after(pace / 2, &answers, 3).await, 1, "renewed by this one");
        assert_eq!(
            after(Duration::ZERO, &answers, 4).await,
            1,
            "and by no other"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(after(Duration::ZERO, &answers, 5).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_renewed_before_it_is_too_old() {
        let answers = Paced::new("test", 10);
        let slow = async |answer| {
            let ask = async move {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(answer)
            };
            *answers.get(PROJECT, &"q", ask).await.expect("an answer")
        };
        assert_eq!(slow(1).await, 1);
        tokio::time::advance(STALEST / 2).await;
        assert_eq!(slow(2).await, 1);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(slow(3).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_cannot_be_renewed_is_given_on() {
        let answers = Paced::new("test", 10);
        assert_eq!(after(Duration::ZERO, &answers, 1).await, 1);
        tokio::time::advance(STALEST / 2).await;
        let fails = async { Err(Error::TimedOut.into()) };
        let given = answers.get(PROJECT, &"q", fails).await;
        assert_eq!(*given.expect("the old one"), 1);
        tokio::task::yield_now().await;
        assert_eq!(after(Duration::ZERO, &answers, 2).await, 1);
        let failed = answers.get(PROJECT, &"other", async { Err(Error::TimedOut.into()) });
        assert_eq!(failed.await.expect_err("a failure").status(), 503);
    }
}
