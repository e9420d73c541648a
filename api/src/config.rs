//! Configuration, one struct per concern.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use sluice_service::admin::AdminConfig;
use sluice_service::config::{ConfigReader, Secret};
use sluice_service::logging::{Format, LoggingConfig};
use sluice_service::postgres;
use sluice_service::proxies::TrustedProxies;
use sqlx::PgPool;

use crate::flags::FlagLimits;
use crate::state::Policy;
use crate::storage::StorageConfig;

const ADMIN_PORT: u16 = 9102;

/// All of `sluice-api`.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SLUICE_LISTEN`: address and port of the API. Default `127.0.0.1:8081`.
    pub listen: SocketAddr,
    /// The admin port. Default 9102.
    pub admin: AdminConfig,
    /// Logs.
    pub logging: LoggingConfig,
    /// What people decide.
    pub postgres: PostgresConfig,
    /// What devices reported.
    pub clickhouse: ClickHouseConfig,
    /// `SLUICE_TRUSTED_PROXIES`: whose `X-Forwarded-For` counts. Default none.
    pub proxies: TrustedProxies,
    /// Uploaded files.
    pub storage: StorageConfig,
    /// Choices that handlers follow.
    pub policy: Policy,
}

impl Config {
    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        Self {
            listen: reader.value("SLUICE_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8081))),
            admin: AdminConfig::read(reader, ADMIN_PORT),
            logging: LoggingConfig::read(reader, Format::Json),
            postgres: PostgresConfig::read(reader),
            clickhouse: ClickHouseConfig::read(reader),
            proxies: TrustedProxies::read(reader),
            storage: StorageConfig::read(reader),
            policy: read_policy(reader),
        }
    }
}

/// Reads the choices that handlers follow.
pub fn read_policy(reader: &mut ConfigReader) -> Policy {
    let registration = reader.value("SLUICE_REGISTRATION", Registration::Open);
    Policy {
        close_registration: registration == Registration::Closed,
        // Whether webhooks may be sent to addresses that are not public.
        allow_private_webhooks: reader.value("SLUICE_WEBHOOKS_ALLOW_PRIVATE", false),
        flag_limits: read_flag_limits(reader),
        ..Policy::default()
    }
}

/// `SLUICE_FLAGS_PROJECT_RATE`, `SLUICE_FLAGS_DEVICE_RATE` and
/// `SLUICE_FLAGS_ADDRESS_RATE`: requests a second to the flag routes for devices,
/// of a project, of one device and of one network address. Default 1,000, 20 and
/// half of a project's; at least 1.
fn read_flag_limits(reader: &mut ConfigReader) -> FlagLimits {
    let default = FlagLimits::default();
    let mut rate = |name, default| {
        let rate: f64 = reader.value(name, default);
        if !rate.is_finite() || rate < 1.0 {
            reader.problem(name, "must be at least 1");
        }
        rate
    };
    let project_per_s = rate("SLUICE_FLAGS_PROJECT_RATE", default.project_per_s);
    FlagLimits {
        project_per_s,
        device_per_s: rate("SLUICE_FLAGS_DEVICE_RATE", default.device_per_s),
        address_per_s: rate(
            "SLUICE_FLAGS_ADDRESS_RATE",
            (project_per_s / 2.0).clamp(1.0, f64::MAX),
        ),
    }
}

/// `SLUICE_REGISTRATION`: who may make an account without an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registration {
    /// Anybody; they get a project of their own. The default.
    Open,
    /// The first user alone.
    Closed,
}

impl FromStr for Registration {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "open" => Ok(Self::Open),
            "closed" => Ok(Self::Closed),
            _ => Err("expected open or closed"),
        }
    }
}

impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Closed => "closed",
        })
    }
}

/// How to reach Postgres.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// `SLUICE_POSTGRES_URL`: `postgres://user:password@host:port/database`. Required.
    pub url: Secret,
    /// `SLUICE_POSTGRES_MAX_CONNECTIONS`: at most so many at once, besides two that
    /// listen and one that finds out whether Postgres is there. Default 16.
    pub max_connections: u32,
}

impl PostgresConfig {
    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        Self {
            url: postgres::read_url(reader),
            max_connections: reader.value("SLUICE_POSTGRES_MAX_CONNECTIONS", 16),
        }
    }

    /// A pool that connects when it is first used.
    pub fn pool(&self) -> Result<PgPool, sqlx::Error> {
        postgres::pool(&self.url, self.max_connections)
    }
}

/// How to reach ClickHouse over HTTP.
#[derive(Clone, Debug)]
pub struct ClickHouseConfig {
    /// `SLUICE_CLICKHOUSE_URL`. Default `http://127.0.0.1:8123`.
    pub url: String,
    /// `SLUICE_CLICKHOUSE_DATABASE`. Default `sluice`.
    pub database: String,
    /// `SLUICE_CLICKHOUSE_USER`. Default `default`.
    pub user: String,
    /// `SLUICE_CLICKHOUSE_PASSWORD`. Empty by default.
    pub password: Secret,
}

impl ClickHouseConfig {
    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        let default_url = "http://127.0.0.1:8123".to_owned();
        Self {
            url: reader.value("SLUICE_CLICKHOUSE_URL", default_url),
            database: reader.value("SLUICE_CLICKHOUSE_DATABASE", "sluice".to_owned()),
            user: reader.value("SLUICE_CLICKHOUSE_USER", "default".to_owned()),
            password: reader
                .secret("SLUICE_CLICKHOUSE_PASSWORD")
                .unwrap_or_default(),
        }
    }

    /// A client; it connects when it is used.
    pub fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default()
            .with_url(&self.url)
            .with_database(&self.database)
            .with_user(&self.user)
            .with_password(self.password.expose())
    }
}

#[cfg(test)]
mod tests {
    use sluice_service::config::from_variables;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, sluice_service::config::Problems> {
        let variables = variables
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        from_variables(variables, Config::read)
    }

    #[test]
    fn only_postgres_has_no_default() {
        let problems = read(&[]).unwrap_err().to_string();
        assert!(problems.contains("SLUICE_POSTGRES_URL") && problems.contains("1 problem"));
        assert!(read(&[("SLUICE_POSTGRES_URL", "postgres://u:p@localhost/db")]).is_ok());
    }

    #[test]
    fn devices_may_be_held_to_other_rates() {
        let url = ("SLUICE_POSTGRES_URL", "postgres://u:p@localhost/db");
        let limits = |project| {
            let read = read(&[url, ("SLUICE_FLAGS_PROJECT_RATE", project)]);
            read.map(|config| config.policy.flag_limits)
        };
        let limits_of = limits("5e3").unwrap();
        let expected = FlagLimits {
            project_per_s: 5_000.0,
            device_per_s: 20.0,
            address_per_s: 2_500.0,
        };
        assert_eq!(limits_of, expected);
        let least = limits("1").unwrap();
        assert!(least.address_per_s >= 1.0);
        for refused in ["0", "0.5", "-1", "nan", "inf"] {
            let problems = limits(refused).unwrap_err().to_string();
            assert!(problems.contains("SLUICE_FLAGS_PROJECT_RATE"), "{problems}");
        }
    }

    #[test]
    fn a_wrong_address_is_found_before_anything_starts() {
        let problems = read(&[
            ("SLUICE_POSTGRES_URL", "db.example"),
            ("SLUICE_REGISTRATION", "maybe"),
        ]);
        let problems = problems.unwrap_err().to_string();
        assert!(
            problems.contains("postgres://") && problems.contains("open or closed"),
            "{problems}"
        );
    }
}
