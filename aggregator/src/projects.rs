//! Resolves the projects of requests that the edge accepted without knowing
//! them, because its directory was unreachable (telemetry.md §2.7).
//!
//! A project may be created, renamed or deleted between two reads of the same
//! range, so the first answer is remembered beside the rows, before they are
//! stored, and is the answer for ever: see [`crate::store::Store::resolved_slugs`].

use std::collections::HashMap;
use std::hash::BuildHasher;

use async_trait::async_trait;
use sluice_schema::id::ProjectId;
use sqlx::PgPool;
use thiserror::Error;

/// The directory did not answer. Worth another try.
#[derive(Debug, Error)]
#[error("projects cannot be resolved: {0}")]
pub struct DirectoryError(pub String);

/// Knows projects by their slug or UUID.
#[async_trait]
pub trait ProjectDirectory: Send + Sync + 'static {
    /// The project that each of `slugs` names, if there is one.
    async fn resolve(
        &self,
        slugs: &[String],
    ) -> Result<HashMap<String, Option<ProjectId>>, DirectoryError>;
}

#[async_trait]
impl ProjectDirectory for PgPool {
    async fn resolve(
        &self,
        slugs: &[String],
    ) -> Result<HashMap<String, Option<ProjectId>>, DirectoryError> {
        let found: Vec<(String, i64)> = sqlx::query_as(
            "select asked, id from unnest($1::text[]) as asked \
             join projects on slug = asked or uuid::text = lower(asked)",
        )
        .bind(slugs)
        .fetch_all(self)
        .await
        .map_err(|e| DirectoryError(e.to_string()))?;
        let found: HashMap<String, i64> = found.into_iter().collect();
        let answer = |slug: &String| (slug.clone(), found.get(slug).copied().map(ProjectId));
        Ok(slugs.iter().map(answer).collect())
    }
}

/// A directory that never changes.
#[async_trait]
impl<S: BuildHasher + Send + Sync + 'static> ProjectDirectory for HashMap<String, ProjectId, S> {
    async fn resolve(
        &self,
        slugs: &[String],
    ) -> Result<HashMap<String, Option<ProjectId>>, DirectoryError> {
        let answer = |slug: &String| (slug.clone(), self.get(slug).copied());
        Ok(slugs.iter().map(answer).collect())
    }
}
