//! Stub.

use utoipa_axum::router::OpenApiRouter;

use crate::ApiState;

pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
}
