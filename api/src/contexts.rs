//! Contexts (management.md §16): the subjects of flag evaluations. Most are
//! written by the pipeline; these routes are for people.

mod model;
mod routes;
mod store;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ApiState;

pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(routes::list, routes::create))
        .routes(routes!(routes::kinds))
        .routes(routes!(routes::get, routes::delete))
}
