//! Configuration, one struct per concern.

use std::net::SocketAddr;
use std::path::PathBuf;

use sluice_service::admin::AdminConfig;
use sluice_service::config::{ConfigReader, Secret};
use sluice_service::logging::{Format, LoggingConfig};
use sluice_service::postgres;
use sluice_service::proxies::TrustedProxies;

use crate::edge::Limits;
use crate::rates::ProjectRate;

const ADMIN_PORT: u16 = 9100;
const SPOOL_MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// All of `sluice-ingest`.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SLUICE_LISTEN`: address and port of the edge. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// The admin port. Default 9100.
    pub admin: AdminConfig,
    /// Logs.
    pub logging: LoggingConfig,
    /// `SLUICE_KAFKA_BROKERS`: `host:port`, comma-separated. Required.
    pub kafka_brokers: String,
    /// `SLUICE_KAFKA_PARTITIONS`: of each topic, if it has to be created. Default 12.
    pub kafka_partitions: u32,
    /// `SLUICE_POSTGRES_URL`: `postgres://user:password@host:port/database`. Required.
    pub postgres_url: Secret,
    /// `SLUICE_SPOOL_DIR`: where requests wait while Kafka is away, and where the
    /// directory's copy is. Default `./spool`.
    pub spool_dir: PathBuf,
    /// `SLUICE_SPOOL_MAX_BYTES`: most that may wait there. Default 8 GiB.
    pub spool_max_bytes: u64,
    /// What the edge takes on.
    pub limits: Limits,
}

impl Config {
    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        Self {
            listen: reader.value("SLUICE_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8080))),
            admin: AdminConfig::read(reader, ADMIN_PORT),
            logging: LoggingConfig::read(reader, Format::Json),
            kafka_brokers: reader.required("SLUICE_KAFKA_BROKERS"),
            kafka_partitions: reader.value("SLUICE_KAFKA_PARTITIONS", 12),
            postgres_url: postgres::read_url(reader),
            spool_dir: reader
                .value("SLUICE_SPOOL_DIR", "./spool".to_owned())
                .into(),
            spool_max_bytes: reader.bytes("SLUICE_SPOOL_MAX_BYTES", SPOOL_MAX_BYTES),
            limits: read_limits(reader),
        }
    }
}

/// Reads what an edge takes on.
pub fn read_limits(reader: &mut ConfigReader) -> Limits {
    let defaults = Limits::default();
    Limits {
        rate: read_rate(reader),
        // Connections idle most of the time; see docs/decisions/0031.
        max_connections: reader.value("SLUICE_INGEST_MAX_CONNECTIONS", defaults.max_connections),
        path_prefix: reader.value("SLUICE_INGEST_PATH_PREFIX", String::new()),
        proxies: TrustedProxies::read(reader),
        ..defaults
    }
}

/// `SLUICE_INGEST_PROJECT_RATE`, requests a second, and `SLUICE_INGEST_PROJECT_BURST`,
/// by default twice the rate. Without a rate there is no limit.
fn read_rate(reader: &mut ConfigReader) -> Option<ProjectRate> {
    let rate: Option<f64> = reader.optional("SLUICE_INGEST_PROJECT_RATE");
    let burst: Option<f64> = reader.optional("SLUICE_INGEST_PROJECT_BURST");
    if rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        reader.problem("SLUICE_INGEST_PROJECT_RATE", "must be above 0");
    }
    if burst.is_some_and(|burst| !burst.is_finite() || burst < 1.0) {
        reader.problem("SLUICE_INGEST_PROJECT_BURST", "must be at least 1");
    }
    if rate.is_none() && burst.is_some() {
        reader.problem(
            "SLUICE_INGEST_PROJECT_BURST",
            "needs SLUICE_INGEST_PROJECT_RATE",
        );
    }
    rate.map(|per_s| ProjectRate {
        per_s,
        burst: burst.unwrap_or(2.0 * per_s).max(1.0),
    })
}
