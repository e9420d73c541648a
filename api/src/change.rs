//! A write: the change, its audit rows and its webhook deliveries, in one
//! transaction. Stores that write take a [`Change`], so a write can be neither
//! unscoped nor half done; dropping it undoes everything.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::Value;
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::ApiState;
use crate::audit::{self, Action};
use crate::clock::Clock;
use crate::error::ApiResult;
use crate::scope::{Actor, ProjectScope};
use crate::webhooks::{Event, outbox};

/// A transaction in one project, by one actor.
#[derive(Debug)]
pub struct Change {
    transaction: Transaction<'static, Postgres>,
    project: ProjectId,
    actor: Option<Actor>,
    at: DateTime<Utc>,
}

impl Change {
    /// Begins a write for a caller.
    pub async fn begin(state: &ApiState, scope: &ProjectScope) -> ApiResult<Self> {
        let transaction = state.postgres.begin().await?;
        let actor = Some(scope.actor.clone());
        Ok(Self {
            transaction,
            project: scope.project,
            actor,
            at: now(&state.clock),
        })
    }

    /// Begins a write that no person asked for.
    pub async fn begin_by_system(state: &ApiState, project: ProjectId) -> ApiResult<Self> {
        let transaction = state.postgres.begin().await?;
        Ok(Self {
            transaction,
            project,
            actor: None,
            at: now(&state.clock),
        })
    }

    /// Goes on with a transaction that has just made or found the project.
    pub fn resume(
        transaction: Transaction<'static, Postgres>,
        project: ProjectId,
        actor: Actor,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            transaction,
            project,
            actor: Some(actor),
            at,
        }
    }

    /// The project that every statement must name.
    pub fn project(&self) -> i64 {
        self.project.0
    }

    /// Who does this, if it is not the system.
    pub fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// When this happens.
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// Comes after another change that this one has waited for: it may have
    /// begun before that, or by a clock that is behind.
    pub(crate) fn come_after(&mut self, other: DateTime<Utc>) {
        self.at = self.at.max(other + TimeDelta::microseconds(1));
    }

    /// Where statements go.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Adds an audit row. `details` has camelCase keys.
    pub async fn audit(
        &mut self,
        action: Action,
        entity_id: impl Into<Option<i64>> + Send,
        details: Value,
    ) -> ApiResult<()> {
        let entry = audit::store::NewEntry {
            project: self.project,
            action,
            entity_id: entity_id.into(),
            details,
            actor: self.actor.as_ref(),
            at: self.at,
        };
        Ok(audit::store::insert(&mut self.transaction, entry).await?)
    }

    /// Adds the deliveries to webhooks that want the event. `data` has
    /// snake_case keys.
    pub async fn emit(&mut self, event: Event, data: Value) -> ApiResult<()> {
        let (project, at) = (self.project.0, self.at);
        Ok(outbox::enqueue(&mut self.transaction, project, event, data, at).await?)
    }

    /// Makes all of it happen.
    pub async fn commit(self) -> ApiResult<()> {
        Ok(self.transaction.commit().await?)
    }

    /// Undoes all of it, and lets go of what it has locked before returning.
    /// Dropping it does the same a moment later.
    pub async fn undo(self) -> ApiResult<()> {
        Ok(self.transaction.rollback().await?)
    }
}

/// As exact as what is stored, so that what is told of it is the same everywhere.
fn now(clock: &Clock) -> DateTime<Utc> {
    clock.now().trunc_subsecs(6)
}
