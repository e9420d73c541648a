//! Accounts, sessions and invites (management.md §2–3).
//!
//! Tokens are 256 random bits and stored as SHA-256; passwords are stored as
//! Argon2id. Nobody is there from the start.

pub(crate) mod credential;
mod invites;
mod model;
pub(crate) mod password;
mod registration;
mod routes;
pub(crate) mod store;
pub(crate) mod throttle;
pub(crate) mod token;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ApiState;

pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(routes::setup_status))
        .routes(routes!(registration::register))
        .routes(routes!(routes::login))
        .routes(routes!(routes::logout))
        .routes(routes!(routes::me))
        .routes(routes!(routes::users))
        .routes(routes!(invites::invite))
        .routes(routes!(invites::accept))
}
