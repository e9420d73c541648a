//! When devices first had the updates that they run, for flags that ask
//! (flags.md §4 and §6). What devices reported knows it; no request waits for
//! that.
//!
//! A device that is new here is told "not known", and asked for behind, together
//! with all others of the same second. What always holds: memory is bounded, a
//! store that is away or slow delays nothing but the ages, and projects without
//! such a flag ask nothing.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clickhouse::error::{Error, Result};
use clickhouse::{Client, Row};
use moka::sync::Cache;
use serde::Deserialize;
use sluice_schema::id::ProjectId;
use sluice_schema::wire::flags::device_number;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Questions that come within this are asked together.
const GATHER: Duration = Duration::from_secs(1);
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Devices of one question.
const MAX_ASKED: usize = 1_000;
/// Devices that wait to be asked for; more come again with their next request.
const MAX_WAITING: usize = 50_000;
/// Ages that are remembered; an age does not change.
const MAX_KNOWN: u64 = 200_000;
const KNOWN_IDLE: Duration = Duration::from_hours(1);
/// Who has reported nothing yet is asked for again after this.
const NOTHING_FOR: Duration = Duration::from_secs(30);

/// A device and the update that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Running {
    project: ProjectId,
    update: Uuid,
    device: u64,
}

impl Running {
    /// None where it says nothing of itself.
    pub(super) fn new(project: ProjectId, update: Option<Uuid>, device_id: &str) -> Option<Self> {
        let device = device_number(device_id);
        let update = update.filter(|_| device != 0)?;
        Some(Self {
            project,
            update,
            device,
        })
    }
}

/// What is known of a device and its update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// It first had it then, in microseconds since 1970.
    Since(i64),
    /// It has not reported that it has it.
    Nothing,
    /// It is being asked for.
    Asked,
}

impl Age {
    /// For evaluation.
    pub(super) fn since_us(self) -> Option<i64> {
        match self {
            Self::Since(at_us) => Some(at_us),
            Self::Nothing | Self::Asked => None,
        }
    }
}

/// The ages of this process.
pub(super) struct UpdateAges {
    known: Cache<Running, i64>,
    nothing: Cache<Running, ()>,
    waiting: Mutex<HashSet<Running>>,
    asked: Notify,
    /// Changes whenever some are known.
    learned: watch::Sender<()>,
}

impl UpdateAges {
    /// Knows nothing yet.
    pub(super) fn new() -> Self {
        Self {
            known: Cache::builder()
                .max_capacity(MAX_KNOWN)
                .time_to_idle(KNOWN_IDLE)
                .build(),
            nothing: Cache::builder()
                .max_capacity(MAX_KNOWN)
                .time_to_live(NOTHING_FOR)
                .build(),
            waiting: Mutex::default(),
            asked: Notify::new(),
            learned: watch::Sender::new(()),
        }
    }

    /// What is known now. What is not is asked for.
    pub(super) fn of(&self, running: Running) -> Age {
        if let Some(at_us) = self.known.get(&running) {
            return Age::Since(at_us);
        }
        if self.nothing.contains_key(&running) {
            return Age::Nothing;
        }
        let mut waiting = self.waiting();
        if waiting.len() < MAX_WAITING {
            waiting.insert(running);
        }
        self.asked.notify_one();
        Age::Asked
    }

    /// Changes whenever more is known.
    pub(super) fn learned(&self) -> watch::Receiver<()> {
        self.learned.subscribe()
    }

    /// Asks for what is wanted, for good.
    pub(super) async fn keep_asking(&self, client: &Client) {
        loop {
            self.asked.notified().await;
            sleep(GATHER).await;
            if let Err(error) = self.ask(client).await {
                tracing::warn!(%error, "when devices had their updates cannot be read yet");
            }
        }
    }

    async fn ask(&self, client: &Client) -> Result<()> {
        let mut by_project: HashMap<ProjectId, Vec<Running>> = HashMap::new();
        for running in mem::take(&mut *self.waiting()) {
            by_project.entry(running.project).or_default().push(running);
        }
        for (project, wanted) in by_project {
            for wanted in wanted.chunks(MAX_ASKED) {
                self.learn(wanted, &firsts(client, project, wanted).await?);
            }
        }
        Ok(())
    }

    fn learn(&self, wanted: &[Running], firsts: &HashMap<(Uuid, u64), i64>) {
        for running in wanted {
            match firsts.get(&(running.update, running.device)) {
                Some(at_us) => self.known.insert(*running, *at_us),
                None => self.nothing.insert(*running, ()),
            }
        }
        self.learned.send_replace(());
    }

    /// As if the store had been asked.
    #[cfg(test)]
    pub(super) fn learn_for_tests(&self, running: Running, at_us: i64) {
        let first = ((running.update, running.device), at_us);
        self.learn(&[running], &HashMap::from([first]));
    }

    fn waiting(&self) -> MutexGuard<'_, HashSet<Running>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Row, Deserialize)]
struct First {
    update: String,
    device: u64,
    at_us: i64,
}

/// When each of these devices first had its update, by update and device.
async fn firsts(
    client: &Client,
    project: ProjectId,
    wanted: &[Running],
) -> Result<HashMap<(Uuid, u64), i64>> {
    let updates: HashSet<String> = wanted.iter().map(|r| r.update.to_string()).collect();
    let updates: Vec<_> = updates.into_iter().collect();
    let devices: Vec<_> = wanted.iter().map(|running| running.device).collect();
    let query = client
        .query(
            "SELECT toString(update_uuid) AS update, device, toUnixTimestamp64Micro(min(first_at)) AS at_us \
             FROM device_updates \
             WHERE project_id = ? AND update_uuid IN ? \
               AND served = 0 AND device IN ? \
             GROUP BY update_uuid, device",
        )
        .bind(project.0)
        .bind(updates)
        .bind(devices);
    let rows = timeout(QUERY_TIMEOUT, query.fetch_all::<First>()).await;
    let rows = rows.unwrap_or(Err(Error::TimedOut))?;
    let first = |row: First| {
        let update = Uuid::try_parse(&row.update).ok()?;
        Some(((update, row.device), row.at_us))
    };
    Ok(rows.into_iter().filter_map(first).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(device: &str) -> Running {
        Running::new(ProjectId(1), Some(Uuid::from_u128(7)), device).unwrap()
    }

    #[test]
    fn who_says_nothing_of_itself_has_no_age() {
        assert_eq!(Running::new(ProjectId(1), None, "d"), None);
        let update = Some(Uuid::from_u128(7));
        assert_eq!(Running::new(ProjectId(1), update, ""), None);
    }

    #[test]
    fn what_was_asked_is_known_to_be_something_or_nothing() {
        let ages = UpdateAges::new();
        let (a, b) = (running("a"), running("b"));
        assert_eq!((ages.of(a), ages.of(b)), (Age::Asked, Age::Asked));
        assert_eq!(ages.waiting().len(), 2);
        let mut learned = ages.learned();
        ages.learn(&[a, b], &HashMap::from([((a.update, a.device), 5)]));
        assert!(learned.has_changed().unwrap());
        learned.mark_unchanged();
        assert_eq!((ages.of(a), ages.of(b)), (Age::Since(5), Age::Nothing));
    }

    #[test]
    fn strangers_do_not_fill_memory() {
        let ages = UpdateAges::new();
        for device in 0..MAX_WAITING + 10 {
            ages.of(running(&device.to_string()));
        }
        assert_eq!(ages.waiting().len(), MAX_WAITING);
    }
}
