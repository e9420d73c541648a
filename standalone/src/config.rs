//! Configuration of the all-in-one process.

use std::net::SocketAddr;
use std::path::PathBuf;

use sluice_api::config::{ClickHouseConfig, PostgresConfig, read_policy};
use sluice_api::state::Policy;
use sluice_api::storage::StorageConfig;
use sluice_ingest::Limits;
use sluice_ingest::config::read_limits;
use sluice_service::admin::AdminConfig;
use sluice_service::config::{ConfigReader, Secret};
use sluice_service::logging::{Format, LoggingConfig};
use sluice_service::proxies::TrustedProxies;

use crate::stores::{self, Engines};

/// Connections of the API and the edge's directory together.
const POSTGRES_CONNECTIONS: u32 = 24;
const ADMIN_PORT: u16 = 9100;

/// All that can be chosen. Engines' addresses and passwords are made, not chosen.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `SLUICE_LISTEN`: address and port of everything that devices and people
    /// call. Default `127.0.0.1:8080`.
    pub(crate) listen: SocketAddr,
    /// The admin port. Default 9100.
    pub(crate) admin: AdminConfig,
    /// `SLUICE_DATA_DIR`: holds all state. Default `./.sluice`.
    pub(crate) data_dir: PathBuf,
    /// Logs, for people by default.
    pub(crate) logging: LoggingConfig,
    /// What the edge takes on.
    pub(crate) edge: Limits,
    /// Choices that the API follows.
    pub(crate) policy: Policy,
}

impl Config {
    /// Reads it.
    pub(crate) fn read(reader: &mut ConfigReader) -> Self {
        // Read where engines are fetched (`sluice_engines::cache_dir`).
        reader.optional::<String>("SLUICE_CACHE_DIR");
        Self {
            listen: reader.value("SLUICE_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080))),
            admin: AdminConfig::read(reader, ADMIN_PORT),
            data_dir: reader.value("SLUICE_DATA_DIR", ".sluice".to_owned()).into(),
            logging: LoggingConfig::read(reader, Format::Text),
            edge: read_limits(reader),
            policy: read_policy(reader),
        }
    }

    /// Of the API over these engines.
    pub(crate) fn api(&self, engines: &Engines) -> sluice_api::config::Config {
        sluice_api::config::Config {
            listen: self.listen,
            admin: self.admin,
            logging: self.logging.clone(),
            postgres: PostgresConfig {
                url: Secret::new(engines.postgres.url()),
                max_connections: POSTGRES_CONNECTIONS,
            },
            // The edge has resolved them.
            proxies: TrustedProxies::default(),
            clickhouse: ClickHouseConfig {
                url: engines.clickhouse.url(),
                database: stores::DATABASE.to_owned(),
                user: engines.clickhouse.user().to_owned(),
                password: Secret::new(engines.clickhouse.password()),
            },
            storage: StorageConfig::local(self.data_dir.join("files")),
            policy: self.policy,
        }
    }
}
