//! The API: what people decide, over Postgres, and what devices reported, over
//! ClickHouse.
//!
//! # The path of a request
//!
//! 1. [`router`] finds its handler; what surrounds it gives it an id and answers
//!    CORS preflights.
//! 2. Extractors check, in the order of management.md §1.2: the credential
//!    (401), `X-Project` (400, 404), the role (403), path and query (400), the
//!    body (413, 415, 400). What they leave is a [`scope::ProjectScope`].
//! 3. The handler validates and calls its area's store. A write is a
//!    [`change::Change`]: one transaction that holds the change, its audit row
//!    and its webhook deliveries. A store cannot be called without a project.
//! 4. Errors of all kinds become JSON in [`error`], and nowhere else.
//!
//! Each area is a folder with `routes` (HTTP), `store` (SQL) and `model` (what
//! goes over the wire). The OpenAPI document is generated from the routes; see
//! [`openapi`].

pub(crate) mod api_keys;
pub mod audit;
pub mod auth;
mod branches;
mod caps;
pub mod change;
mod channels;
pub mod clock;
pub mod config;
mod contexts;
pub mod demo;
pub mod error;
pub mod extract;
mod flag_admin;
pub mod flags;
mod heartbeat;
mod http;
pub mod insights;
pub mod network;
pub mod openapi;
pub mod page;
mod patch;
pub mod projects;
mod releases;
pub mod role;
pub mod scope;
mod segments;
pub mod service;
pub mod state;
pub mod storage;
mod surround;
pub mod text;
mod user_overrides;
mod version;
pub mod webhooks;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;

pub use crate::error::ApiError;
use crate::heartbeat::Heartbeat;
pub use crate::state::ApiState;

/// Where every route lives.
pub const BASE_PATH: &str = "/v1/ota";

/// Every route, with its OpenAPI description. Areas are merged here.
fn routes(heartbeat: &Heartbeat) -> OpenApiRouter<ApiState> {
    let management = OpenApiRouter::new()
        .merge(auth::router())
        .merge(projects::router())
        .merge(api_keys::router())
        .merge(audit::router())
        .merge(branches::router())
        .merge(channels::router())
        .merge(releases::router())
        .merge(user_overrides::router())
        .merge(contexts::router())
        .merge(flag_admin::router())
        .merge(segments::router())
        .merge(webhooks::router())
        .merge(insights::router());
    let guard = from_fn_with_state(heartbeat.clone(), heartbeat::guard);
    // Devices are answered from memory; what may wait for Postgres says so itself.
    http::assemble(management.layer(guard), releases::device_router())
        .merge(flags::router())
        .merge(flags::ofrep_router())
}

/// The whole API under `/v1/ota`, its description at `/v1/ota/openapi.json` and
/// a page to read it at `/docs`.
pub fn router(state: ApiState) -> Router {
    let (router, document) = openapi::describe(routes(&state.heartbeat));
    http::finish(router.with_state(state), document)
}
