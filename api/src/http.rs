//! What all routes share: request ids, CORS, compression, metrics, and JSON
//! for what no handler answers.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowHeaders, Any as AnyOrigin, CorsLayer};
use tracing::Instrument;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;
use uuid::Uuid;

use crate::error::ApiError;
use crate::{ApiState, BASE_PATH, openapi};

/// The header of every response that names its entry in the log.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// What browsers remember at most, or more.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_hours(24);

/// Management answers may be compressed; device-facing ones never are.
pub(crate) fn assemble(
    management: OpenApiRouter<ApiState>,
    device_facing: OpenApiRouter<ApiState>,
) -> OpenApiRouter<ApiState> {
    let all = management
        .routes(routes!(healthz))
        .layer(CompressionLayer::new())
        .merge(device_facing);
    OpenApiRouter::new().nest(BASE_PATH, all)
}

/// Adds the description and what surrounds every route.
pub(crate) fn finish(router: Router, document: OpenApi) -> Router {
    router
        .merge(SwaggerUi::new(openapi::PAGE_PATH).url(openapi::DOCUMENT_PATH, document))
        .fallback(async || ApiError::not_found("route"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(cors())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(identify))
}

/// Any origin, method and header. None of these is `*`, which does not cover
/// `Authorization`: methods are named, and headers mirrored.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(AnyOrigin)
        .max_age(PREFLIGHT_MAX_AGE)
}

// By value, because the layer passes it so.
#[allow(clippy::needless_pass_by_value)]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::internal(format!("panic: {}", text.unwrap_or("no message"))).into_response()
}

/// Gives the request an id, which its log entries and its response carry, and
/// counts it.
async fn identify(request: Request, next: Next) -> Response {
    let id = Uuid::now_v7().to_string();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
    let span = tracing::info_span!("request", id, %method, route);
    let started = Instant::now();
    let mut response = next.run(request).instrument(span).await;
    let labels = [
        ("method", method.to_string()),
        ("route", route),
        ("status", response.status().as_u16().to_string()),
    ];
    metrics::histogram!("sluice_api_request_seconds", &labels).record(started.elapsed());
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Whether the process answers; the admin port says whether it can work.
#[utoipa::path(get, path = "/healthz", tag = "service", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok"
}
