//! The OpenFeature Remote Evaluation Protocol over the same evaluator, so that
//! any OpenFeature client works.
//!
//! The project comes from the API key (`Authorization: Bearer` or `X-API-Key`;
//! any role, `publishable` too). Of the evaluation context, `targetingKey`,
//! `deviceId`, `channel`, `platform`, `runtimeVersion` and `updateId` are what
//! they are on the other routes; the rest are attributes. A flag that is off is
//! not found, so that the application's default applies.
//!
//! Published clients fail on a reason that OpenFeature does not know, and on an
//! answer without a variant: reasons are told in OpenFeature's words, and a
//! variation without a name is the empty one.

use axum::Json;
use axum::body::HttpBody as _;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_schema::id::ProjectId;
use utoipa::ToSchema;

use super::eval::{Device, Outcome, Reason};
use super::model::check_attributes;
use super::routes::{BODY_LIMIT_BYTES, asker, context, count, rules};
use super::rules::entity_tag;
use super::tags::{KnownTags, tagged};
use crate::ApiState;
use crate::auth::{credential, token};
use crate::error::{ApiError, ApiResult};
use crate::extract::{JsonBody, Path};

/// The other header of the protocol's two.
const API_KEY_HEADER: &str = "x-api-key";

/// The project of the API key.
pub(crate) struct KeyProject(ProjectId);

impl FromRequestParts<ApiState> for KeyProject {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> ApiResult<Self> {
        let header = || parts.headers.get(API_KEY_HEADER)?.to_str().ok();
        let key = credential::bearer_token(&parts.headers).or_else(header);
        let key = key.ok_or_else(|| ApiError::unauthorized("an API key is required"))?;
        let hash = token::digest(key);
        let hex = hex::encode(hash);
        let project = state.flags.project_of_key(&hex);
        let project = state.heartbeat.bound(project).await??;
        let project =
            project.ok_or_else(|| ApiError::unauthorized("invalid or revoked API key"))?;
        state.used_keys.note(hash);
        Ok(Self(project))
    }
}

/// An evaluation request of the protocol.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EvaluationRequest {
    /// Whom to evaluate for.
    context: Option<Map<String, Value>>,
}

/// A flag's value.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvaluationSuccess {
    key: String,
    reason: &'static str,
    variant: String,
    value: Value,
}

/// The values of all flags that are on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkSuccess {
    flags: Vec<EvaluationSuccess>,
}

/// Why there is no value.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EvaluationFailure {
    /// Absent when all flags were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    error_code: &'static str,
    error_details: String,
}

/// Evaluates one flag.
#[utoipa::path(post, path = "/ofrep/v1/evaluate/flags/{key}", tag = "ofrep",
    security(("bearer" = [])), params(("key" = String, Path, description = "Key of the flag")),
    request_body = Option<EvaluationRequest>,
    responses((status = 200, body = EvaluationSuccess),
              (status = 400, body = EvaluationFailure),
              (status = 404, body = EvaluationFailure),
              (status = 429, description = "Too many requests")))]
pub(super) async fn one(
    State(state): State<ApiState>,
    KeyProject(project): KeyProject,
    Path(key): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let device = match device(request).await {
        Ok(device) => device,
        Err(failure) => return failure.into_response(Some(key)),
    };
    count(&state, project, asker(&device, None))?;
    let rules = rules(&state, project).await?;
    let context = context(&state, project, &rules, &device, state.clock.now());
    let flag = rules.channel(device.channel.as_deref()).flag(&key);
    match flag.and_then(|flag| flag.evaluate(&context)) {
        Some(outcome) => Ok(Json(EvaluationSuccess::new(&key, outcome)).into_response()),
        None => Ok(not_found(key)),
    }
}

/// Evaluates every flag that is on.
#[utoipa::path(post, path = "/ofrep/v1/evaluate/flags", tag = "ofrep",
    security(("bearer" = [])), request_body = Option<EvaluationRequest>,
    params(("If-None-Match" = Option<String>, Header, description = "Entity tags that the client has")),
    responses((status = 200, body = BulkSuccess, headers(("etag" = String))),
              (status = 304, description = "As the client has it"),
              (status = 400, body = EvaluationFailure),
              (status = 429, description = "Too many requests")))]
pub(super) async fn all(
    State(state): State<ApiState>,
    KeyProject(project): KeyProject,
    known: KnownTags,
    request: Request,
) -> ApiResult<Response> {
    let device = match device(request).await {
        Ok(device) => device,
        Err(failure) => return failure.into_response(None),
    };
    count(&state, project, asker(&device, None))?;
    let rules = rules(&state, project).await?;
    let context = context(&state, project, &rules, &device, state.clock.now());
    let flags = rules.channel(device.channel.as_deref()).flags().iter();
    let flags = flags
        .filter_map(|flag| Some(EvaluationSuccess::new(flag.key(), flag.evaluate(&context)?)))
        .collect();
    let body = serde_json::to_vec(&BulkSuccess { flags }).map_err(ApiError::internal)?;
    Ok(tagged(&known, &entity_tag(&body), || body.into_response()))
}

impl EvaluationSuccess {
    fn new(key: &str, outcome: &Outcome) -> Self {
        Self {
            key: key.to_owned(),
            reason: openfeature_reason(outcome.reason),
            variant: outcome.variant.clone().unwrap_or_default(),
            value: outcome.value.clone(),
        }
    }
}

fn openfeature_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::ReleaseOverride | Reason::SegmentMatch => Reason::TargetingMatch.name(),
        Reason::TargetingMatch | Reason::Split | Reason::Default | Reason::Error => reason.name(),
    }
}

/// What is wrong with a request.
enum Failure {
    /// The body is not what the protocol says.
    Parse(ApiError),
    /// The context breaks a bound.
    Context(ApiError),
}

impl Failure {
    /// Anything but a 400 is answered as on every other route.
    fn into_response(self, key: Option<String>) -> ApiResult<Response> {
        let (error_code, error) = match self {
            Self::Parse(error) => ("PARSE_ERROR", error),
            Self::Context(error) => ("INVALID_CONTEXT", error),
        };
        if error.status() != StatusCode::BAD_REQUEST {
            return Err(error);
        }
        let error_details = error.message().to_owned();
        let failure = EvaluationFailure {
            key,
            error_code,
            error_details,
        };
        Ok((StatusCode::BAD_REQUEST, Json(failure)).into_response())
    }
}

fn not_found(key: String) -> Response {
    let failure = EvaluationFailure {
        key: Some(key),
        error_code: "FLAG_NOT_FOUND",
        error_details: "no such flag, or it is off".to_owned(),
    };
    (StatusCode::NOT_FOUND, Json(failure)).into_response()
}

/// What the body says of whom to evaluate for. The protocol asks for no body.
async fn evaluation_context(request: Request) -> Result<Map<String, Value>, Failure> {
    if request.body().is_end_stream() {
        return Ok(Map::new());
    }
    let body: Result<JsonBody<Option<EvaluationRequest>, BODY_LIMIT_BYTES>, _> =
        JsonBody::from_request(request, &()).await;
    let JsonBody(body) = body.map_err(Failure::Parse)?;
    Ok(body.and_then(|body| body.context).unwrap_or_default())
}

async fn device(request: Request) -> Result<Device, Failure> {
    let mut attributes = evaluation_context(request).await?;
    check_attributes(&attributes).map_err(Failure::Context)?;
    if let Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) =
        attributes.get("targetingKey")
    {
        let refused = ApiError::bad_request("context.targetingKey must be a string");
        return Err(Failure::Context(refused));
    }
    // What is not a text is an attribute like any other.
    let mut field = |name: &str| {
        let text = attributes.get(name)?.as_str()?.to_owned();
        attributes.remove(name);
        Some(text).filter(|text| !text.is_empty())
    };
    Ok(Device {
        targeting_key: field("targetingKey"),
        device_id: field("deviceId").unwrap_or_default(),
        channel: field("channel"),
        platform: field("platform"),
        runtime_version: field("runtimeVersion"),
        update_id: field("updateId"),
        attributes,
    })
}
