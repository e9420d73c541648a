//! API keys (management.md §4): what programs present instead of a session.

mod model;
mod routes;
pub(crate) mod store;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ApiState;

pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(routes::list, routes::create))
        .routes(routes!(routes::revoke))
        .routes(routes!(routes::delete))
}
