//! What handlers and workers share.

use std::ops::Deref;
use std::sync::Arc;

use sluice_schema::postgres::UsedKeys;
use sqlx::PgPool;

use crate::auth::throttle::LoginThrottle;
use crate::clock::Clock;
use crate::flags::{FlagLimits, Flags};
use crate::heartbeat::Heartbeat;
use crate::insights::activity::Callers;
use crate::insights::evaluations::bulk::BulkCounts;
use crate::insights::{self, Insights};
use crate::releases::{AssetIndex, AssetReads, UploadSlots};
pub use crate::releases::{AssetLimits, UploadLimits};
use crate::segments::Estimates;
use crate::storage::Storage;

/// Choices of the operator that handlers follow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Registration answers 403 once there is a user.
    pub close_registration: bool,
    /// Webhooks may be sent to addresses that are not public.
    pub allow_private_webhooks: bool,
    /// How often devices may call the anonymous flag routes.
    pub flag_limits: FlagLimits,
    /// How often devices may ask for files.
    pub asset_limits: AssetLimits,
    /// How many uploads may be under way.
    pub upload_limits: UploadLimits,
}

/// What handlers and workers share. Cloning it shares it, and costs little: each
/// request gets some.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

/// What is in an [`ApiState`].
#[derive(Clone)]
pub struct Shared {
    /// What people decide. Waits for a connection at most 1.5 s.
    pub postgres: PgPool,
    /// Whether Postgres is away.
    pub(crate) heartbeat: Heartbeat,
    /// What devices reported.
    pub clickhouse: clickhouse::Client,
    /// The present.
    pub clock: Clock,
    /// Choices of the operator.
    pub policy: Policy,
    /// Flags as devices see them, in memory.
    pub flags: Flags,
    /// How often bulk answers held which flags, until that is stored.
    pub(crate) bulk_counts: Arc<BulkCounts>,
    /// Devices that called flag routes, until that is stored.
    pub(crate) flag_callers: Arc<Callers>,
    /// Reads of what devices reported, and what was answered of late.
    pub(crate) insights: Insights,
    /// Uploaded files.
    pub storage: Storage,
    /// Facts of uploaded files that devices ask for, in memory.
    pub(crate) assets: AssetIndex,
    /// Who asked for files of late.
    pub(crate) asset_reads: Arc<AssetReads>,
    /// Uploads under way.
    pub(crate) uploads: Arc<UploadSlots>,
    /// Segments whose sizes are to be counted again.
    pub(crate) estimates: Arc<Estimates>,
    /// API keys that the flag routes knew from memory.
    pub(crate) used_keys: Arc<UsedKeys>,
    /// Failed logins of the last quarter of an hour, in this process.
    pub(crate) logins: Arc<LoginThrottle>,
}

impl ApiState {
    /// State over two stores, with the system's clock, and no storage for files.
    pub fn new(postgres: PgPool, clickhouse: clickhouse::Client, policy: Policy) -> Self {
        Self(Arc::new(Shared {
            flags: Flags::new(postgres.clone(), policy.flag_limits),
            postgres,
            heartbeat: Heartbeat::default(),
            insights: insights::Shared::new(clickhouse.clone()),
            clickhouse,
            clock: Clock::system(),
            policy,
            storage: Storage::nowhere(),
            assets: AssetIndex::default(),
            asset_reads: Arc::new(AssetReads::new(policy.asset_limits)),
            uploads: Arc::new(UploadSlots::new(policy.upload_limits)),
            bulk_counts: Arc::default(),
            flag_callers: Arc::default(),
            estimates: Arc::default(),
            used_keys: Arc::default(),
            logins: Arc::default(),
        }))
    }

    /// The same state with a storage for files.
    #[must_use]
    pub fn with_storage(mut self, storage: Storage) -> Self {
        Arc::make_mut(&mut self.0).storage = storage;
        self
    }

    /// The same state at another time.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        Arc::make_mut(&mut self.0).clock = clock;
        self
    }
}

impl Deref for ApiState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
