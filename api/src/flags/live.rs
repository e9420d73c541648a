//! The rule sets that this process holds, and how they stay true.
//!
//! A project's rules are read when a device first asks, by one query at a time,
//! and from then on behind: Postgres tells of a change (LISTEN), the changes of
//! 200 ms are taken together, and the project is read and compiled anew. A poll
//! is the safety net. Requests read what is in memory; streams wait on it.
//!
//! What always holds: a project is entered here before it is read, so that no
//! change that follows the read goes unnoticed; while Postgres is away, the last
//! rules stay; a generation is published only if something changed.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use futures_util::StreamExt as _;
use futures_util::stream;
use sluice_schema::id::ProjectId;
use sluice_schema::postgres::{DIRECTORY_CHANNEL, FLAGS_CHANNEL};
use sluice_service::postgres;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ages::UpdateAges;
use super::directory::Directory;
use super::limit::{FlagLimits, Limiter};
use super::rules::ProjectRules;
use super::store;

/// Changes that come within this are taken together.
const COALESCE: Duration = Duration::from_millis(200);
/// How often everything is read again, whatever Postgres said.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// How long to wait after Postgres failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Projects that are read at once.
const READS_AT_ONCE: usize = 4;

/// Feature flags as devices see them. Cloning it shares it.
#[derive(Clone)]
pub struct Flags(Arc<Shared>);

struct Shared {
    postgres: PgPool,
    directory: Directory,
    projects: DashMap<ProjectId, Arc<Project>>,
    limiter: Limiter,
    ages: UpdateAges,
    closing: CancellationToken,
}

/// One project that devices asked for.
pub(super) struct Project {
    rules: watch::Sender<Option<Arc<ProjectRules>>>,
    /// Held while the project is read, so that reads never overtake each other.
    reading: Mutex<()>,
}

/// The rules of a project, now and as they change. None before the first read.
pub(super) type RulesReceiver = watch::Receiver<Option<Arc<ProjectRules>>>;

impl Flags {
    /// Holds nothing yet, and follows nothing until [`Self::follow`] runs.
    pub fn new(postgres: PgPool, limits: FlagLimits) -> Self {
        Self(Arc::new(Shared {
            postgres,
            directory: Directory::new(),
            projects: DashMap::new(),
            limiter: Limiter::new(limits),
            ages: UpdateAges::new(),
            closing: CancellationToken::new(),
        }))
    }

    /// Follows Postgres, until it is dropped.
    pub async fn follow(self) {
        loop {
            let Err(error) = self.listen().await;
            tracing::warn!(%error, "the flags cannot be followed in Postgres; trying again");
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Ends all streams, now and later: part of stopping to serve.
    pub fn close(&self) {
        self.0.closing.cancel();
    }

    /// The project of a slug or UUID, if memory knows it.
    pub(super) fn known_project(&self, handle: &str) -> Option<ProjectId> {
        self.0.directory.known_by_handle(handle)
    }

    /// The project of a slug or UUID.
    pub(super) async fn project(&self, handle: &str) -> Result<Option<ProjectId>, sqlx::Error> {
        self.0.directory.by_handle(&self.0.postgres, handle).await
    }

    /// The project of an API key, given its SHA-256 in hex.
    pub(super) async fn project_of_key(
        &self,
        hash: &str,
    ) -> Result<Option<ProjectId>, sqlx::Error> {
        self.0.directory.by_key_hash(&self.0.postgres, hash).await
    }

    /// The present rules of a project, if they were read before.
    pub(super) fn known_rules(&self, id: ProjectId) -> Option<Arc<ProjectRules>> {
        self.0.projects.get(&id)?.rules.borrow().clone()
    }

    /// The present rules of a project.
    pub(super) async fn rules(&self, id: ProjectId) -> Result<Arc<ProjectRules>, sqlx::Error> {
        self.entered(id).current(&self.0.postgres, id).await
    }

    /// The rules of a project as they change; there are some already.
    pub(super) async fn watch(&self, id: ProjectId) -> Result<RulesReceiver, sqlx::Error> {
        let project = self.entered(id);
        project.current(&self.0.postgres, id).await?;
        Ok(project.rules.subscribe())
    }

    /// Who may ask how often.
    pub(super) fn limiter(&self) -> &Limiter {
        &self.0.limiter
    }

    /// When devices had their updates.
    pub(super) fn ages(&self) -> &UpdateAges {
        &self.0.ages
    }

    /// Asks the store of what devices reported for what flags need of it, for good.
    pub async fn keep_asking(&self, clickhouse: &clickhouse::Client) {
        self.0.ages.keep_asking(clickhouse).await;
    }

    /// Cancelled when streams are to end.
    pub(super) fn closing(&self) -> CancellationToken {
        self.0.closing.clone()
    }

    fn entered(&self, id: ProjectId) -> Arc<Project> {
        // Reading it locks nobody out.
        if let Some(project) = self.0.projects.get(&id) {
            return Arc::clone(&project);
        }
        Arc::clone(&self.0.projects.entry(id).or_default())
    }

    /// Returns only with an error of Postgres.
    async fn listen(&self) -> Result<Infallible, sqlx::Error> {
        let mut listener = postgres::listener(&self.0.postgres).await?;
        listener
            .listen_all([FLAGS_CHANNEL, DIRECTORY_CHANNEL])
            .await?;
        // What changed before we listened.
        let mut changes = Changes::everything();
        loop {
            self.apply(&changes).await?;
            changes = next_changes(&mut listener).await?;
        }
    }

    async fn apply(&self, changes: &Changes) -> Result<(), sqlx::Error> {
        if changes.directory {
            self.0.directory.refresh(&self.0.postgres).await?;
            // Dropping a project ends its streams.
            self.0.projects.retain(|id, _| self.0.directory.holds(*id));
        }
        let is_due = |id: ProjectId| changes.all_projects || changes.projects.contains(&id);
        let projects = self.0.projects.iter().filter(|entry| is_due(*entry.key()));
        let due: Vec<_> = projects
            .map(|entry| (*entry.key(), Arc::clone(entry.value())))
            .collect();
        let mut reads = stream::iter(due)
            .map(async |(id, project)| project.read(&self.0.postgres, id).await)
            .buffer_unordered(READS_AT_ONCE);
        while let Some(read) = reads.next().await {
            read?;
        }
        Ok(())
    }
}

impl Default for Project {
    fn default() -> Self {
        Self {
            rules: watch::Sender::new(None),
            reading: Mutex::new(()),
        }
    }
}

impl Project {
    async fn current(
        &self,
        postgres: &PgPool,
        id: ProjectId,
    ) -> Result<Arc<ProjectRules>, sqlx::Error> {
        if let Some(rules) = self.rules.borrow().clone() {
            return Ok(rules);
        }
        let _reading = self.reading.lock().await;
        // Who waited finds what the one before it has read.
        if let Some(rules) = self.rules.borrow().clone() {
            return Ok(rules);
        }
        self.read_alone(postgres, id).await
    }

    async fn read(&self, postgres: &PgPool, id: ProjectId) -> Result<(), sqlx::Error> {
        let _reading = self.reading.lock().await;
        self.read_alone(postgres, id).await.map(drop)
    }

    async fn read_alone(
        &self,
        postgres: &PgPool,
        id: ProjectId,
    ) -> Result<Arc<ProjectRules>, sqlx::Error> {
        let stored = store::load(postgres, id).await?;
        let previous = self.rules.borrow().clone();
        if let Some(same) = previous.as_ref().filter(|rules| rules.is_of(&stored)) {
            return Ok(Arc::clone(same));
        }
        let rules = Arc::new(ProjectRules::compile(stored, previous.as_deref()));
        self.rules.send_replace(Some(Arc::clone(&rules)));
        Ok(rules)
    }
}

/// What is to be read again.
#[derive(Default)]
struct Changes {
    projects: HashSet<ProjectId>,
    all_projects: bool,
    directory: bool,
}

impl Changes {
    fn everything() -> Self {
        Self {
            projects: HashSet::new(),
            all_projects: true,
            directory: true,
        }
    }

    fn add(&mut self, channel: &str, payload: &str) {
        match (channel, payload.parse()) {
            (FLAGS_CHANNEL, Ok(id)) => {
                self.projects.insert(ProjectId(id));
            }
            (FLAGS_CHANNEL, Err(_)) => self.all_projects = true,
            _ => self.directory = true,
        }
    }
}

/// The next changes, gathered for [`COALESCE`]; everything after
/// [`POLL_INTERVAL`], or when the connection was lost and some may be missing.
async fn next_changes(listener: &mut PgListener) -> Result<Changes, sqlx::Error> {
    let mut changes = Changes::default();
    let mut deadline = Instant::now() + POLL_INTERVAL;
    loop {
        tokio::select! {
            () = sleep_until(deadline) => break,
            notification = listener.try_recv() => match notification? {
                Some(told) => {
                    deadline = deadline.min(Instant::now() + COALESCE);
                    changes.add(told.channel(), told.payload());
                }
                None => return Ok(Changes::everything()),
            },
        }
    }
    let was_told = changes.directory || changes.all_projects || !changes.projects.is_empty();
    Ok(if was_told {
        changes
    } else {
        Changes::everything()
    })
}
