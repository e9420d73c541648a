//! Feature flags for devices: evaluation and the routes that answer from memory.

pub mod eval;

use utoipa_axum::router::OpenApiRouter;

use crate::ApiState;

/// Routes of this area, relative to the base path; merged by the crate root.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
}
