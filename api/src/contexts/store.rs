use serde_json::Value;
use sluice_schema::id::ProjectId;
use sqlx::{Executor, PgPool};

use super::model::{Context, ContextDetail, ContextFilter, ContextPage};
use crate::change::Change;

/// How much history a context shows.
const MAX_EVALUATIONS: i64 = 500;

const MATCHES: &str = "project_id = $1 and ($2::text is null or kind = $2)
    and ($3::text is null or search_text like lower($3))";

/// A page and the number of all matches, from one snapshot.
pub(super) async fn list(
    pool: &PgPool,
    project: ProjectId,
    filter: &ContextFilter,
    limit: i64,
    offset: i64,
) -> Result<ContextPage, sqlx::Error> {
    let pattern = filter.search.as_deref().map(substring_pattern);
    let mut snapshot = pool.begin().await?;
    snapshot
        .execute("set transaction isolation level repeatable read, read only")
        .await?;
    let count = format!("select count(*) from contexts where {MATCHES}");
    // Planned for these values: a plan for all of them would not use the index.
    let total = sqlx::query_scalar(&count)
        .persistent(false)
        .bind(project.0)
        .bind(&filter.kind)
        .bind(&pattern)
        .fetch_one(&mut *snapshot)
        .await?;
    let page = format!(
        "select id, project_id, targeting_key, kind, name, attributes, first_seen_at,
                last_seen_at, evaluation_count
         from contexts where {MATCHES}
         order by last_seen_at desc, id desc limit $4 offset $5"
    );
    let contexts = sqlx::query_as(&page)
        .persistent(false)
        .bind(project.0)
        .bind(&filter.kind)
        .bind(&pattern)
        .bind(limit)
        .bind(offset)
        .fetch_all(&mut *snapshot)
        .await?;
    snapshot.commit().await?;
    Ok(ContextPage { contexts, total })
}

/// The pattern that finds `text` anywhere; its wildcards are literals. Postgres
/// makes it lower case, as it did with what is searched.
fn substring_pattern(text: &str) -> String {
    let escaped = text
        .replace('\\', r"\\")
        .replace('%', r"\%")
        .replace('_', r"\_");
    format!("%{escaped}%")
}

/// The context and its latest evaluations.
pub(super) async fn get(
    pool: &PgPool,
    project: ProjectId,
    id: i64,
) -> Result<Option<ContextDetail>, sqlx::Error> {
    let context = sqlx::query_as(
        "select id, project_id, targeting_key, kind, name, attributes, first_seen_at,
                last_seen_at, evaluation_count
         from contexts where project_id = $1 and id = $2",
    )
    .bind(project.0)
    .bind(id)
    .fetch_optional(pool)
    .await?;
    let Some(context) = context else {
        return Ok(None);
    };
    let evaluations = sqlx::query_as(
        "select e.id, e.context_id, e.flag_id, f.key as flag_key, f.name as flag_name,
                e.variation_value, e.channel_name, e.evaluation_count, e.last_evaluated_at
         from context_evaluations e
         join flags f on f.id = e.flag_id and f.project_id = $1
         where e.context_id = $2
         order by e.last_evaluated_at desc, e.id desc limit $3",
    )
    .bind(project.0)
    .bind(id)
    .bind(MAX_EVALUATIONS)
    .fetch_all(pool)
    .await?;
    Ok(Some(ContextDetail {
        context,
        evaluations,
    }))
}

/// Makes it, or notes that it was seen. Name and attributes are replaced if given.
pub(super) async fn upsert(
    change: &mut Change,
    kind: &str,
    targeting_key: &str,
    name: Option<&str>,
    attributes: Option<&Value>,
) -> Result<Context, sqlx::Error> {
    sqlx::query_as(
        "insert into contexts (project_id, kind, targeting_key, name, attributes, first_seen_at, last_seen_at)
         values ($1, $2, $3, $4, coalesce($5, '{}'), $6, $6)
         on conflict on constraint contexts_key_key do update set
            name = coalesce($4, contexts.name),
            attributes = coalesce($5, contexts.attributes),
            last_seen_at = greatest(contexts.last_seen_at, $6)
         returning id, project_id, targeting_key, kind, name, attributes, first_seen_at,
                   last_seen_at, evaluation_count",
    )
    .bind(change.project())
    .bind(kind)
    .bind(targeting_key)
    .bind(name)
    .bind(attributes)
    .bind(change.at())
    .fetch_one(change.connection())
    .await
}

/// The context that was; its history goes with it.
pub(super) async fn delete(change: &mut Change, id: i64) -> Result<Option<Context>, sqlx::Error> {
    sqlx::query_as(
        "delete from contexts where project_id = $1 and id = $2
         returning id, project_id, targeting_key, kind, name, attributes, first_seen_at,
                   last_seen_at, evaluation_count",
    )
    .bind(change.project())
    .bind(id)
    .fetch_optional(change.connection())
    .await
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;
    use sqlx::PgConnection;

    use super::*;

    #[tokio::test]
    async fn a_search_reads_no_more_than_its_index_finds() {
        let url = sluice_engines::testing::postgres();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sluice_schema::postgres::MIGRATOR
            .run(&mut connection)
            .await
            .unwrap();
        let many = format!(
            "insert into projects (name, slug) values ('P', 'p');
             insert into contexts (project_id, kind, targeting_key)
             select 1, 'user', 'user-' || n from generate_series(1, 3000) n;
             select gin_clean_pending_list('contexts_search_idx');
             analyze contexts;
             set enable_seqscan = off;
             set plan_cache_mode = force_custom_plan;
             prepare search (bigint, text, text) as select count(*) from contexts where {MATCHES}"
        );
        connection.execute(many.as_str()).await.unwrap();
        let explain = "explain execute search (1, null, '%user-2999%')";
        let rows = connection.fetch_all(explain).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::get(row, 0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("contexts_search_idx"), "{plan}");
    }

    #[test]
    fn wildcards_in_a_search_are_literals() {
        assert_eq!(substring_pattern(r"50%_Off\"), r"%50\%\_Off\\%");
    }
}
