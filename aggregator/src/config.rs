//! Configuration of the aggregator.

use clickhouse::Client;
use sluice_service::admin::AdminConfig;
use sluice_service::config::{ConfigReader, Secret};
use sluice_service::logging::{Format, LoggingConfig};
use sluice_service::postgres;

/// Where ClickHouse is and who we are there.
#[derive(Clone, Debug)]
pub struct ClickHouseConfig {
    /// `SLUICE_CLICKHOUSE_URL`: base address of the HTTP interface; `http://127.0.0.1:8123`.
    pub url: String,
    /// `SLUICE_CLICKHOUSE_USER`: `default`.
    pub user: String,
    /// `SLUICE_CLICKHOUSE_PASSWORD`, or a file with `_FILE`: none.
    pub password: Option<Secret>,
    /// `SLUICE_CLICKHOUSE_DATABASE`: created if it is not there; `sluice`.
    pub database: String,
}

impl ClickHouseConfig {
    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        Self {
            url: reader.value("SLUICE_CLICKHOUSE_URL", "http://127.0.0.1:8123".to_owned()),
            user: reader.value("SLUICE_CLICKHOUSE_USER", "default".to_owned()),
            password: reader.secret("SLUICE_CLICKHOUSE_PASSWORD"),
            database: reader.value("SLUICE_CLICKHOUSE_DATABASE", "sluice".to_owned()),
        }
    }

    /// A client of that database.
    pub fn client(&self) -> Client {
        let client = Client::default()
            .with_url(&self.url)
            .with_user(&self.user)
            .with_database(&self.database);
        match &self.password {
            Some(password) => client.with_password(password.expose()),
            None => client,
        }
    }
}

/// How the logs are reached.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `SLUICE_KAFKA_BROKERS`: comma-separated `host:port`; required.
    pub brokers: String,
    /// `SLUICE_KAFKA_PARTITIONS`: of each of the two topics of facts, if it has to be created; 12.
    pub partitions: u32,
    /// `SLUICE_INSTANCE_ID`: unlike that of any other aggregator, and the same
    /// after a restart; the host's name.
    pub instance_id: String,
}

impl KafkaConfig {
    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        Self {
            brokers: reader.required("SLUICE_KAFKA_BROKERS"),
            partitions: reader.value("SLUICE_KAFKA_PARTITIONS", 12),
            instance_id: reader.value("SLUICE_INSTANCE_ID", host_name()),
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// Configuration of the binary.
#[derive(Clone, Debug)]
pub struct Config {
    /// Format and filter of the log.
    pub logging: LoggingConfig,
    /// Where `/metrics` and `/readyz` are served.
    pub admin: AdminConfig,
    /// Where rows go.
    pub clickhouse: ClickHouseConfig,
    /// Where the logs are.
    pub kafka: KafkaConfig,
    /// `SLUICE_POSTGRES_URL`, or a file with `_FILE`: resolves project slugs; required.
    pub postgres_url: Secret,
}

impl Config {
    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        Self {
            logging: LoggingConfig::read(reader, Format::Json),
            admin: AdminConfig::read(reader, 9092),
            clickhouse: ClickHouseConfig::read(reader),
            kafka: KafkaConfig::read(reader),
            postgres_url: postgres::read_url(reader),
        }
    }
}
