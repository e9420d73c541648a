//! What the workers of a process share, and what they ask before rows are made.
//!
//! Each answer is the same when a range is read again (docs/decisions/0011).

use std::sync::Arc;

use sluice_eventlog::{Offset, Partition};
use sluice_schema::frame::{ProjectRef, Request};
use sluice_schema::id::FrameId;
use tokio_util::sync::CancellationToken;

use crate::assemble::Projects;
use crate::batch::BatchLimits;
use crate::dead_letter::DeadLetterOffice;
use crate::facts::Facts;
use crate::progress::ProgressBoard;
use crate::projects::ProjectDirectory;
use crate::retry::{Stopped, until_done};
use crate::store::Store;

/// What the workers of a process share.
pub(crate) struct Context<F: Facts> {
    /// Topic and incarnation of the log.
    pub(crate) source: Arc<str>,
    pub(crate) store: Store,
    pub(crate) projects: Arc<dyn ProjectDirectory>,
    pub(crate) dead_letters: DeadLetterOffice,
    pub(crate) progress: Arc<ProgressBoard>,
    pub(crate) limits: BatchLimits,
    pub(crate) shared: F::Shared,
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) partition: Partition,
    pub(crate) offset: Offset,
}

impl<F: Facts> Context<F> {
    /// Whether the store has rows of a frame from a lower offset of its partition.
    pub(crate) async fn is_stored(
        &self,
        place: Place,
        id: FrameId,
        requests: &[Request<'_>],
        stop: &CancellationToken,
    ) -> Result<bool, Stopped> {
        let received = requests.iter().map(|request| request.received_at_us);
        let (Some(first), Some(last)) = (received.clone().min(), received.max()) else {
            return Ok(false);
        };
        let stored = until_done("replay check", stop, || {
            let frame = (id, (first, last));
            self.store.stored_at(&self.source, place.partition, frame)
        })
        .await?;
        Ok(stored.is_some_and(|offset| offset < place.offset))
    }

    /// The projects that a frame's slugs name. The first answer stays.
    pub(crate) async fn resolve(
        &self,
        place: Place,
        requests: &[Request<'_>],
        stop: &CancellationToken,
    ) -> Result<Projects, Stopped> {
        let mut slugs: Vec<String> = requests.iter().filter_map(slug_of).collect();
        slugs.sort_unstable();
        slugs.dedup();
        if slugs.is_empty() {
            return Ok(Projects::new());
        }
        until_done("project directory", stop, || {
            self.try_resolve(place, &slugs)
        })
        .await
    }

    async fn try_resolve(&self, place: Place, slugs: &[String]) -> Result<Projects, String> {
        let Place { partition, offset } = place;
        let known = self.store.resolved_slugs(&self.source, partition, offset);
        let known = known.await.map_err(|e| e.to_string())?;
        if slugs.iter().all(|slug| known.contains_key(slug)) {
            return Ok(known);
        }
        let answers = self.projects.resolve(slugs).await;
        let answers = answers.map_err(|e| e.to_string())?;
        let put = self
            .store
            .put_resolved_slugs(&self.source, partition, offset, &answers);
        put.await.map_err(|e| e.to_string())?;
        Ok(answers)
    }
}

fn slug_of(request: &Request<'_>) -> Option<String> {
    match request.project {
        ProjectRef::Slug(slug) => Some(slug.to_owned()),
        ProjectRef::Id(_) => None,
    }
}
