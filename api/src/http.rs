//! How routes are put together: what is compressed, what surrounds every route,
//! and JSON for what no handler answers.

use axum::Router;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate as _, SizeAbove};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::error::ApiError;
use crate::surround::SurroundLayer;
use crate::{ApiState, BASE_PATH, openapi};

/// Smaller answers are not worth compressing, in bytes (telemetry.md §2.8).
const WORTH_BYTES: u16 = 1_024;

/// Management answers may be compressed; device-facing ones never are.
pub(crate) fn assemble(
    management: OpenApiRouter<ApiState>,
    device_facing: OpenApiRouter<ApiState>,
) -> OpenApiRouter<ApiState> {
    let all = management
        .routes(routes!(healthz))
        .layer(
            CompressionLayer::new()
                .compress_when(DefaultPredicate::new().and(SizeAbove::new(WORTH_BYTES))),
        )
        .merge(device_facing);
    OpenApiRouter::new().nest(BASE_PATH, all)
}

/// Adds the description and what surrounds every route.
pub(crate) fn finish(router: Router, document: OpenApi) -> Router {
    router
        .merge(SwaggerUi::new(openapi::PAGE_PATH).url(openapi::DOCUMENT_PATH, document))
        .fallback(async || ApiError::not_found("route"))
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(SurroundLayer::default())
}

/// Whether the process answers; the admin port says whether it can work.
#[utoipa::path(get, path = "/healthz", tag = "service", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok"
}
