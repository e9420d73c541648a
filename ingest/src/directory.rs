//! Whose a request is: projects by slug or UUID, API keys by their hash.
//!
//! A [`Snapshot`] in memory answers. [`Directory::follow`] keeps it: it listens
//! for changes, reads again when one comes, and asks the listening connection
//! for a sign of life every two seconds. An answer on that connection proves
//! that every change committed before it has been heard of, so the snapshot is
//! *current* for some seconds after. A copy on disk serves a start without Postgres.
//!
//! What always holds: what the snapshot knows is answered without I/O. What a
//! current snapshot does not know is asked for, within bounds: a few questions
//! at a time, each for a second, answers remembered for [`REMEMBERED`]. What a
//! snapshot that may be behind does not know is never refused as unknown.
//!
//! Sessions are not in the snapshot: see `docs/decisions/0030`.

mod disk;
pub(crate) mod handle;
mod postgres;
mod snapshot;

use std::future::Future;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use sluice_schema::id::ProjectId;
use sluice_schema::postgres::UsedKeys;
use sqlx::PgPool;
use sqlx::types::chrono::Utc;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::disk::Copy;
use self::postgres::{Changes, Credential};
use self::snapshot::{KeyHash, Rows, Snapshot};
use crate::metrics;
use crate::outcome::Outcome;

/// A snapshot is current for so long after a sign of life.
const CURRENT: Duration = Duration::from_secs(5);
/// Between two signs of life, and how long one may take.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// The snapshot is read again at least this often, whatever was heard.
const READ_AGAIN: Duration = Duration::from_mins(1);
/// Changes that come close together are read together.
const TOGETHER: Duration = Duration::from_millis(20);
/// How long reading may take; a dead network would let it wait for ever.
const READ: Duration = Duration::from_secs(10);
/// A pause before Postgres is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer to a question is remembered: shorter than the 5 s in which
/// a revocation must reach every edge.
const REMEMBERED: Duration = Duration::from_secs(4);
/// Answers that are remembered at once, of each kind.
const MAX_REMEMBERED: u64 = 100_000;
/// Questions under way at once.
const MAX_QUESTIONS: usize = 4;
/// How long a question may wait for its turn, and then for its answer.
const QUESTION: Duration = Duration::from_secs(1);

/// What the directory says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This project's.
    Known(ProjectId),
    /// No project's.
    Nobody,
    /// Postgres is away.
    CannotTell,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    /// Too many questions.
    Busy,
    /// Postgres is away.
    Away,
}

/// See the module's description.
pub struct Directory {
    snapshot: ArcSwap<Snapshot>,
    loaded: AtomicBool,
    postgres: PgPool,
    copy: Option<Copy>,
    /// Times are milliseconds after this.
    origin: Instant,
    /// Until when the snapshot is current.
    current_until_ms: AtomicU64,
    used_keys: UsedKeys,
    questions: Semaphore,
    projects: Cache<String, Option<ProjectId>>,
    credentials: Cache<(KeyHash, Option<Box<str>>), Credential>,
}

impl Directory {
    /// Begins with the copy on disk at `copy`, if there is one. Call
    /// [`follow`](Self::follow) to keep up with Postgres, from a pool
    /// that connects when it is used.
    pub fn open(postgres: PgPool, copy: Option<PathBuf>) -> Self {
        let copy = copy.map(Copy::at);
        let rows = copy.as_ref().and_then(Copy::read);
        Self {
            loaded: AtomicBool::new(rows.is_some()),
            snapshot: ArcSwap::from_pointee(
                rows.map(|rows| Snapshot::of(&rows)).unwrap_or_default(),
            ),
            postgres,
            copy,
            origin: Instant::now(),
            current_until_ms: AtomicU64::new(0),
            used_keys: UsedKeys::default(),
            questions: Semaphore::new(MAX_QUESTIONS),
            projects: remembering(),
            credentials: remembering(),
        }
    }

    /// Whether there is a snapshot at all.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Whether the snapshot is known to be what Postgres holds.
    pub fn is_current(&self) -> bool {
        self.now_ms() < self.current_until_ms.load(Ordering::Relaxed)
    }

    /// Keeps the snapshot until `stop` is cancelled.
    pub async fn follow(&self, stop: CancellationToken) {
        let following = async {
            loop {
                if let Err(error) = self.follow_connection().await {
                    tracing::warn!(%error, "the directory cannot follow Postgres, goes on with what it has");
                }
                self.behind();
                tokio::time::sleep(RETRY).await;
            }
        };
        let storing = async {
            loop {
                tokio::time::sleep(UsedKeys::STORE_EVERY).await;
                self.store_used_keys().await;
            }
        };
        let both = async { tokio::join!(following, storing) };
        stop.run_until_cancelled(both).await;
    }

    /// Stores which API keys were used since the last time.
    pub async fn store_used_keys(&self) {
        let stored = self.used_keys.store(&self.postgres, Utc::now());
        let stored = timeout(READ, stored).await;
        if let Err(error) = stored.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
            tracing::warn!(%error, "cannot store yet which API keys were used");
        }
    }

    async fn follow_connection(&self) -> Result<(), sqlx::Error> {
        // It listens before it reads, so that no change falls between.
        let mut changes = Changes::listen(&self.postgres, SIGN_OF_LIFE).await?;
        loop {
            self.load().await?;
            let read_at = Instant::now();
            while read_at.elapsed() < READ_AGAIN {
                if changes.wait(SIGN_OF_LIFE, TOGETHER).await? {
                    break;
                }
                self.confirm();
            }
        }
    }

    /// Reads everything. The snapshot is current from the moment before.
    /// [`follow`](Self::follow) does it; whoever would rather wait than refuse
    /// its first requests does it before.
    ///
    /// # Errors
    /// Postgres is away.
    pub async fn load(&self) -> Result<(), sqlx::Error> {
        let rows = timeout(READ, postgres::read(&self.postgres)).await;
        let rows = rows.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        metrics::directory_read(rows.is_ok());
        let rows = rows?;
        self.snapshot.store(Snapshot::of(&rows).into());
        if !self.loaded.swap(true, Ordering::Relaxed) {
            tracing::info!(
                projects = rows.projects.len(),
                keys = rows.keys.len(),
                "directory loaded"
            );
        }
        self.confirm();
        self.keep(rows).await;
        Ok(())
    }

    async fn keep(&self, rows: Rows) {
        let Some(copy) = self.copy.clone() else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || copy.write(&rows)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the directory's copy on disk could not be written");
        }
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }

    fn confirm(&self) {
        let until = self.now_ms() + CURRENT.as_millis() as u64;
        self.current_until_ms.store(until, Ordering::Relaxed);
        metrics::directory_current(true);
    }

    fn behind(&self) {
        self.current_until_ms.store(0, Ordering::Relaxed);
        metrics::directory_current(false);
    }

    /// The project that `handle`, a slug or a UUID, names. From memory.
    pub(crate) fn project(&self, handle: &str) -> Option<ProjectId> {
        self.snapshot.load().project(handle)
    }

    /// The same for a handle that the snapshot does not know.
    pub(crate) async fn look_up_project(&self, handle: &str) -> Found {
        if !self.is_current() {
            return Found::CannotTell;
        }
        let question = self.ask(postgres::project(&self.postgres, handle));
        let answer = self.projects.try_get_with_by_ref(handle, question).await;
        match answer.map_err(|unanswered| *unanswered) {
            Ok(Some(project)) => Found::Known(project),
            // So many strange names, and the snapshot is current: it is to be believed.
            Ok(None) | Err(Unanswered::Busy) => Found::Nobody,
            Err(Unanswered::Away) => Found::CannotTell,
        }
    }

    /// Whose a request with these headers is (telemetry.md §0): an API key's
    /// project, or the project that a session's user is a member of and names.
    pub(crate) async fn authorise(&self, headers: &HeaderMap) -> Result<ProjectId, Outcome> {
        let token = bearer(headers).ok_or(Outcome::Unauthorized)?;
        let named = named_project(headers);
        let hash = KeyHash(Sha256::digest(token).into());
        if let Some(project) = self.snapshot.load().key(&hash) {
            self.of_key(project, named)?;
            self.used_keys.note(hash.0);
            return Ok(project);
        }
        if !self.is_current() {
            return Err(Outcome::DirectoryUnavailable);
        }
        match self.look_up_credential(hash, named).await? {
            Credential::Nobody => Err(Outcome::Unauthorized),
            Credential::Key { project, slug } => match named {
                Some(named) if named != &*slug => Err(Outcome::UnknownProject),
                _ => {
                    self.used_keys.note(hash.0);
                    Ok(project)
                }
            },
            Credential::Session { .. } if named.is_none() => Err(Outcome::ProjectMissing),
            Credential::Session { project } => project.ok_or(Outcome::UnknownProject),
        }
    }

    /// A key acts on its own project; the header may only agree.
    fn of_key(&self, project: ProjectId, named: Option<&str>) -> Result<(), Outcome> {
        match named {
            Some(named) if self.project(named) != Some(project) => Err(Outcome::UnknownProject),
            _ => Ok(()),
        }
    }

    async fn look_up_credential(
        &self,
        hash: KeyHash,
        named: Option<&str>,
    ) -> Result<Credential, Outcome> {
        let question = self.ask(postgres::credential(&self.postgres, hash, named));
        let key = (hash, named.map(Box::from));
        let answer = self.credentials.try_get_with(key, question).await;
        answer.map_err(|_| Outcome::DirectoryUnavailable)
    }

    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Unanswered> {
        let turn = timeout(QUESTION, self.questions.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Unanswered::Busy);
        };
        match timeout(QUESTION, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Unanswered::Away),
        }
    }
}

/// An empty cache of answers.
fn remembering<K, V>() -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(MAX_REMEMBERED)
        .time_to_live(REMEMBERED)
        .build()
}

/// The token of `Authorization: Bearer <token>`; the scheme in any case.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

/// `X-Project`, where it is not blank. What cannot be a slug names nobody's project.
fn named_project(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("x-project")?.as_bytes().trim_ascii();
    let named = std::str::from_utf8(value).ok();
    let named = named.map(|named| {
        if handle::is_possible(named) || named.is_empty() {
            named
        } else {
            "?"
        }
    });
    named.or(Some("?")).filter(|named| !named.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        [(name.parse().unwrap(), HeaderValue::from_static(value))]
            .into_iter()
            .collect()
    }

    #[test]
    fn a_token_stands_behind_its_scheme() {
        let token = |value| bearer(&with("authorization", value)).map(<[u8]>::to_vec);
        assert_eq!(token("Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(token("bEARER  abc"), Some(b"abc".to_vec()));
        for other in ["", "abc", "Bearer", "Bearer ", "Basic abc", "Bearerabc"] {
            assert_eq!(token(other), None, "{other}");
        }
    }

    #[test]
    fn a_blank_project_is_none_and_an_impossible_one_names_nobody() {
        let named = |value| named_project(&with("x-project", value)).map(str::to_owned);
        assert_eq!(named("acme"), Some("acme".to_owned()));
        assert_eq!(named("  "), None);
        assert_eq!(named("Not A Slug"), Some("?".to_owned()));
        assert_eq!(named_project(&HeaderMap::new()), None);
    }
}
