//! The Postgres schema: what people decide.
//!
//! The migrations are in `schema/postgres/`, in order. Running them takes an
//! advisory lock, so that several processes may start at once; what ran is
//! checked by hash, so a migration that has shipped is never edited.
//!
//! The channels below tell of changes by NOTIFY, in the transaction that makes them.

mod used_keys;

pub use self::used_keys::UsedKeys;

/// All migrations, embedded. Run by the api and by standalone at start.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./postgres");

/// Something that the edge's directory holds has changed: projects, members,
/// sessions, API keys. The payload names the table.
pub const DIRECTORY_CHANNEL: &str = "sluice_directory";

/// Something that decides flag evaluation has changed. The payload is the
/// project's id.
pub const FLAGS_CHANNEL: &str = "sluice_flags";

/// Webhook deliveries have become due. The payload is empty.
pub const WEBHOOKS_CHANNEL: &str = "sluice_webhooks";
