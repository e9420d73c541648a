use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::model::{RepublishUpdate, Republished, RepublishedUpdate};
use super::store::{self, Stored};
use crate::ApiState;
use crate::audit::Action;
use crate::change::Change;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};
use crate::releases::publishing::{self, Kind, Terms};
use crate::scope::Editor;
use crate::webhooks::Event;

const MAX_CHANNELS: usize = 100;

/// Publishes an update again, to its own or to other channels: the same files
/// to all devices, as one new release.
#[utoipa::path(post, path = "/updates/{id}/republish", tag = "updates",
    security(("bearer" = ["editor"])), params(("id" = i64, Path)), request_body = RepublishUpdate,
    responses((status = 201, body = Republished)))]
pub(crate) async fn republish(
    State(state): State<ApiState>,
    Editor(scope): Editor,
    Path(id): Path<i64>,
    JsonBody(body): JsonBody<RepublishUpdate>,
) -> ApiResult<(StatusCode, Json<Republished>)> {
    let mut change = Change::begin(&state, &scope).await?;
    let source = store::hold(&mut change, id).await?;
    let source = source.ok_or_else(|| ApiError::not_found("update"))?;
    if source.is_rollback {
        return Err(ApiError::bad_request("a rollback cannot be republished"));
    }
    let channels = channels(body.channels.unwrap_or_default(), &source)?;
    let message = body
        .release_message
        .unwrap_or_else(|| source.release_message.clone());
    let terms = Terms {
        rollout_percentage: 100,
        is_critical: source.is_critical,
        release_message: publishing::release_message(Some(message))?,
        group_id: publishing::new_group(),
    };
    let updates = copy(&mut change, (id, &source), &channels, &terms).await?;
    let data = json!({ "source_update_id": id, "channels": channels, "group_id": terms.group_id });
    change.emit(Event::UpdateRepublished, data).await?;
    change.commit().await?;
    let group_id = terms.group_id;
    Ok((StatusCode::CREATED, Json(Republished { updates, group_id })))
}

/// Each once, in the order of the request.
fn channels(given: Vec<String>, source: &Stored) -> ApiResult<Vec<String>> {
    if given.len() > MAX_CHANNELS {
        let message = format!("channels must have at most {MAX_CHANNELS} entries");
        return Err(ApiError::bad_request(message));
    }
    let mut channels = Vec::new();
    for channel in given {
        let channel = publishing::channel(&channel)?;
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    if channels.is_empty() {
        channels.push(source.channel.clone());
    }
    Ok(channels)
}

async fn copy(
    change: &mut Change,
    (id, source): (i64, &Stored),
    channels: &[String],
    terms: &Terms,
) -> ApiResult<Vec<RepublishedUpdate>> {
    publishing::lock_destinations(change, channels).await?;
    let mut updates = Vec::new();
    for channel in channels {
        let made =
            publishing::publish(change, channel, &source.content, terms, Kind::Normal, &[]).await?;
        store::copy_assets(change, id, made.id).await?;
        let details =
            json!({ "sourceUpdateId": id, "channel": channel, "groupId": terms.group_id });
        change
            .audit(Action::UPDATE_REPUBLISHED, made.id, details)
            .await?;
        updates.push(RepublishedUpdate {
            id: made.id,
            update_uuid: made.update_uuid,
            channel: channel.clone(),
        });
    }
    Ok(updates)
}
