//! The standalone program under test, on a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::http::Client;
use crate::process::{self, Process};
use crate::verify::ClickHouse;
use crate::{Error, workspace};

/// The first start may fetch engines.
const START_WITHIN: Duration = Duration::from_mins(10);

/// A running `sluice`.
pub struct Standalone {
    process: Process,
    dir: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    base_url: String,
}

/// What `sluice` writes for scripts into its data directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Where the API is.
    pub base_url: String,
    /// The demo project.
    pub project_slug: String,
    /// Its ClickHouse.
    pub clickhouse: ClickHouse,
}

impl Credentials {
    /// Reads `credentials.json` of a data directory.
    pub fn read(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join("credentials.json");
        let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

impl Standalone {
    /// Starts it with its data in `dir`, and waits until it is ready.
    pub async fn start(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir)?;
        let [listen, admin] = [workspace::free_address()?, workspace::free_address()?];
        let mut this = Self {
            process: launch(dir, listen, admin)?,
            dir: dir.to_owned(),
            listen,
            admin,
            base_url: format!("http://{listen}"),
        };
        this.wait_until_ready().await?;
        Ok(this)
    }

    /// Where it listens.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its ClickHouse, as it says itself.
    pub fn clickhouse(&self) -> Result<ClickHouse, Error> {
        Ok(Credentials::read(&self.data_dir())?.clickhouse)
    }

    /// SIGKILL, then a start on the same directory and ports.
    pub async fn kill_and_restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = launch(&self.dir, self.listen, self.admin)?;
        self.wait_until_ready().await
    }

    /// SIGKILL to the ClickHouse that it runs; ready again when this returns.
    pub async fn kill_clickhouse(&mut self) -> Result<(), Error> {
        let servers = process::children_with(self.pid(), "ClickHouse");
        let server = *servers
            .first()
            .ok_or("sluice runs no ClickHouse of its own")?;
        process::signal(server, rustix::process::Signal::KILL);
        // It may see to its engine itself, or end and be started again.
        self.wait_until_ready().await
    }

    /// SIGTERM, and waits for an orderly end.
    pub fn stop(mut self) -> Result<(), Error> {
        if self.process.stop() {
            Ok(())
        } else {
            Err("sluice did not stop in time".into())
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let url = format!("http://{}/readyz", self.admin);
        let client = Client::default();
        let deadline = Instant::now() + START_WITHIN;
        let mut restarts = 0;
        while !client
            .get(&url)
            .await
            .is_ok_and(|answer| answer.status.is_success())
        {
            if self.process.has_ended() && restarts < 3 {
                restarts += 1;
                self.process = launch(&self.dir, self.listen, self.admin)?;
            } else if self.process.has_ended() || Instant::now() > deadline {
                return Err(
                    format!("sluice does not start:\n{}", workspace::tail(&self.log())).into(),
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("sluice.log")
    }
}

fn launch(dir: &Path, listen: SocketAddr, admin: SocketAddr) -> Result<Process, Error> {
    let mut command = Command::new(process::beside_us("sluice")?);
    command
        .env("SLUICE_DATA_DIR", dir.join("data"))
        .env("SLUICE_LISTEN", listen.to_string())
        .env("SLUICE_ADMIN_LISTEN", admin.to_string());
    Process::start(command, &dir.join("sluice.log"))
}
