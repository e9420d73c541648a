//! How many uploads a process takes at once. Each may hold 256 MiB of the disk
//! until it is stored, so this bounds what staging takes.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sluice_schema::id::ProjectId;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::{ApiError, ApiResult};

/// Whoever was refused should come back after this.
const RETRY_AFTER_S: u32 = 10;
/// A project that has not uploaded for so long is forgotten.
const IDLE: Duration = Duration::from_hours(1);

/// Bounds on uploads under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    /// In this process.
    pub at_once: usize,
    /// Of one project, so that it leaves room for others.
    pub project_at_once: usize,
    /// How long an upload waits for others to end before it is refused.
    pub wait: Duration,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            at_once: 8,
            project_at_once: 4,
            wait: Duration::from_secs(20),
        }
    }
}

/// The places of this process.
#[derive(Debug)]
pub(crate) struct UploadSlots {
    limits: UploadLimits,
    all: Arc<Semaphore>,
    projects: Cache<ProjectId, Arc<Semaphore>>,
}

/// A place, for as long as it is held.
#[derive(Debug)]
pub(super) struct Slot(#[allow(dead_code)] [OwnedSemaphorePermit; 2]); // held, not read

impl UploadSlots {
    pub(crate) fn new(limits: UploadLimits) -> Self {
        Self {
            limits,
            all: Arc::new(Semaphore::new(limits.at_once)),
            projects: Cache::builder().time_to_idle(IDLE).build(),
        }
    }

    /// Waits for a place; 503 if there is none in time.
    pub(super) async fn take(&self, project: ProjectId) -> ApiResult<Slot> {
        let of_project = self.projects.get_with(project, || {
            Arc::new(Semaphore::new(self.limits.project_at_once))
        });
        let both = async {
            let of_project = of_project.acquire_owned().await?;
            let of_all = Arc::clone(&self.all).acquire_owned().await?;
            Ok::<_, AcquireError>(Slot([of_project, of_all]))
        };
        let taken = timeout(self.limits.wait, both).await.map_err(|_| {
            let message = "too many uploads at once, try again";
            ApiError::busy(message, RETRY_AFTER_S)
        })?;
        taken.map_err(ApiError::internal)
    }
}
