//! Answers that many viewers share.
//!
//! An answer belongs to a project, a question (route, parameters, window) and a
//! state of the folds. Whoever asks first asks the store; who asks meanwhile
//! waits for the same answer; who asks later has it from memory until the folds
//! move on. So no answer is staler than the folds, and a thousand viewers cost
//! one query (docs/decisions/0050).

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use sluice_schema::id::ProjectId;

use super::reader::ReadError;
use crate::error::ApiResult;

/// Answers of one kind of question.
#[derive(Clone)]
pub(super) struct Answers<Q, A> {
    cache: Cache<(ProjectId, u64, Q), Arc<A>>,
}

impl<Q, A> Answers<Q, A>
where
    Q: Clone + Eq + Hash + Send + Sync + 'static,
    A: Send + Sync + 'static,
{
    /// Keeps so many at most, and none for longer than that: an answer of an
    /// older version is never asked for again.
    pub(super) fn new(most: u64, kept: Duration) -> Self {
        let cache = Cache::builder().max_capacity(most).time_to_live(kept);
        Self {
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
        let ask = async { ask.await.map(Arc::new) };
        Ok(self.cache.try_get_with(key, ask).await?)
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
        let answers: Answers<&str, u32> = Answers::new(10, Duration::from_mins(1));
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
        let answers: Answers<&str, u32> = Answers::new(10, Duration::from_mins(1));
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
        let answers: Answers<&str, u32> = Answers::new(10, Duration::from_mins(1));
        let failed = answers.get(PROJECT, 1, &"q", async { Err(Error::TimedOut.into()) });
        assert_eq!(failed.await.expect_err("a failure").status(), 503);
        let answer = answers.get(PROJECT, 1, &"q", async { Ok(7) });
        assert_eq!(*answer.await.expect("an answer"), 7);
    }
}
