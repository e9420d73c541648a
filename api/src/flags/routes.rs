//! The anonymous device routes (flags.md §9 to §11). They ignore any
//! `Authorization`, and answer from memory.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sluice_schema::id::ProjectId;

use super::eval::{ChannelFlag, Context, DISABLED_JSON, Device, Outcome};
use super::model::{BulkQuery, BulkRequest, DefinitionsQuery, Evaluated, StreamQuery};
use super::rules::ProjectRules;
use super::{limit, stream};
use crate::ApiState;
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path, Query};

/// The largest body of an evaluation, in bytes.
pub(super) const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// For answers that depend on the device.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=0, must-revalidate");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The rules by which a device evaluates flags itself.
#[utoipa::path(get, path = "/flag-definitions/{projectSlug}", tag = "devices", security(()),
    params(("projectSlug" = String, Path, description = "Slug or UUID of the project"), DefinitionsQuery),
    responses((status = 200, body = Value, headers(("etag" = String))),
              (status = 304, description = "As the client has it"),
              (status = 404, description = "No such project"),
              (status = 429, description = "Too many requests")))]
pub(super) async fn definitions(
    State(state): State<ApiState>,
    Path(handle): Path<String>,
    Query(query): Query<DefinitionsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let project = project(&state, &handle).await?;
    count(&state, project, query.device_id.as_deref())?;
    let rules = state.flags.rules(project).await?;
    let channel = rules.channel(query.channel.as_deref());
    let definitions = channel.definitions(query.variant());
    Ok(tagged(&headers, &definitions.etag, || {
        definitions.body.clone().into_response()
    }))
}

/// A body that is worth sending only to a client that has another.
pub(super) fn tagged(
    headers: &HeaderMap,
    etag: &HeaderValue,
    body: impl FnOnce() -> Response,
) -> Response {
    let mut response = if is_known(headers, etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = body();
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response
    };
    response.headers_mut().insert(ETAG, etag.clone());
    response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
    response
}

/// Whether `If-None-Match` (a list, `*`, weakly compared) names `etag`.
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter();
    let tags = lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','));
    let mut tags = tags.map(str::trim);
    tags.any(|tag| {
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes()
    })
}

/// Evaluates every flag for one device.
#[utoipa::path(post, path = "/flag-evaluations-bulk", tag = "devices", security(()),
    params(BulkQuery), request_body = BulkRequest,
    responses((status = 200, body = Evaluated),
              (status = 404, description = "No such project"),
              (status = 429, description = "Too many requests")))]
pub(super) async fn bulk(
    State(state): State<ApiState>,
    Query(query): Query<BulkQuery>,
    JsonBody(request): JsonBody<BulkRequest, BODY_LIMIT_BYTES>,
) -> ApiResult<Response> {
    let project = project(&state, &request.project_slug).await?;
    let device = request.into_device()?;
    count(&state, project, Some(&device.device_id))?;
    let rules = state.flags.rules(project).await?;
    let now = state.clock.now();
    let channel = device.channel.as_deref();
    let context = context(&rules, &device, now.timestamp_micros());
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
    let mut body = String::from("{\"flags\":{");
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

/// What is known of a device under these rules. When it got its update is not
/// known here, so that rules about it do not match.
pub(super) fn context<'a>(rules: &'a ProjectRules, device: &'a Device, now_us: i64) -> Context<'a> {
    Context {
        device,
        branch: rules.branch(device.update_uuid()).map(AsRef::as_ref),
        update_since_us: None,
        now_us,
    }
}

/// Keeps one device's flags true: `put` at once, then `patch` and `delete`.
#[utoipa::path(get, path = "/flag-stream/{projectSlug}", tag = "devices", security(()),
    params(("projectSlug" = String, Path, description = "Slug or UUID of the project"), StreamQuery),
    responses((status = 200, body = String, content_type = "text/event-stream"),
              (status = 404, description = "No such project"),
              (status = 429, description = "Too many requests")))]
pub(super) async fn flag_stream(
    State(state): State<ApiState>,
    Path(handle): Path<String>,
    Query(query): Query<StreamQuery>,
) -> ApiResult<Response> {
    let project = project(&state, &handle).await?;
    let device = query.into_device()?;
    count(&state, project, Some(&device.device_id))?;
    let rules = state.flags.watch(project).await?;
    state.flag_callers.note(project, &device, state.clock.now());
    let body = stream::body(device, rules, state.clock.clone(), state.flags.closing());
    let headers = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, body).into_response())
}

async fn project(state: &ApiState, handle: &str) -> ApiResult<ProjectId> {
    let project = state.flags.project(handle).await?;
    project.ok_or_else(|| ApiError::not_found("Project"))
}

/// Counts a request towards the rates of its project and its device.
pub(super) fn count(state: &ApiState, project: ProjectId, device: Option<&str>) -> ApiResult<()> {
    let checked = state
        .flags
        .limiter()
        .check(project, device, state.clock.now());
    checked.map_err(|limit::Exceeded { retry_after_s }| {
        ApiError::too_many_requests("too many requests", retry_after_s)
    })
}
