//! The anonymous device routes (flags.md §9 to §11). They ignore any
//! `Authorization`, and answer from memory.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use sluice_schema::id::ProjectId;

use super::ages::Running;
use super::eval::{ChannelFlag, Context, DISABLED_JSON, Device, Outcome};
use super::limit::Asker;
use super::model::{BulkQuery, BulkRequest, DefinitionsQuery, Evaluated, StreamQuery};
use super::rules::ProjectRules;
use super::tags::{KnownTags, tagged};
use super::{limit, stream};
use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path, Query};
use crate::network::ClientAddress;

/// The largest body of an evaluation, in bytes.
pub(super) const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// Of [`definitions`].
pub(super) const DEFINITIONS_PATH: &str = "/v1/ota/flag-definitions/{projectSlug}";
/// Of [`bulk`].
pub(super) const BULK_PATH: &str = "/v1/ota/flag-evaluations-bulk";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The rules by which a device evaluates flags itself.
#[utoipa::path(get, path = "/v1/ota/flag-definitions/{projectSlug}", tag = "devices", security(()),
    params(("projectSlug" = String, Path, description = "Slug or UUID of the project"), DefinitionsQuery),
    responses((status = 200, body = Value, headers(("etag" = String))),
              (status = 304, description = "As the client has it"),
              (status = 404, description = "No such project"),
              (status = 429, description = "Too many requests")))]
pub(super) async fn definitions(
    State(state): State<ApiState>,
    Path(handle): Path<String>,
    Query(query): Query<DefinitionsQuery>,
    ClientAddress(address): ClientAddress,
    known: KnownTags,
) -> ApiResult<Response> {
    let project = project(&state, &handle).await?;
    let device_id = query.device_id.as_deref();
    count(&state, project, Asker { device_id, address })?;
    let rules = rules(&state, project).await?;
    let channel = rules.channel(query.channel.as_deref());
    let definitions = channel.definitions(query.variant());
    Ok(tagged(&known, &definitions.etag, || {
        definitions.body.clone().into_response()
    }))
}

/// Evaluates every flag for one device.
#[utoipa::path(post, path = "/v1/ota/flag-evaluations-bulk", tag = "devices", security(()),
    params(BulkQuery), request_body = BulkRequest,
    responses((status = 200, body = Evaluated),
              (status = 404, description = "No such project"),
              (status = 429, description = "Too many requests")))]
pub(super) async fn bulk(
    State(state): State<ApiState>,
    Query(query): Query<BulkQuery>,
    ClientAddress(address): ClientAddress,
    JsonBody(request): JsonBody<BulkRequest, BODY_LIMIT_BYTES>,
) -> ApiResult<Response> {
    let project = project(&state, request.project()?).await?;
    let device = request.into_device()?;
    count(&state, project, asker(&device, address))?;
    let rules = rules(&state, project).await?;
    let now = state.clock.now();
    let channel = device.channel.as_deref();
    let context = context(&state, project, &rules, &device, now);
    let flags = rules.channel(channel).flags();
    let outcome = |flag| ChannelFlag::evaluate(flag, &context).map(AsRef::as_ref);
    let evaluated: Vec<FlagOutcome<'_>> =
        flags.iter().map(|flag| (&**flag, outcome(flag))).collect();
    let on = evaluated.iter();
    let on = on.filter_map(|(flag, outcome)| Some((flag.source().id, flag.key(), (*outcome)?)));
    state.bulk_counts.add(project, channel, now, on);
    state.flag_callers.note(project, &device, now);
    let body = rendered(&evaluated, query.include_disabled);
    Ok(([(CONTENT_TYPE, JSON)], body).into_response())
}

/// A flag, and what a device gets where it is on for it.
type FlagOutcome<'a> = (&'a ChannelFlag, Option<&'a Outcome>);

/// `{"flags":{…}}`, put together from answers that are rendered already.
fn rendered(evaluated: &[FlagOutcome<'_>], with_disabled: bool) -> String {
    let size = |(flag, outcome): &FlagOutcome<'_>| {
        let json = outcome.map_or(DISABLED_JSON, Outcome::json);
        flag.key_json().len() + json.len() + 2
    };
    let mut body = String::with_capacity(16 + evaluated.iter().map(size).sum::<usize>());
    body.push_str("{\"flags\":{");
    for (flag, outcome) in evaluated {
        let outcome = outcome.map(Outcome::json);
        let disabled = with_disabled.then_some(DISABLED_JSON);
        if let Some(json) = outcome.or(disabled) {
            let comma = if body.ends_with('{') { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(body, "{comma}{}:{json}", flag.key_json());
        }
    }
    body.push_str("}}");
    body
}

/// What is known of a device under these rules.
pub(super) fn context<'a>(
    state: &ApiState,
    project: ProjectId,
    rules: &'a ProjectRules,
    device: &'a Device,
    now: DateTime<Utc>,
) -> Context<'a> {
    let running = || Running::new(project, device.update_uuid(), &device.device_id);
    let channel = rules.channel(device.channel.as_deref());
    let running = channel.asks_update_age().then(running).flatten();
    Context {
        device,
        branch: rules.branch_of(device).map(AsRef::as_ref),
        update_since_us: running.and_then(|running| state.flags.ages().of(running).since_us()),
        now_us: now.timestamp_micros(),
    }
}

/// Keeps one device's flags true: `put` at once, then `patch` and `delete`.
#[utoipa::path(get, path = "/v1/ota/flag-stream/{projectSlug}", tag = "devices", security(()),
    params(("projectSlug" = String, Path, description = "Slug or UUID of the project"), StreamQuery),
    responses((status = 200, body = String, content_type = "text/event-stream"),
              (status = 404, description = "No such project"),
              (status = 429, description = "Too many requests")))]
pub(super) async fn flag_stream(
    State(state): State<ApiState>,
    Path(handle): Path<String>,
    Query(query): Query<StreamQuery>,
    ClientAddress(address): ClientAddress,
) -> ApiResult<Response> {
    let project = project(&state, &handle).await?;
    let device = query.into_device()?;
    count(&state, project, asker(&device, address))?;
    let rules = state.heartbeat.bound(state.flags.watch(project)).await??;
    state.flag_callers.note(project, &device, state.clock.now());
    let body = stream::body(device, project, rules, &state);
    let headers = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, body).into_response())
}

async fn project(state: &ApiState, handle: &str) -> ApiResult<ProjectId> {
    if let Some(known) = state.flags.known_project(handle) {
        return Ok(known);
    }
    let project = state.heartbeat.bound(state.flags.project(handle)).await??;
    project.ok_or_else(|| ApiError::not_found("Project"))
}

/// The present rules of a project, for which the first to ask waits.
pub(super) async fn rules(state: &ApiState, project: ProjectId) -> ApiResult<Arc<ProjectRules>> {
    if let Some(known) = state.flags.known_rules(project) {
        return Ok(known);
    }
    Ok(state.heartbeat.bound(state.flags.rules(project)).await??)
}

/// A device that calls from `address`.
pub(super) fn asker(device: &Device, address: Option<IpAddr>) -> Asker<'_> {
    let device_id = Some(device.device_id.as_str());
    Asker { device_id, address }
}

/// Counts a request towards the rates of its project and of who asks.
pub(super) fn count(state: &ApiState, project: ProjectId, asker: Asker<'_>) -> ApiResult<()> {
    let checked = state
        .flags
        .limiter()
        .check(project, asker, state.clock.now());
    checked.map_err(|limit::Exceeded { retry_after_s }| {
        ApiError::too_many_requests("too many requests", retry_after_s)
    })
}
