//! The engines with everything in them that the services expect.

use std::error::Error;
use std::path::{Path, PathBuf};

use sluice_aggregator::config::ClickHouseConfig;
use sluice_api::demo::{self, DemoCredentials};
use sluice_engines::{ClickHouse, Postgres};
use sluice_schema::postgres::MIGRATOR;
use sluice_service::config::Secret;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::credentials::Credentials;
use crate::engines;

/// Sluice's database in ClickHouse.
pub(crate) const DATABASE: &str = "sluice";

/// Where ClickHouse's data is.
pub(crate) fn clickhouse_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("clickhouse")
}

/// Where PostgreSQL's data is.
pub(crate) fn postgres_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// Running engines, found or fetched.
pub(crate) struct Engines {
    pub(crate) clickhouse: ClickHouse,
    pub(crate) postgres: Postgres,
}

impl Engines {
    /// Starts both at the same time, each in its directory below `data_dir`.
    pub(crate) async fn start(data_dir: &Path) -> Result<Self, Box<dyn Error>> {
        let (clickhouse, postgres) = tokio::try_join!(
            engines::start(clickhouse_dir(data_dir)),
            engines::start(postgres_dir(data_dir)),
        )?;
        Ok(Self {
            clickhouse,
            postgres,
        })
    }

    /// How the services reach ClickHouse.
    pub(crate) fn clickhouse_config(&self) -> ClickHouseConfig {
        ClickHouseConfig {
            url: self.clickhouse.url(),
            user: self.clickhouse.user().to_owned(),
            password: Some(Secret::new(self.clickhouse.password())),
            database: DATABASE.to_owned(),
        }
    }
}

/// Brings both to this release's tables, and makes the demo project. Run at
/// every start: what is there stays.
pub(crate) async fn prepare(
    engines: &Engines,
    data_dir: &Path,
) -> Result<DemoCredentials, Box<dyn Error>> {
    let url = engines.postgres.url();
    let postgres = async {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect(&url)
            .await?;
        MIGRATOR.run(&pool).await?;
        demo_project(&pool, data_dir).await
    };
    let clickhouse = async {
        sluice_aggregator::migrate::run(&engines.clickhouse_config()).await?;
        Ok(())
    };
    let (demo, ()) = tokio::try_join!(postgres, clickhouse)?;
    Ok(demo)
}

async fn demo_project(pool: &PgPool, data_dir: &Path) -> Result<DemoCredentials, Box<dyn Error>> {
    let kept = Credentials::kept_key(data_dir);
    demo::ensure(pool, kept.as_deref())
        .await
        .map_err(|error| format!("the demo project cannot be made: {error:?}").into())
}
