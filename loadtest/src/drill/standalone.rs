//! The standalone process: killed whole, and its ClickHouse under it.

use super::{Options, Report, System};
use crate::standalone::Standalone;
use crate::verify::ClickHouse;
use crate::{Error, workspace};

const WHOLE: &str = "sluice";
const CLICKHOUSE: &str = "clickhouse";

/// Starts a standalone, drills it, and leaves nothing behind.
pub async fn drill(options: Options, say: impl Fn(&str)) -> Result<Report, Error> {
    let dir = workspace::directory()?;
    let mut standalone = Standalone::start(&dir.path().join("sluice")).await?;
    let report = super::run(&mut standalone, dir.path(), options, say).await;
    standalone.stop()?;
    workspace::remove(dir)?;
    report
}

impl System for Standalone {
    fn base_url(&self) -> String {
        self.base_url().to_owned()
    }

    fn victims(&self) -> Vec<&'static str> {
        vec![WHOLE, CLICKHOUSE]
    }

    async fn kill(&mut self, victim: &'static str) -> Result<(), Error> {
        match victim {
            CLICKHOUSE => self.kill_clickhouse().await,
            _ => self.kill_and_restart().await,
        }
    }

    fn mend(&mut self) -> Result<u32, Error> {
        Ok(u32::from(self.mend()?))
    }

    fn clickhouse(&self) -> Result<ClickHouse, Error> {
        self.clickhouse()
    }
}
