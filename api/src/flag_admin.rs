//! Feature flags as people manage them (management.md §10). Evaluation is in
//! [`crate::flags`], and so are the rules for values and rule configurations,
//! so that what is stored is what evaluates.
//!
//! Every write locks the flag's row first: rules, variations and settings of
//! one flag change one after the other, and a value that is rewritten is
//! rewritten everywhere.

mod env_settings;
mod input;
mod model;
mod reads;
mod routes;
mod rules;
mod store;
mod variations;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ApiState;

pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(routes::list, routes::create))
        .routes(routes!(routes::get, routes::update, routes::delete))
        .routes(routes!(rules::create))
        .routes(routes!(rules::update, rules::delete))
        .routes(routes!(variations::update))
        .routes(routes!(env_settings::update))
}
