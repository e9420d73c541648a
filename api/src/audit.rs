//! The audit log: who did what (management.md §13). Append-only: written by
//! [`crate::change::Change`] alone, in the transaction of what it records.

mod action;
mod model;
mod routes;
pub(crate) mod store;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::action::Action;
pub use self::model::AuditEntry;
use crate::ApiState;

pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(routes::list))
}
