//! Feature flags as devices see them: evaluation, and the routes that answer
//! from memory (flags.md §9 to §11, OFREP).
//!
//! [`eval`] is the pure core. [`rules`] compiles a project's flags with it;
//! [`live`] keeps the compiled rules in memory true to Postgres; the routes and
//! the [`stream`] only read them. What people do with flags is elsewhere.

mod ages;
mod directory;
pub mod eval;
pub(crate) mod limit;
mod live;
mod model;
mod ofrep;
mod routes;
mod rules;
mod store;
mod stream;
mod tags;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::limit::FlagLimits;
pub use self::live::Flags;
use crate::ApiState;

/// The routes that devices call most.
pub(crate) const HOT_ROUTES: [&str; 2] = [routes::DEFINITIONS_PATH, routes::BULK_PATH];

/// Routes of this area, with the base path: a nested router costs each request
/// a new path. Merged by the crate root.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(routes::definitions))
        .routes(routes!(routes::bulk))
        .routes(routes!(routes::flag_stream))
}

/// Routes of the OpenFeature Remote Evaluation Protocol, whose paths are its own.
pub(crate) fn ofrep_router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(ofrep::one))
        .routes(routes!(ofrep::all))
}
