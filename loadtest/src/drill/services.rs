//! The services as processes of their own, over a Kafka of three nodes: each of
//! them killed, and each of the machines under them.
//!
//! The edge keeps its spool over its kills, ClickHouse and the brokers keep
//! their data. One victim at a time; a broker may be killed before the one
//! before it is in sync again, which Kafka must survive as well: what was
//! acknowledged is on two of three.

use std::path::Path;

use sluice_engines::postgres::Durability;
use sluice_engines::{Kafka, Postgres};
use sluice_schema::postgres::MIGRATOR;
use sqlx::PgPool;
use tokio::task::block_in_place;

use super::{Options, Report, System};
use crate::service::{Launch, Service};
use crate::verify::ClickHouse;
use crate::{Error, workspace};

const BROKERS: usize = 3;
const EDGE: &str = "sluice-ingest";
const AGGREGATORS: [&str; 2] = ["first sluice-aggregator", "second sluice-aggregator"];
const BROKER: &str = "Kafka broker";
const CLICKHOUSE: &str = "ClickHouse";
const DATABASE: &str = "sluice";

/// Starts everything, drills it, and leaves nothing behind.
pub async fn drill(options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let dir = workspace::directory()?;
    say("starting Kafka, ClickHouse and Postgres");
    let mut services = Services::start(dir.path()).await?;
    let report = super::run(&mut services, dir.path(), options, say).await;
    services.stop()?;
    workspace::remove(dir)?;
    report
}

struct Services {
    edge: Service,
    aggregators: [Service; AGGREGATORS.len()],
    base_url: String,
    kafka: Kafka,
    /// The broker to be killed next.
    next_broker: usize,
    clickhouse: Option<sluice_engines::ClickHouse>,
    clickhouse_dir: std::path::PathBuf,
    _postgres: Postgres,
}

impl Services {
    async fn start(dir: &Path) -> Result<Self, Error> {
        let clickhouse_dir = dir.join("clickhouse");
        let kafka = block_in_place(|| Kafka::start(&dir.join("kafka"), BROKERS))?;
        let clickhouse = block_in_place(|| sluice_engines::ClickHouse::start(&clickhouse_dir))?;
        let postgres = block_in_place(|| Postgres::start(&dir.join("postgres"), Durability::Full))?;
        make_project(&postgres.url()).await?;
        let shared = vec![
            ("SLUICE_KAFKA_BROKERS", kafka.brokers()),
            ("SLUICE_POSTGRES_URL", postgres.url()),
        ];
        let aggregator = |name| Service::start(aggregator(dir, name, &shared, &clickhouse));
        let aggregators = [
            aggregator("aggregator-1").await?,
            aggregator("aggregator-2").await?,
        ];
        let listen = workspace::free_address()?.to_string();
        Ok(Self {
            edge: Service::start(edge(dir, &listen, shared.clone())).await?,
            aggregators,
            base_url: format!("http://{listen}"),
            kafka,
            next_broker: 0,
            clickhouse: Some(clickhouse),
            clickhouse_dir,
            _postgres: postgres,
        })
    }

    fn kill_broker(&mut self) -> Result<(), Error> {
        let broker = self.next_broker;
        self.next_broker = (broker + 1) % BROKERS;
        block_in_place(|| {
            self.kafka.kill_node(broker);
            self.kafka.start_node(broker)
        })?;
        Ok(())
    }

    fn kill_clickhouse(&mut self) -> Result<(), Error> {
        let started = block_in_place(|| {
            if let Some(running) = self.clickhouse.take() {
                running.kill();
            }
            sluice_engines::ClickHouse::start(&self.clickhouse_dir)
        });
        self.clickhouse = Some(started?);
        Ok(())
    }

    fn stop(self) -> Result<(), Error> {
        let stopped = [self.edge].into_iter().chain(self.aggregators);
        let stopped: Vec<_> = stopped.map(Service::stop).collect();
        // Its data goes with the directory.
        block_in_place(|| self.kafka.kill());
        stopped.into_iter().collect()
    }
}

/// The project of the recorded bodies, by the API's own means.
async fn make_project(postgres_url: &str) -> Result<(), Error> {
    let pool = PgPool::connect(postgres_url).await?;
    MIGRATOR.run(&pool).await?;
    sluice_api::demo::ensure(&pool, None)
        .await
        .map_err(|error| format!("cannot make the demo project: {error:?}"))?;
    pool.close().await;
    Ok(())
}

fn edge(dir: &Path, listen: &str, shared: Vec<(&'static str, String)>) -> Launch {
    let mut environment = shared;
    environment.push(("SLUICE_LISTEN", listen.to_owned()));
    environment.push(("SLUICE_SPOOL_DIR", dir.join("spool").display().to_string()));
    Launch {
        program: "sluice-ingest",
        environment,
        log: dir.join("ingest.log"),
    }
}

fn aggregator(
    dir: &Path,
    name: &str,
    shared: &[(&'static str, String)],
    clickhouse: &sluice_engines::ClickHouse,
) -> Launch {
    let mut environment = shared.to_vec();
    environment.extend([
        ("SLUICE_CLICKHOUSE_URL", clickhouse.url()),
        ("SLUICE_CLICKHOUSE_DATABASE", DATABASE.to_owned()),
        ("SLUICE_CLICKHOUSE_USER", clickhouse.user().to_owned()),
        (
            "SLUICE_CLICKHOUSE_PASSWORD",
            clickhouse.password().to_owned(),
        ),
        ("SLUICE_INSTANCE_ID", name.to_owned()),
    ]);
    Launch {
        program: "sluice-aggregator",
        environment,
        log: dir.join(format!("{name}.log")),
    }
}

impl System for Services {
    fn base_url(&self) -> String {
        self.base_url.clone()
    }

    fn victims(&self) -> Vec<&'static str> {
        vec![EDGE, AGGREGATORS[0], AGGREGATORS[1], BROKER, CLICKHOUSE]
    }

    async fn kill(&mut self, victim: &'static str) -> Result<(), Error> {
        match victim {
            EDGE => self.edge.kill_and_restart().await,
            BROKER => self.kill_broker(),
            CLICKHOUSE => self.kill_clickhouse(),
            _ => {
                let which = AGGREGATORS.iter().position(|name| *name == victim);
                self.aggregators[which.ok_or("no such victim")?]
                    .kill_and_restart()
                    .await
            }
        }
    }

    fn mend(&mut self) -> Result<u32, Error> {
        let mut mended = u32::from(self.edge.mend()?);
        for aggregator in &mut self.aggregators {
            mended += u32::from(aggregator.mend()?);
        }
        Ok(mended)
    }

    fn clickhouse(&self) -> Result<ClickHouse, Error> {
        let engine = self.clickhouse.as_ref().ok_or("ClickHouse is not back")?;
        Ok(ClickHouse {
            url: engine.url(),
            database: DATABASE.to_owned(),
            user: engine.user().to_owned(),
            password: engine.password().to_owned(),
        })
    }
}
