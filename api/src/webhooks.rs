//! Webhooks (management.md §12).

mod event;
pub(crate) mod outbox;

pub use self::event::Event;
