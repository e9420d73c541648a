//! Insights, telemetry and observe: reads of what devices reported.

use utoipa_axum::router::OpenApiRouter;

use crate::ApiState;

/// Routes of this area, relative to the base path; merged by the crate root.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
}
