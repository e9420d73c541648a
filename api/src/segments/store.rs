use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sluice_schema::id::ProjectId;
use sqlx::{PgConnection, PgPool};

use super::model::{
    Condition, NewSegment, Reference, Segment, SegmentChange, SegmentDetail, SegmentHead,
    key_of_name,
};
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::flags::eval::Condition as EvalCondition;

type Result<T> = std::result::Result<T, sqlx::Error>;

/// How many taken keys are tried before giving up.
const KEY_ATTEMPTS: usize = 1000;

/// All segments, newest first, from one snapshot.
pub(super) async fn list(pool: &PgPool, project: ProjectId) -> Result<Vec<Segment>> {
    let mut snapshot = snapshot(pool).await?;
    let heads: Vec<SegmentHead> = sqlx::query_as(
        "select id, project_id, key, name, description, match_type, estimated_devices,
                created_at, updated_at
         from segments where project_id = $1 order by created_at desc, id desc",
    )
    .bind(project.0)
    .fetch_all(&mut *snapshot)
    .await?;
    let mut by_segment: HashMap<i64, Vec<Condition>> = HashMap::new();
    for condition in conditions(&mut snapshot, project, None).await? {
        by_segment
            .entry(condition.segment_id)
            .or_default()
            .push(condition);
    }
    snapshot.commit().await?;
    let segment = |head: SegmentHead| Segment {
        conditions: by_segment.remove(&head.id).unwrap_or_default(),
        head,
    };
    Ok(heads.into_iter().map(segment).collect())
}

/// One segment and the flags that use it, from one snapshot.
pub(super) async fn detail(
    pool: &PgPool,
    project: ProjectId,
    id: i64,
) -> Result<Option<SegmentDetail>> {
    let mut snapshot = snapshot(pool).await?;
    let Some(segment) = find(&mut snapshot, project, id).await? else {
        return Ok(None);
    };
    let referenced_by = references(&mut snapshot, project, &segment.head.key).await?;
    snapshot.commit().await?;
    Ok(Some(SegmentDetail {
        segment,
        referenced_by,
    }))
}

async fn snapshot(pool: &PgPool) -> Result<sqlx::Transaction<'static, sqlx::Postgres>> {
    let mut snapshot = pool.begin().await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *snapshot)
        .await?;
    Ok(snapshot)
}

/// One segment.
pub(super) async fn find(
    connection: &mut PgConnection,
    project: ProjectId,
    id: i64,
) -> Result<Option<Segment>> {
    let head: Option<SegmentHead> = sqlx::query_as(
        "select id, project_id, key, name, description, match_type, estimated_devices,
                created_at, updated_at
         from segments where project_id = $1 and id = $2",
    )
    .bind(project.0)
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(head) = head else {
        return Ok(None);
    };
    let conditions = conditions(connection, project, Some(id)).await?;
    Ok(Some(Segment { head, conditions }))
}

/// Conditions of one segment or of all, in their order.
pub(super) async fn conditions(
    connection: &mut PgConnection,
    project: ProjectId,
    segment: Option<i64>,
) -> Result<Vec<Condition>> {
    sqlx::query_as(
        "select id, segment_id, attribute, operator, condition_values, sort_order
         from segment_conditions
         where project_id = $1 and ($2::bigint is null or segment_id = $2)
         order by sort_order, id",
    )
    .bind(project.0)
    .bind(segment)
    .fetch_all(connection)
    .await
}

/// The flags whose rules use the segment, each once, by key.
async fn references(
    connection: &mut PgConnection,
    project: ProjectId,
    key: &str,
) -> Result<Vec<Reference>> {
    sqlx::query_as(
        "select f.id as flag_id, f.key as flag_key, f.name as flag_name from flags f
         where f.project_id = $1 and exists (
             select from flag_rules r
             where r.project_id = $1 and r.flag_id = f.id and r.rule_type = 'segment'
               and r.rule_config ->> 'segmentKey' = $2)
         order by f.key collate \"C\"",
    )
    .bind(project.0)
    .bind(key)
    .fetch_all(connection)
    .await
}

/// Makes a segment; its id. A given key that is taken is a conflict, a derived
/// one gets a number.
pub(super) async fn insert(change: &mut Change, new: &NewSegment) -> ApiResult<i64> {
    let id = if let Some(key) = &new.key {
        try_insert(change, new, key).await?
    } else {
        insert_with_free_key(change, new).await?
    };
    let id = id.ok_or_else(|| ApiError::conflict("a segment with this key already exists"))?;
    insert_conditions(change, id, &new.conditions).await?;
    Ok(id)
}

async fn insert_with_free_key(change: &mut Change, new: &NewSegment) -> Result<Option<i64>> {
    let base = key_of_name(&new.name);
    let numbered = (2..=KEY_ATTEMPTS).map(|n| format!("{base}-{n}"));
    for key in std::iter::once(base.clone()).chain(numbered) {
        if let Some(id) = try_insert(change, new, &key).await? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

async fn try_insert(change: &mut Change, new: &NewSegment, key: &str) -> Result<Option<i64>> {
    sqlx::query_scalar(
        "insert into segments (project_id, key, name, description, match_type, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $6)
         on conflict on constraint segments_key_key do nothing returning id",
    )
    .bind(change.project())
    .bind(key)
    .bind(&new.name)
    .bind(&new.description)
    .bind(&new.match_type)
    .bind(change.at())
    .fetch_optional(change.connection())
    .await
}

async fn insert_conditions(
    change: &mut Change,
    segment: i64,
    conditions: &[EvalCondition],
) -> Result<()> {
    for (sort_order, condition) in (0_i32..).zip(conditions) {
        sqlx::query(
            "insert into segment_conditions
                (project_id, segment_id, attribute, operator, condition_values, sort_order)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(change.project())
        .bind(segment)
        .bind(&condition.attribute)
        .bind(condition.operator.name())
        .bind(&condition.values)
        .bind(sort_order)
        .execute(change.connection())
        .await?;
    }
    Ok(())
}

/// Locks a segment for a change, which comes after all that were made to it; its
/// key and when it was last changed, if there is one.
pub(super) async fn lock(change: &mut Change, id: i64) -> Result<Option<(String, DateTime<Utc>)>> {
    let found: Option<(String, DateTime<Utc>)> = sqlx::query_as(
        "select key, updated_at from segments where project_id = $1 and id = $2 for update",
    )
    .bind(change.project())
    .bind(id)
    .fetch_optional(change.connection())
    .await?;
    if let Some((_, updated_at)) = &found {
        change.come_after(*updated_at);
    }
    Ok(found)
}

/// Changes a segment; conditions are replaced as a whole.
pub(super) async fn update(change: &mut Change, id: i64, to: &SegmentChange) -> Result<()> {
    sqlx::query(
        "update segments set
            name = coalesce($3, name),
            description = coalesce($4, description),
            match_type = coalesce($5, match_type),
            updated_at = $6
         where project_id = $1 and id = $2",
    )
    .bind(change.project())
    .bind(id)
    .bind(&to.name)
    .bind(&to.description)
    .bind(&to.match_type)
    .bind(change.at())
    .execute(change.connection())
    .await?;
    if let Some(conditions) = &to.conditions {
        sqlx::query("delete from segment_conditions where project_id = $1 and segment_id = $2")
            .bind(change.project())
            .bind(id)
            .execute(change.connection())
            .await?;
        insert_conditions(change, id, conditions).await?;
    }
    Ok(())
}

/// Removes a segment that the change has locked; a conflict while rules use it.
/// No rule can appear meanwhile: making one takes a lock on the segment too.
pub(super) async fn delete(change: &mut Change, id: i64, key: &str) -> ApiResult<()> {
    let project = ProjectId(change.project());
    let flags = references(change.connection(), project, key).await?;
    if !flags.is_empty() {
        let keys: Vec<_> = flags.iter().map(|flag| flag.flag_key.as_str()).collect();
        let message = format!("rules of these flags use the segment: {}", keys.join(", "));
        return Err(ApiError::conflict(message));
    }
    sqlx::query("delete from segments where project_id = $1 and id = $2")
        .bind(change.project())
        .bind(id)
        .execute(change.connection())
        .await?;
    Ok(())
}
