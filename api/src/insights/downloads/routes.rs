use axum::Json;
use axum::extract::State;
use uuid::Uuid;

use super::model::{Adoption, AdoptionQuery, Downloads, InsightsQuery, Question, Totals};
use super::{identities, store};
use crate::ApiState;
use crate::error::ApiResult;
use crate::extract::Path;
use crate::insights::query::ReadQuery;
use crate::page::Whole;
use crate::scope::Viewer;

/// Downloads of all updates, the most downloaded first.
#[utoipa::path(get, path = "/insights", tag = "insights",
    security(("bearer" = ["viewer"])), params(InsightsQuery),
    responses((status = 200, body = Vec<Downloads>)))]
pub(in crate::insights) async fn list(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    ReadQuery(query): ReadQuery<InsightsQuery>,
) -> ApiResult<Json<Vec<Downloads>>> {
    let totals = super::totals(&state, scope.project).await?;
    let uuids: Vec<Uuid> = totals.keys().copied().collect();
    let known = store::known(&state.postgres, scope.project, &uuids).await?;
    Ok(Json(Downloads::page(&totals, &known, &query)))
}

/// Downloads of an update; zeros if there is no such update.
#[utoipa::path(get, path = "/insights/{id}", tag = "insights",
    security(("bearer" = ["viewer"])), params(("id" = i64, Path)),
    responses((status = 200, body = Downloads)))]
pub(in crate::insights) async fn one(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    Path(id): Path<i64>,
) -> ApiResult<Json<Downloads>> {
    let insights = &state.insights;
    let Some(update) = store::uuid_of(&state.postgres, scope.project, id).await? else {
        return Ok(Json(Downloads::new(id, Totals::default())));
    };
    insights.folds.snapshot(state.clock.now()).await?;
    let question = Some(update);
    let read = store::totals(insights.reader.clone(), scope.project, question);
    let totals = insights.downloads.get(scope.project, &question, read);
    let totals = totals.await?.get(&update).copied().unwrap_or_default();
    Ok(Json(Downloads::new(id, totals)))
}

/// How updates reach devices: downloads over time, and what devices have now.
#[utoipa::path(get, path = "/insights/adoption", tag = "insights",
    security(("bearer" = ["viewer"])), params(AdoptionQuery),
    responses((status = 200, body = Adoption)))]
pub(in crate::insights) async fn adoption(
    State(state): State<ApiState>,
    Viewer(scope): Viewer,
    ReadQuery(query): ReadQuery<AdoptionQuery>,
) -> ApiResult<Json<Adoption>> {
    let (now, project, insights) = (state.clock.now(), scope.project, &state.insights);
    let update = match query.update_id {
        // Nothing was ever served under the nil UUID.
        Some(Whole(id)) => Some(
            store::uuid_of(&state.postgres, project, id)
                .await?
                .unwrap_or_default(),
        ),
        None => None,
    };
    let question = Question::new(query, update, now);
    insights.folds.snapshot(now).await?;
    let read = store::adopted(insights.reader.clone(), project, question.clone());
    let adopted = insights.adoption.get(project, &question, read).await?;
    let known = store::known(&state.postgres, project, &adopted.updates()).await?;
    let week = identities::window(now);
    let seen_once = identities::seen_once(&insights.reader, project, week);
    let seen_once = insights
        .identities
        .get(project, 0, &week, seen_once)
        .await?;
    Ok(Json(Adoption::new(&adopted, &known, *seen_once)))
}
