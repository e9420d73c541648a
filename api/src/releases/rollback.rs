//! The way back, as a new row that is the newest (management.md §14,
//! expo-updates.md §8).

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::publishing::{self, Content, Kind, Made, Terms};
use super::updates;
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::JsonBody;
use crate::scope::Editor;
use crate::webhooks::Event;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateRollback {
    runtime_version: String,
    /// `ios` or `android`.
    platform: String,
    /// Need not be configured: then it means the branch of its own name.
    channel: String,
    /// An enabled update for the same apps; if absent, the bundle inside the app.
    rollback_to_update_id: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedRollback {
    id: i64,
    update_uuid: Uuid,
    group_id: String,
}

impl CreateRollback {
    fn check(&self) -> ApiResult<(String, Content)> {
        let content = Content {
            build_id: None,
            runtime_version: publishing::runtime_version(&self.runtime_version)?,
            runtime_fingerprint: None,
            platform: publishing::platform(&self.platform)?,
            expo_config: json!({}),
        };
        Ok((publishing::channel(&self.channel)?, content))
    }
}

/// Sends the devices of a channel back to an update, or to the bundle inside
/// the app. Nothing is deleted; to undo it, disable or delete the new row.
#[utoipa::path(post, path = "/rollback", tag = "updates", security(("bearer" = ["editor"])),
    request_body = CreateRollback, responses((status = 201, body = CreatedRollback)))]
pub(super) async fn rollback(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    JsonBody(body): JsonBody<CreateRollback>,
) -> ApiResult<(StatusCode, Json<CreatedRollback>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let target = match body.rollback_to_update_id {
        Some(id) => Some((id, target(&mut change, id).await?)),
        None => None,
    };
    let (channel, content) = body.check()?;
    if let Some((_, target)) = &target {
        check_target(target, &content)?;
    }
    let terms = Terms {
        rollout_percentage: 100,
        is_critical: false,
        release_message: String::new(),
        group_id: publishing::new_group(),
    };
    let to = target.map(|(id, _)| id);
    let made = insert(&mut change, &channel, &content, &terms, to).await?;
    let data = json!({
        "update_id": made.id,
        "update_uuid": made.update_uuid,
        "rollback_to_update_id": to,
        "runtime_version": content.runtime_version,
        "platform": content.platform,
        "channel": channel,
    });
    change.emit(Event::RollbackCreated, data).await?;
    change.commit().await?;
    let created = CreatedRollback {
        id: made.id,
        update_uuid: made.update_uuid,
        group_id: terms.group_id,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn target(change: &mut Change, id: i64) -> ApiResult<updates::store::Stored> {
    let target = updates::store::hold(change, id).await?;
    target.ok_or_else(|| ApiError::not_found("update"))
}

fn check_target(target: &updates::store::Stored, content: &Content) -> ApiResult<()> {
    let of = &target.content;
    let wanted = Some(&content.runtime_version);
    let fits = Some(&of.runtime_version) == wanted || of.runtime_fingerprint.as_ref() == wanted;
    let problem = match () {
        () if of.platform != content.platform => "is for another platform",
        () if !fits => "is for another runtime version",
        () if target.is_rollback => "is itself a rollback",
        () if !target.is_enabled => "is disabled",
        () => return Ok(()),
    };
    Err(ApiError::bad_request(format!(
        "rollbackToUpdateId: the update {problem}"
    )))
}

/// A row on the channel's branch, and one on the branch that some of its
/// devices get instead; the first of them.
async fn insert(
    change: &mut Change,
    channel: &str,
    content: &Content,
    terms: &Terms,
    to: Option<i64>,
) -> ApiResult<Made> {
    let destination = publishing::destination(change, channel).await?;
    let twin = destination
        .rollout_branch
        .filter(|twin| *twin != destination.branch);
    let branches: Vec<&str> = [&destination.branch]
        .into_iter()
        .chain(&twin)
        .map(String::as_str)
        .collect();
    publishing::lock_branches(change, branches.clone()).await?;
    let details = json!({
        "runtimeVersion": content.runtime_version,
        "platform": content.platform,
        "channel": channel,
        "rollbackToUpdateId": to,
    });
    let mut first = None;
    for branch in branches {
        let kind = Kind::Rollback { to };
        let made = publishing::insert(change, (channel, branch), content, terms, kind).await?;
        change
            .audit(Action::UPDATE_ROLLBACK, made.id, details.clone())
            .await?;
        first.get_or_insert(made);
    }
    first.ok_or_else(|| ApiError::internal("a channel leads to no branch"))
}
