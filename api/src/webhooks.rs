//! Webhooks (management.md §12).
//!
//! Changes write deliveries into the [`outbox`] in their own transaction; workers
//! claim due ones, send them, and write down what came of it. What always
//! holds: an event reaches each active webhook of its project that wants it at
//! least once, or its failure is on record; the body is the same on every
//! attempt; nothing is sent to an address that is not public, unless the
//! operator allows it.

mod address;
mod delivery;
mod event;
mod model;
pub(crate) mod outbox;
mod queue;
mod routes;
mod schedule;
mod sender;
mod signature;
mod store;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::delivery::deliver_due;
pub(crate) use self::delivery::deliver_forever;
pub use self::event::Event;
pub(crate) use self::queue::purge;
pub use self::sender::Sender;
use crate::ApiState;

pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(routes::list, routes::create))
        .routes(routes!(routes::update, routes::delete))
        .routes(routes!(routes::deliveries))
}
