//! What the directory asks of Postgres.

use std::time::Duration;

use sluice_schema::id::ProjectId;
use sluice_schema::postgres::DIRECTORY_CHANNEL;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::time::timeout;
use uuid::Uuid;

use super::snapshot::{KeyHash, KeyRow, ProjectRow, Rows};

/// Tables whose rows are in the snapshot; the channel tells of others, too.
const IN_SNAPSHOT: [&str; 2] = ["projects", "api_keys"];
/// Longest that changes are gathered, as a multiple of a gap between two.
const MAX_TOGETHER: u32 = 20;

/// Reads everything that a snapshot holds.
pub(super) async fn read(pool: &PgPool) -> Result<Rows, sqlx::Error> {
    let projects: Vec<(i64, Uuid, String)> =
        sqlx::query_as("select id, uuid, slug from projects order by id")
            .fetch_all(pool)
            .await?;
    let keys: Vec<(i64, String)> =
        sqlx::query_as("select project_id, key_hash from api_keys where is_active order by id")
            .fetch_all(pool)
            .await?;
    Ok(Rows {
        projects: projects
            .into_iter()
            .map(|(id, uuid, slug)| ProjectRow { id, uuid, slug })
            .collect(),
        keys: keys
            .into_iter()
            .map(|(project, hash)| KeyRow { project, hash })
            .collect(),
    })
}

/// The project that a slug or a UUID names.
pub(super) async fn project(pool: &PgPool, handle: &str) -> Result<Option<ProjectId>, sqlx::Error> {
    let found: Option<i64> = sqlx::query_scalar(
        "select id from projects where slug = $1 or uuid = $2 order by slug = $1 desc limit 1",
    )
    .bind(handle)
    .bind(super::handle::uuid(handle))
    .fetch_optional(pool)
    .await?;
    Ok(found.map(ProjectId))
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// Neither a live session's nor an active key's.
    Nobody,
    /// An active API key.
    Key { project: ProjectId, slug: Box<str> },
    /// A live session of an active user.
    Session {
        /// The named project, if the user is a member of it.
        project: Option<ProjectId>,
    },
}

/// What the token with this hash is, and what it may do in the project `named`.
pub(super) async fn credential(
    pool: &PgPool,
    hash: KeyHash,
    named: Option<&str>,
) -> Result<Credential, sqlx::Error> {
    let found: Option<(bool, Option<i64>, Option<String>)> = sqlx::query_as(
        "select true, p.id, p.slug from api_keys k join projects p on p.id = k.project_id \
         where k.key_hash = $1 and k.is_active \
         union all \
         select false, m.project_id, null from sessions s \
         join users u on u.id = s.user_id and u.is_active \
         left join projects p on p.slug = $2 \
         left join memberships m on m.project_id = p.id and m.user_id = u.id \
         where s.token_hash = $1 and s.expires_at > now() \
         limit 1",
    )
    .bind(hash.to_hex())
    .bind(named)
    .fetch_optional(pool)
    .await?;
    Ok(match found {
        None => Credential::Nobody,
        Some((true, Some(project), Some(slug))) => Credential::Key {
            project: ProjectId(project),
            slug: slug.into(),
        },
        Some((_, project, _)) => Credential::Session {
            project: project.map(ProjectId),
        },
    })
}

/// Hears of changes.
pub(super) struct Changes {
    listener: PgListener,
}

impl Changes {
    /// Listens from the moment it returns.
    pub(super) async fn listen(pool: &PgPool, within: Duration) -> Result<Self, sqlx::Error> {
        let listening = async {
            let mut listener = sluice_service::postgres::listener(pool).await?;
            // A lost connection must show: what was said meanwhile is lost with it.
            listener.eager_reconnect(false);
            listener.listen(DIRECTORY_CHANNEL).await?;
            Ok(Self { listener })
        };
        timeout(within, listening)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// Waits up to `sign_of_life` for a change of the snapshot's tables, true if
    /// one came. Then what it says of the present holds: the connection has
    /// answered, and with its answer came all that was said before.
    pub(super) async fn wait(
        &mut self,
        sign_of_life: Duration,
        together: Duration,
    ) -> Result<bool, sqlx::Error> {
        let deadline = tokio::time::Instant::now() + sign_of_life;
        while let Ok(payload) = tokio::time::timeout_at(deadline, self.next()).await {
            if IN_SNAPSHOT.contains(&payload?.as_str()) {
                self.gather(together).await?;
                return Ok(true);
            }
        }
        let ping = sqlx::query("select 1").execute(&mut self.listener);
        timeout(sign_of_life, ping)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        while let Some(notification) = self.listener.next_buffered() {
            if IN_SNAPSHOT.contains(&notification.payload()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes in what follows closely, so that a burst is one read.
    async fn gather(&mut self, together: Duration) -> Result<(), sqlx::Error> {
        let deadline = tokio::time::Instant::now() + together * MAX_TOGETHER;
        loop {
            let next = tokio::time::Instant::now() + together;
            match tokio::time::timeout_at(next.min(deadline), self.next()).await {
                Ok(payload) => drop(payload?),
                Err(_) => return Ok(()),
            }
        }
    }

    /// The table that has changed.
    async fn next(&mut self) -> Result<String, sqlx::Error> {
        match self.listener.try_recv().await? {
            Some(notification) => Ok(notification.payload().to_owned()),
            None => Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())),
        }
    }
}
