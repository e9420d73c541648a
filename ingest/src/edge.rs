//! The path of a request, from its head to its answer.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Method;
use http::request::Parts as Head;
use hyper::body::Incoming;
use sluice_eventlog::committer::{
    Committer, CommitterConfig, CommitterHandle, Project, Submission,
};
use sluice_eventlog::{EventLog, Health};
use sluice_schema::frame::ContentKind;
use sluice_schema::id::ProjectId;
use sluice_schema::wire::{Scratch, evaluations, health};
use sluice_service::admin::Readiness;
use sluice_service::proxies::TrustedProxies;
use sluice_service::serve::{Phase, Phases, Timeouts};

use crate::body::{self, Budget};
use crate::directory::{Directory, Found, handle};
use crate::inflate;
use crate::media;
use crate::metrics::{Events, Metrics, Tally};
use crate::outcome::Outcome;
use crate::rates::{ProjectRate, Rates};
use crate::respond::{self, Answer};
use crate::route::Route;

/// What an edge may take on, and for how long it waits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests of one project; `None`: as many as come.
    pub rate: Option<ProjectRate>,
    /// Of connections.
    pub timeouts: Timeouts,
    /// Open connections; more wait to be accepted.
    pub max_connections: usize,
    /// Bytes of bodies that have not arrived whole yet, over all connections.
    pub gathering_bytes: usize,
    /// What may stand in front of `/v1/ota`; empty for nothing.
    pub path_prefix: String,
    /// Whose `X-Forwarded-For` counts.
    pub proxies: TrustedProxies,
    /// How long what is in flight may take once the edge is told to stop.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rate: None,
            timeouts: Timeouts::default(),
            max_connections: 100_000,
            gathering_bytes: 256 * 1024 * 1024,
            path_prefix: String::new(),
            proxies: TrustedProxies::default(),
            grace: Duration::from_secs(20),
        }
    }
}

/// What an edge is made of.
pub struct Parts {
    /// Whose projects and keys it knows.
    pub directory: Arc<Directory>,
    /// Where health events go.
    pub health: Arc<dyn EventLog>,
    /// Where flag evaluations go.
    pub evaluations: Arc<dyn EventLog>,
    /// Of each of the two logs.
    pub committer: CommitterConfig,
    /// What it may take on.
    pub limits: Limits,
}

/// A log and the thread that fills it.
struct Lane {
    log: Arc<dyn EventLog>,
    submit: CommitterHandle,
    committer: Mutex<Committer>,
}

impl Lane {
    fn start(log: Arc<dyn EventLog>, config: CommitterConfig) -> io::Result<Self> {
        let committer = Committer::start(Arc::clone(&log), config)?;
        Ok(Self {
            log,
            submit: committer.handle(),
            committer: Mutex::new(committer),
        })
    }

    fn close(&self) {
        self.committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .close();
    }
}

/// The edge. Build it after the metrics registry, and [`serve`](crate::serve) it.
pub struct Edge {
    directory: Arc<Directory>,
    health: Lane,
    evaluations: Lane,
    rates: Rates,
    budget: Budget,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A body that passed: whose it is, by its own account, and what it holds.
struct Decoded {
    project: Named,
    events: Events,
    /// Whether there is anything to store.
    empty: bool,
}

enum Named {
    Known(ProjectId),
    Unknown(Box<str>),
}

impl Edge {
    /// Starts the two committers.
    pub fn start(parts: Parts) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            directory: parts.directory,
            health: Lane::start(parts.health, parts.committer)?,
            evaluations: Lane::start(parts.evaluations, parts.committer)?,
            rates: Rates::new(parts.limits.rate),
            budget: Budget::new(parts.limits.gathering_bytes),
            metrics: Metrics::new(),
            limits: parts.limits,
        }))
    }

    /// Says whether the edge can do its job: `directory` once it was loaded,
    /// from Postgres or from disk; `log` while appends can be expected to work.
    pub fn register(self: &Arc<Self>, readiness: &Readiness) {
        let edge = Arc::clone(self);
        readiness.register("directory", move || {
            if edge.directory.is_loaded() {
                Ok(())
            } else {
                Err("never loaded: Postgres does not answer and there is no copy on disk".into())
            }
        });
        let edge = Arc::clone(self);
        readiness.register("log", move || {
            let lanes = [&edge.health, &edge.evaluations];
            lanes
                .into_iter()
                .try_for_each(|lane| match lane.log.health() {
                    Health::Ready => Ok(()),
                    Health::NotReady(reason) => Err(reason),
                })
        });
    }

    /// Makes durable what waits and refuses what comes later. Blocks.
    pub fn close(&self) {
        self.health.close();
        self.evaluations.close();
    }

    pub(crate) async fn answer(
        &self,
        route: Route,
        head: &Head,
        body: &mut Incoming,
        phases: &Phases,
    ) -> Answer {
        let mut tally = self.metrics.begin(route);
        let ended = self.run(route, head, body, phases, &mut tally).await;
        let outcome = ended.err().unwrap_or(Outcome::Accepted);
        respond::answer(&tally.finish(outcome))
    }

    async fn run(
        &self,
        route: Route,
        head: &Head,
        body: &mut Incoming,
        phases: &Phases,
        tally: &mut Tally<'_>,
    ) -> Result<(), Outcome> {
        match head.method {
            Method::POST => {}
            Method::OPTIONS => return Err(Outcome::Preflight),
            _ => return Err(Outcome::Method),
        }
        let caller = match route {
            Route::Health => None,
            Route::Evaluations => Some(self.directory.authorise(&head.headers).await?),
        };
        let encoding = media::check(&head.headers)?;
        let sent = body::gather(body, &self.budget).await?;
        phases.enter(Phase::Working);
        let payload = inflate::inflate(encoding, sent)?;
        let decoded = self.decode(caller, &payload)?;
        tally.decoded(decoded.events, payload.len());
        let received_at_us = now_us();
        let project = self.resolve(decoded.project, tally).await?;
        self.take_turn(&project, received_at_us)?;
        if decoded.empty {
            return Ok(());
        }
        let (lane, kind) = match route {
            Route::Health => (&self.health, ContentKind::Health),
            Route::Evaluations => (&self.evaluations, ContentKind::Evaluations),
        };
        let submission = Submission {
            project,
            received_at_us,
            kind,
            payload,
            events: decoded.events.kept,
        };
        Ok(lane.submit.submit(submission).await?)
    }

    /// Without a `caller` it is a health body, which names its own project.
    fn decode(&self, caller: Option<ProjectId>, payload: &Bytes) -> Result<Decoded, Outcome> {
        SCRATCH.with_borrow_mut(|scratch| {
            if let Some(project) = caller {
                let batch = evaluations::decode(payload, scratch)?;
                return Ok(Decoded {
                    project: Named::Known(project),
                    events: Events::of_evaluations(&batch),
                    empty: batch.is_empty(),
                });
            }
            let batch = health::decode(payload, scratch)?;
            Ok(Decoded {
                project: self.name(batch.project())?,
                events: Events::of_health(&batch),
                empty: batch.kept() == 0,
            })
        })
    }

    /// Looks in memory alone.
    fn name(&self, handle: &str) -> Result<Named, Outcome> {
        if let Some(project) = self.directory.project(handle) {
            return Ok(Named::Known(project));
        }
        // What cannot be a name is unknown even while Postgres is away.
        if handle::is_possible(handle) {
            Ok(Named::Unknown(handle.into()))
        } else {
            Err(Outcome::UnknownProject)
        }
    }

    async fn resolve(&self, named: Named, tally: &Tally<'_>) -> Result<Project, Outcome> {
        let handle = match named {
            Named::Known(project) => return Ok(Project::Id(project)),
            Named::Unknown(handle) => handle,
        };
        match self.directory.look_up_project(&handle).await {
            Found::Known(project) => Ok(Project::Id(project)),
            Found::Nobody => Err(Outcome::UnknownProject),
            Found::CannotTell => {
                tally.unresolved();
                Ok(Project::Slug(handle))
            }
        }
    }

    fn take_turn(&self, project: &Project, now_us: i64) -> Result<(), Outcome> {
        let project = match project {
            Project::Id(project) => *project,
            // All that is not resolved shares one bucket.
            Project::Slug(_) => ProjectId(0),
        };
        self.rates
            .take(project, now_us)
            .map_err(|retry_after_s| Outcome::RateLimited { retry_after_s })
    }
}

/// Microseconds since 1970.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as i64
}
